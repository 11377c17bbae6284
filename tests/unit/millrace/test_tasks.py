"""Which interval a run carries: the params of who triggers it, the schedule's own day, or a refusal before anything is
written.
"""

import threading
import time
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from lake import publishing
from tests.cinema import Cinema, ticket

pytestmark = pytest.mark.usefixtures("airflow", "cinema")


@pytest.fixture(autouse=True)
def _settled_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_EVENTS_SECONDS", "0.3")


def checked(
    run_type: str = "manual", conf: dict | None = None, day: str = "2017-03-01", **params: Any
) -> dict[str, str]:
    """The interval of a run whose schedule says that day."""
    from millrace import tasks

    begins = datetime.fromisoformat(day).replace(tzinfo=UTC)
    run = SimpleNamespace(
        conf=conf, run_type=run_type, data_interval_start=begins, data_interval_end=begins + timedelta(days=1)
    )
    return tasks.check_interval({"start": None, "end": None, **params}, run)


def refusal(*arguments: Any, **params: Any) -> str:
    from airflow.sdk.exceptions import AirflowFailException

    with pytest.raises(AirflowFailException) as caught:
        checked(*arguments, **params)
    return str(caught.value)


def test_a_project_that_cannot_run_ends_the_run_at_its_first_task(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from millrace import scaffold

    root = scaffold.init(tmp_path / "unfit_shop").root
    (root / "contracts" / "gold" / "extra.py").write_text("extra = 1\n")
    monkeypatch.setenv("MILLRACE_PROJECT", str(root))
    assert "the project unfit_shop cannot run: " in refusal(start="2030-01-01", end="2030-01-02")


def test_who_triggers_a_run_says_which_days() -> None:
    assert checked(start="2017-03-01", end="2017-03-05") == {"start": "2017-03-01", "end": "2017-03-05"}


@pytest.mark.parametrize("run_type", ["scheduled", "backfill"])
def test_a_scheduled_run_and_a_backfill_carry_their_own_day(run_type: str) -> None:
    assert checked(run_type) == {"start": "2017-03-01", "end": "2017-03-02"}


def test_a_scheduled_run_may_lie_after_the_newest_file() -> None:
    assert checked("scheduled", day="2017-07-30") == {"start": "2017-07-30", "end": "2017-07-31"}


def test_params_win_over_the_schedule() -> None:
    assert checked("scheduled", day="2017-03-09", start="2017-03-01", end="2017-03-03") == {
        "start": "2017-03-01",
        "end": "2017-03-03",
    }


def test_a_manual_run_without_days_is_reported_how_to_give_them() -> None:
    assert (
        refusal() == 'start is missing. Give both as ISO dates, end exclusive, such as {"start": "2017-01-01", "end":'
        ' "2018-01-02"}'
    )


def test_a_run_that_data_started_carries_the_days_with_something_new(cinema: Cinema) -> None:
    from contracts import catalog
    from contracts.interval import Interval
    from etl import arrivals

    cinema.land("tickets", [ticket(3)], day="2017-03-08")
    assert checked("asset_triggered") == {"start": "2017-03-01", "end": "2017-03-09"}
    for table in catalog.tables("bronze"):
        publishing.open_or_create(table)
        arrivals.record(table, arrivals.landed(table, Interval.parse("2017-03-01", "2017-03-02")))
    assert checked("asset_triggered") == {"start": "2017-03-08", "end": "2017-03-09"}


def test_a_run_that_data_started_waits_for_a_file_that_still_grows(cinema: Cinema) -> None:
    path = cinema.land("tickets", [ticket(3)], day="2017-03-08")

    def grow() -> None:
        for _ in range(4):
            time.sleep(0.1)
            with path.open("ab") as file:
                file.write(b"more")
        grown.append(time.monotonic())

    grown: list[float] = []
    growing = threading.Thread(target=grow)
    growing.start()
    checked("asset_triggered")
    assert grown, "it was looked for before the file was whole"
    growing.join()


def test_a_run_that_data_started_is_skipped_where_an_earlier_one_has_carried_it_on(cinema: Cinema) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    from contracts import catalog
    from contracts.interval import Interval
    from etl import arrivals

    for table in catalog.tables("bronze"):
        publishing.open_or_create(table)
        arrivals.record(table, arrivals.landed(table, Interval.parse("2017-03-01", "2017-03-02")))
    with pytest.raises(AirflowSkipException, match="an earlier run has carried on everything that came"):
        checked("asset_triggered")


@pytest.mark.parametrize("run_type", ["manual", "scheduled"])
def test_one_of_two_days_is_not_enough(run_type: str) -> None:
    assert refusal(run_type, start="2017-03-01").startswith("end is missing")
    assert refusal(run_type, end="2017-03-01").startswith("start is missing")


@pytest.mark.parametrize(
    ("conf", "message"),
    [
        (
            {"strat": "2017-03-01"},
            "unknown param strat. This DAG takes start and end (ISO dates, end exclusive). Did you mean start?",
        ),
        (
            {"start": "2017-03-01", "colour": 1, "ends": 2},
            "unknown param colour, ends. This DAG takes start and end (ISO dates, end exclusive).",
        ),
    ],
)
def test_an_unknown_param_is_refused_also_where_the_others_are_right(conf: dict, message: str) -> None:
    assert refusal(conf=conf, start="2017-03-01", end="2017-03-02") == message


def test_days_outside_of_the_data_are_refused_with_those_that_there_are() -> None:
    message = refusal(start="2016-01-01", end="2016-01-02")
    assert message.startswith(
        "[2016-01-01, 2016-01-02) lies outside the data: files have landed for [2017-03-01, 2017-03-02)"
    )
    assert "Give start and end within [2017-03-01, 2017-06-01)" in message


def test_the_last_day_on_which_a_window_changes_is_still_inside() -> None:
    assert checked(start="2017-05-31", end="2017-06-01")["end"] == "2017-06-01"
    assert "lies outside the data" in refusal(start="2017-05-31", end="2017-06-02")
    assert "lies outside the data" in refusal(start="2017-06-01", end="2017-06-02")


def test_a_landing_zone_that_is_not_there_fails_the_task_for_good(cinema: Cinema) -> None:
    cinema.root.rename(cinema.root.with_name("elsewhere"))
    assert "there is no landing zone at" in refusal(start="2017-03-01", end="2017-03-02")


def test_an_interval_that_was_refused_leaves_no_table(cinema: Cinema) -> None:
    from lake import settings

    refusal(start="2017-03-02", end="2017-03-01")
    assert [*settings.lake().glob("*/*")] == []

"""Which failure of a task is tried again: the world outside, and never a verdict on input, params or code."""

import importlib
import logging
import pkgutil
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from contracts import project
from contracts.report import PUBLISHED, CheckResult, RowAccount, TableReport

pytestmark = pytest.mark.usefixtures("airflow", "home")


def outcome(error: Exception) -> type[BaseException]:
    from millrace import tasks

    @tasks.final
    def step() -> None:
        raise error

    with pytest.raises(Exception) as caught:  # noqa: PT011
        step()
    assert str(error) in str(caught.value)
    return caught.type


def ours() -> dict[str, type]:
    """Every error class that Millrace has, by name."""
    result = {}
    for package in project.ENGINE:
        for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}."):
            if not module.name.endswith("__main__") and "feast_repo" not in module.name:
                for name, value in vars(importlib.import_module(module.name)).items():
                    if isinstance(value, type) and issubclass(value, Exception) and value.__module__ == module.name:
                        result[name] = value
    return result


def test_what_another_try_may_mend_is_not_final_and_all_else_of_ours_is() -> None:
    from airflow.sdk.exceptions import AirflowFailException

    from millrace import tasks

    result = ours()
    assert set(tasks.TRANSIENT_ERRORS) <= set(result), "no name is misspelled"
    assert len(result) > 30
    for name, kind in result.items():
        error = kind.__new__(kind)
        error.args = ("why",)
        assert outcome(error) is (kind if name in tasks.TRANSIENT_ERRORS else AirflowFailException), name


def test_a_project_says_which_of_its_errors_may_pass() -> None:
    from airflow.sdk.exceptions import AirflowFailException

    from grocery.recommender.model import ModelError
    from grocery.recommender.tracking import TrackingError

    assert outcome(TrackingError("away")) is TrackingError
    assert outcome(ModelError("none")) is AirflowFailException


@pytest.mark.parametrize(
    "error",
    [TimeoutError("timed out"), ConnectionResetError("reset"), OSError(28, "No space left"), AttributeError("x")],
)
def test_what_is_not_ours_is_tried_again(error: Exception) -> None:
    assert outcome(error) is type(error)


def test_every_task_has_retries(dag: Any, training_dag: Any, recommender_dag: Any, scores_dag: Any) -> None:
    for task in [*dag.tasks, *training_dag.tasks, *recommender_dag.tasks, *scores_dag.tasks]:
        assert task.retries == 2, task.task_id
        assert task.retry_delay <= timedelta(seconds=30), task.task_id


def test_pages_that_cannot_be_rendered_skip_the_task(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from airflow.sdk.exceptions import AirflowSkipException

    from expectations import docs
    from millrace import tasks

    def fail() -> None:
        raise OSError(28, "No space left on device", str(docs.folder() / "site"))

    monkeypatch.setattr(docs, "render", fail)
    with pytest.raises(AirflowSkipException, match="the Data Docs were not rendered"):
        tasks.render_docs()
    assert [record.levelno for record in caplog.records if record.name == "millrace.tasks"] == [logging.WARNING]


def test_warnings_are_logged_as_such_and_stand_in_the_asset_event(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from millrace import pipeline, tasks

    checks = (
        CheckResult("is_positive", "seats", "warning", False, "seats is 0", 8869),
        CheckResult("x", "x", "warning", True, "fine", 0),
    )
    report = TableReport("silver.tickets", PUBLISHED, 1, RowAccount(2, 2, 0, 0), checks=checks)
    monkeypatch.setattr(pipeline, "run_table", lambda *_: report)
    monkeypatch.setattr(tasks, "parent", lambda _: None)
    events = {tasks.asset("silver.tickets"): SimpleNamespace(extra={})}
    context = {"dag_run": SimpleNamespace(run_id="run"), "ti": None}
    tasks.run_table("silver.tickets", {"start": "2017-03-01", "end": "2017-03-02"}, context, events)
    assert [(record.levelno, record.getMessage()) for record in caplog.records if record.name == "millrace.tasks"] == [
        (logging.WARNING, "silver.tickets: seats is 0: 8,869 rows")
    ]
    (event,) = events.values()
    assert event.extra["warnings"] == ["seats is 0: 8,869 rows"]


@pytest.mark.parametrize(
    ("tries", "age", "kept"),
    [(2, 5, True), (1, 5, False), (2, -5, False)],
    ids=["second try", "first try", "older one"],
)
def test_a_second_try_takes_the_training_set_that_the_first_one_kept(
    monkeypatch: pytest.MonkeyPatch, tries: int, age: int, kept: bool
) -> None:
    from lake import manifest
    from millrace import tasks

    begun = datetime(2026, 1, 1, tzinfo=UTC)
    made = SimpleNamespace(created_at=(begun + timedelta(seconds=age)).isoformat(timespec="seconds"))
    monkeypatch.setattr(manifest, "names", lambda: ["few"])
    monkeypatch.setattr(manifest, "read", lambda _: made)
    run, task = SimpleNamespace(start_date=begun), SimpleNamespace(try_number=tries)
    result = tasks._created_by_an_earlier_try("few", run, task)
    assert (result is made) is kept

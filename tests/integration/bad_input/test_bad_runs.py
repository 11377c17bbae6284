"""Runs that are asked for the impossible, meet a lake that is not as they left it, or are killed: a sentence that
helps, and no row lost or doubled.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from contracts.interval import Interval, IntervalError
from contracts.report import AccountError, RowAccount
from etl import stage
from lake import settings
from lake.delta import LakeError
from lake.publishing import PublishError
from lineage import emit
from millrace.pipeline import RunError
from tests.cinema import COLUMNS, Cinema, ticket
from tests.landing import rows, versions

DAY, NEXT, END = "2017-03-01", "2017-03-02", "2017-03-03"
MORNING = "2017-03-02 10:00:00"
GOLD = ("gold.guest_activity", "gold.guest_movie", "gold.movie_demand")
VOLATILE = {"_loaded_at", "run_id", "quarantined_at"}


def land_second_day(cinema: Cinema) -> None:
    """Something for every account: good rows, a cell that does not fit, a negative number of seats, a row twice, a
    correction of the first day.
    """
    good = [ticket(booking, movie=booking % 3 + 1, at=MORNING) for booking in (5, 6)]
    cinema.land("tickets", [*good, good[0], ticket(7, at=MORNING, seats=-1), ticket(1, seats=4)], NEXT)
    header = ",".join(COLUMNS["tickets"].names)
    cinema.path("tickets", NEXT, "more", ".csv").write_text(
        f"{header}\n1,10,8,1,two,3.0,0.5,10,{MORNING}\n1,10,9,1,2,3.0,0.5,10,{MORNING}\n"
    )


def everything() -> dict[str, list[dict[str, Any]]]:
    """All rows of all tables, quarantine included, without what differs from run to run."""
    return {
        name: [{k: v for k, v in row.items() if k not in VOLATILE} for row in rows(name)] for name in sorted(versions())
    }


@pytest.fixture(scope="module")
def undisturbed(
    published_cinema_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, list[dict[str, Any]]]:
    """The tables after both days, when nothing goes wrong."""
    from millrace import pipeline

    path = tmp_path_factory.mktemp("undisturbed")
    shutil.copytree(published_cinema_home, path, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MILLRACE_HOME", str(path))
        land_second_day(Cinema(path / "landing"))
        pipeline.run_all(DAY, END, "second")
        found = everything()
    assert [row["booking_id"] for row in found["silver.tickets"]] == [1, 2, 5, 6, 9]
    assert sorted(row["layer"] for row in found["quarantine.tickets"]) == ["bronze", "silver"]
    return found


# --- what is asked for


@pytest.mark.parametrize(
    ("start", "end", "told"),
    [
        (
            NEXT,
            DAY,
            (
                "end 2017-03-01 is not after start 2017-03-02. end is exclusive: one day is start=2017-03-02,"
                " end=2017-03-03"
            ),
        ),
        (DAY, DAY, "end 2017-03-01 is not after start 2017-03-01. end is exclusive"),
        ("first of May", END, "start is 'first of May', which is not an ISO date such as 2017-01-31"),
        ("2017-02-30", END, "start is '2017-02-30', which is not an ISO date"),
        ("01.03.2017", END, "start is '01.03.2017', which is not an ISO date"),
        (DAY, "2017-03-03T00:00:00", "end is '2017-03-03T00:00:00', which is not an ISO date"),
        (DAY, 20170303, "end is 20170303, which is not an ISO date"),
        (None, END, "start is missing. Give both as ISO dates, end exclusive"),
        (DAY, "", "end is missing. Give both as ISO dates, end exclusive"),
        (
            "2016-01-01",
            "2016-02-01",
            "[2016-01-01, 2016-02-01) lies outside the data: files have landed for [2017-03-01, 2017-03-02)",
        ),
        ("2017-02-28", NEXT, "[2017-02-28, 2017-03-02) lies outside the data"),
        ("2030-01-01", "2030-01-02", "Give start and end within [2017-03-01, 2017-06-01)"),
        (DAY, "2030-01-01", "Give start and end within [2017-03-01, 2017-06-01)"),
        ("9999-12-30", "9999-12-31", "lies outside the data"),
    ],
)
def test_an_interval_that_makes_no_sense(
    published_cinema: Cinema, refused: Callable, start: Any, end: Any, told: str
) -> None:
    refused(IntervalError, told, start=start, end=end)


@pytest.mark.parametrize(("start", "end"), [(NEXT, DAY), ("2016-01-01", "2016-02-01"), ("2030-01-01", "2030-01-02")])
def test_an_interval_that_makes_no_sense_builds_nothing_in_a_new_lake(
    cinema: Cinema, run: Callable, start: str, end: str
) -> None:
    with pytest.raises(IntervalError):
        run(start, end)
    assert versions() == {}


def test_the_command_line_tells_an_error_in_one_line(published_cinema: Cinema) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "millrace", "run", "--start", NEXT, "--end", DAY],
        cwd=settings.CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "IntervalError: end 2017-03-01 is not after start 2017-03-02. end is exclusive: one day is start=2017-03-02,"
        " end=2017-03-03"
    ]


def dag_run(run_type: str = "manual", conf: dict | None = None, start: str = DAY, end: str = NEXT) -> SimpleNamespace:
    """The fields that a task sees of its DAG run."""
    days = {"data_interval_start": datetime.fromisoformat(start), "data_interval_end": datetime.fromisoformat(end)}
    return SimpleNamespace(conf=conf, run_type=run_type, **days)


@pytest.fixture
def check_interval(published_cinema: Cinema, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """The first task of the DAG."""
    monkeypatch.setenv("AIRFLOW_HOME", str(published_cinema.root.parent / "airflow"))
    from millrace.tasks import check_interval

    return check_interval


@pytest.mark.parametrize(
    ("conf", "told"),
    [
        (
            {"strat": DAY},
            "unknown param strat. This DAG takes start and end (ISO dates, end exclusive). Did you mean start?",
        ),
        ({"End": END, "start": DAY}, "Did you mean end?"),
        ({"start": DAY, "end": END, "colour": "red"}, "unknown param colour. This DAG takes start and end"),
    ],
)
def test_a_param_that_the_dag_does_not_take_is_refused(check_interval: Callable, conf: dict, told: str) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    with pytest.raises(AirflowFailException) as caught:
        check_interval(conf, dag_run(conf=conf))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("params", "told"),
    [({}, "start is missing"), ({"start": DAY}, "end is missing"), ({"start": END, "end": DAY}, "is not after start")],
)
def test_a_manual_run_needs_a_whole_interval(check_interval: Callable, params: dict, told: str) -> None:
    from airflow.sdk.exceptions import AirflowFailException

    with pytest.raises(AirflowFailException) as caught:
        check_interval(params, dag_run(conf=params))
    assert told in str(caught.value)


def test_a_scheduled_run_takes_its_interval_from_the_schedule_even_after_the_data(check_interval: Callable) -> None:
    assert check_interval({"start": None, "end": None}, dag_run("scheduled", start="2018-05-01", end="2018-05-02")) == {
        "start": "2018-05-01",
        "end": "2018-05-02",
    }


# --- a lake that is not as it was left


def commit(qualified: str, version: int) -> Path:
    return settings.table_path(qualified) / "_delta_log" / f"{version:020}.json"


def test_a_lake_of_a_newer_format_is_refused(published_cinema: Cinema, refused: Callable) -> None:
    (settings.lake() / "_millrace.json").write_text('{"format": 99}')
    refused(LakeError, "has format 99, and this Millrace reads up to 1", "Update Millrace", "Nothing was written")


@pytest.mark.parametrize("text", ["", "[1]", "{}"])
def test_a_lake_whose_format_cannot_be_read_is_refused(published_cinema: Cinema, refused: Callable, text: str) -> None:
    (settings.lake() / "_millrace.json").write_text(text)
    refused(LakeError, "_millrace.json does not name the lake's format")


@pytest.mark.parametrize(
    ("protocol", "told"),
    [
        ({"minReaderVersion": 1, "minWriterVersion": 99}, "the table asks for reader version 1 and writer version 99"),
        ({"minReaderVersion": 99, "minWriterVersion": 99}, "Something newer wrote it: update Millrace"),
        (
            {
                "minReaderVersion": 3,
                "minWriterVersion": 7,
                "readerFeatures": ["tomorrow"],
                "writerFeatures": ["tomorrow"],
            },
            "Something newer wrote it: update Millrace",
        ),
        (
            {"minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["tomorrow"]},
            "the table asks for the features tomorrow",
        ),
        (
            {
                "minReaderVersion": 3,
                "minWriterVersion": 7,
                "readerFeatures": ["deletionVectors"],
                "writerFeatures": ["deletionVectors"],
            },
            "the features deletionVectors",
        ),
    ],
)
def test_a_table_of_a_newer_delta_protocol_is_refused(
    published_cinema: Cinema, run_tickets: Callable, untouched: Callable, protocol: dict, told: str
) -> None:
    published_cinema.land("tickets", [ticket(5, at=MORNING, seats=-1)], NEXT)
    commit("silver.tickets", 2).write_text(json.dumps({"protocol": protocol}))
    with untouched("silver.tickets", "quarantine.tickets", *GOLD), pytest.raises(LakeError) as caught:
        run_tickets(DAY, END)
    assert str(caught.value).startswith("silver.tickets: ")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("table", "content", "state"),
    [
        ("bronze.tickets", b"", "empty"),
        ("silver.tickets", b"", "empty"),
        ("gold.guest_activity", b"", "empty"),
        ("silver.tickets", b'{"commitInfo": {"times', "cut short"),
        ("silver.tickets", bytes(100), "cut short"),
    ],
)
def test_a_torn_log_is_refused_until_the_torn_commit_is_removed(
    published_cinema: Cinema, run_tickets: Callable, untouched: Callable, table: str, content: bytes, state: str
) -> None:
    land_second_day(published_cinema)
    torn = commit(table, 2)
    torn.write_bytes(content)
    with untouched(table), pytest.raises(LakeError) as caught:
        run_tickets(DAY, END, through=table)
    assert str(caught.value).startswith(
        f"{table}: the newest commit {torn.name} is {state}, as after a power cut. Remove that file"
    )
    torn.unlink()
    assert run_tickets(DAY, END, through=table)[table].status == "published"


@pytest.mark.parametrize("table", ["bronze.tickets", "silver.tickets", "gold.guest_activity"])
def test_a_published_table_with_another_schema_is_refused(
    published_cinema: Cinema, run: Callable, untouched: Callable, table: str
) -> None:
    land_second_day(published_cinema)
    path = str(settings.table_path(table))
    other = DeltaTable(path).to_pyarrow_table()
    write_deltalake(
        path,
        other.append_column("colour", pa.array(["red"] * other.num_rows)),
        mode="overwrite",
        schema_mode="overwrite",
    )
    with untouched(table), pytest.raises(PublishError) as caught:
        run(DAY, END)
    assert (
        f"{table}: the published table and contracts/{table.replace('.', '/')}.py differ in colour string (which the"
        f" contract lacks). Remove {path}" in str(caught.value)
    )


@pytest.mark.parametrize("table", ["bronze.tickets", "silver.tickets"])
def test_a_data_file_that_is_gone_is_told_in_a_sentence(published_cinema: Cinema, run: Callable, table: str) -> None:
    """The keys that come in lie around those of the file, so that silver looks for twins in it."""
    published_cinema.land("tickets", [ticket(1, movie=2, at=MORNING), ticket(5, at=MORNING)], NEXT)
    for file in settings.table_path(table).glob("*.parquet"):
        file.unlink()
    before = versions()[table]
    with pytest.raises(RunError) as caught:
        run(DAY, END)
    assert str(caught.value).startswith(f"{table}: the run failed (")
    assert versions()[table] == before


def losing(monkeypatch: pytest.MonkeyPatch, where: object, name: str, table: str, files: str = "*.parquet") -> None:
    """Once `name` has done its work, these files of the table are removed."""
    does = getattr(where, name)

    def and_lose(*arguments: object) -> object:
        result = does(*arguments)
        for file in settings.table_path(table).glob(files):
            file.unlink()
        return result

    monkeypatch.setattr(where, name, and_lose)


@pytest.mark.parametrize("step", ["_incoming_and_cleaned", "_published_on_other_days", "stage"])
def test_a_data_file_that_goes_away_while_it_is_read_is_held(
    published_cinema: Cinema, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Sail would read it as if it were empty, and say nothing: the file of the input is removed, and that of the table
    itself is away for a while.
    """
    from etl import stage
    from millrace import pipeline

    published_cinema.land(
        "tickets",
        [ticket(5, movie=2, at=MORNING), ticket(1, at=MORNING), ticket(6, at=MORNING, seats=-1)],
        NEXT,
    )
    days = Interval.parse(DAY, END)
    pipeline.run_table("bronze.tickets", days, "second")
    mine = next(settings.table_path("silver.tickets").glob("*.parquet"))
    losing(monkeypatch, stage, step, "bronze.tickets")
    losing(monkeypatch, stage, "_published_on_other_days", "silver.tickets")
    away = mine.with_suffix(".away")
    away.hardlink_to(mine)

    def back_again(_: object) -> bool:
        away.rename(mine)
        return True

    monkeypatch.setattr(pipeline, "_changes", back_again)
    assert pipeline.run_table("silver.tickets", days, "second").account == RowAccount(
        rows_in=3, published=1, quarantined=1, duplicates=1
    )
    assert [row["booking_id"] for row in rows("silver.tickets")] == [1, 2, 5]
    assert [row["layer"] for row in rows("quarantine.tickets")] == ["silver"]


def test_a_staged_file_that_goes_away_is_missed_before_the_commit(
    published_cinema: Cinema, monkeypatch: pytest.MonkeyPatch
) -> None:
    from etl.transforms import StageError
    from expectations import audit
    from millrace import pipeline

    published_cinema.land("tickets", [ticket(5, movie=2, at=MORNING), ticket(6, at=MORNING)], NEXT)
    before = versions()
    losing(monkeypatch, audit, "audit", "bronze.tickets", "_stage/**/*.parquet")
    with pytest.raises(
        StageError, match=r"bronze\.tickets: 2 rows were staged, and 0 are there. Nothing was published"
    ):
        pipeline.run_table("bronze.tickets", Interval.parse(DAY, END), "second")
    assert versions() == before


def test_a_table_that_was_removed_is_rebuilt_and_what_follows_sees_it(
    published_cinema: Cinema, run: Callable, undisturbed: dict
) -> None:
    land_second_day(published_cinema)
    run(DAY, END)
    for name in ("bronze.tickets", "silver.tickets"):
        shutil.rmtree(settings.table_path(name))
    run(DAY, END)
    assert everything() == undisturbed


@pytest.mark.parametrize("end", [NEXT, END])
def test_a_table_that_was_made_anew_is_not_mistaken_for_the_old_one(
    published_cinema: Cinema, run: Callable, end: str
) -> None:
    published_cinema.land("tickets", [ticket(5, at=MORNING)], NEXT)
    run(DAY, end)
    shutil.rmtree(settings.table_path("bronze.tickets"))
    published_cinema.land("tickets", [ticket(3)])
    published_cinema.path("tickets", NEXT).unlink()
    run(DAY, NEXT)
    assert [row["booking_id"] for row in rows("silver.tickets")] == [3]
    assert [row["guest_id"] for row in rows("gold.guest_activity", where="event_timestamp = '2017-03-02'")] == [1]


@pytest.mark.parametrize(
    ("moment", "told"),
    [
        ("stage", "the table moved from version 1 to 2 while this run worked"),
        ("publish", "another writer committed at the same time"),
    ],
)
def test_a_foreign_commit_during_the_run_is_not_overwritten(
    published_cinema: Cinema, run: Callable, monkeypatch: pytest.MonkeyPatch, moment: str, told: str
) -> None:
    from etl import stage
    from lake import publishing

    module, name = (stage, "stage") if moment == "stage" else (publishing, "_files_to_remove")
    whole, path = getattr(module, name), str(settings.table_path("silver.tickets"))

    def meanwhile(*arguments: Any) -> Any:
        result = whole(*arguments)
        if "silver.tickets" in (
            getattr(argument, "qualified", None) or getattr(getattr(argument, "table", None), "qualified", None)
            for argument in arguments
        ):
            write_deltalake(path, DeltaTable(path).to_pyarrow_table(), mode="overwrite")
        return result

    monkeypatch.setattr(module, name, meanwhile)
    published_cinema.land("tickets", [ticket(5, at=MORNING)], NEXT)
    with pytest.raises(PublishError) as caught:
        run(DAY, END)
    assert f"silver.tickets: {told}" in str(caught.value)
    assert versions()["silver.tickets"] == 2
    assert [row["booking_id"] for row in rows("silver.tickets")] == [1, 2]


# --- rows that a transform loses or makes up


@pytest.mark.parametrize(
    ("defect", "given"),
    [
        (lambda frame: frame.filter("booking_id <> 5"), 4),
        (lambda frame: frame.union(frame.filter("booking_id = 6")), 7),
        (lambda frame: frame.limit(0), 0),
    ],
    ids=["loses a row and its twin", "doubles a row", "loses all"],
)
def test_a_transform_that_loses_or_doubles_rows_publishes_nothing(
    published_cinema: Cinema,
    run_tickets: Callable,
    untouched: Callable,
    monkeypatch: pytest.MonkeyPatch,
    defect: Callable,
    given: int,
) -> None:
    whole = stage.clean
    monkeypatch.setattr(
        stage,
        "clean",
        lambda table, *frames: (
            defect(whole(table, *frames)) if table.qualified == "silver.tickets" else whole(table, *frames)
        ),
    )
    published_cinema.land("tickets", [ticket(booking, at=MORNING) for booking in (5, 5, 6, 7, 8, 9)], NEXT)
    with (
        untouched("silver.tickets", *GOLD),
        pytest.raises(
            AccountError, match=rf"silver\.tickets: 6 rows in, but {given} to publish .* Nothing was published"
        ),
    ):
        run_tickets(DAY, END)
    assert "quarantine.tickets" not in versions()


def test_rows_that_are_neither_published_nor_quarantined_stop_the_run(
    published_cinema: Cinema, run_tickets: Callable, untouched: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    from etl.staged import Staged

    whole = Staged.keep
    monkeypatch.setattr(Staged, "keep", lambda staged, good: whole(staged, good.filter("booking_id <> 5")))
    published_cinema.land("tickets", [ticket(5, at=MORNING), ticket(6, at=MORNING, seats=-1)], NEXT)
    with (
        untouched("silver.tickets", *GOLD),
        pytest.raises(AccountError, match=r"silver\.tickets: 2 rows in, but 0 to publish \+ 1 quarantined"),
    ):
        run_tickets(DAY, END)


# --- killed, and no room


def broken(case: tuple[str, str], published_cinema_home: Path, home: Path) -> str:
    """A home with the second day landed, as an argument of `breaking.py`."""
    shutil.copytree(published_cinema_home, home)
    land_second_day(Cinema(home / "landing"))
    return ",".join((str(home), *case))


def run_broken(
    cases: list[tuple[str, str]], published_cinema_home: Path, folder: Path
) -> dict[tuple[str, str], tuple[Path, int, str]]:
    """Home, exit code and output of each case."""
    homes = {case: folder / str(number) for number, case in enumerate(cases)}
    arguments = [broken(case, published_cinema_home, home) for case, home in homes.items()]
    environment = {**os.environ, "PYTHONPATH": str(settings.CHECKOUT)}
    script = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("breaking.py")), *arguments]
    done = subprocess.run(script, cwd=settings.CHECKOUT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    return {case: (home, *result) for (case, home), result in zip(homes.items(), results, strict=True)}


KILLED = [
    ("moved", "bronze.tickets"),
    ("committed", "bronze.tickets"),
    ("staged", "silver.tickets"),
    ("quarantined", "silver.tickets"),
    ("moved", "silver.tickets"),
    ("committed", "silver.tickets"),
    ("moved", "gold.guest_activity"),
    ("published", "all"),
]


NO_ROOM = [
    ("no room to stage", "bronze.tickets"),
    ("no room to quarantine", "bronze.tickets"),
    ("no room to stage", "silver.tickets"),
    ("no room to commit", "silver.tickets"),
]


AT_ONCE = ("at once", "all")


@pytest.fixture(scope="module")
def broken_runs(published_cinema_home: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """All of them, one after the other, in one process: its imports are the larger part of the time."""
    return run_broken([*KILLED, *NO_ROOM, AT_ONCE], published_cinema_home, tmp_path_factory.mktemp("broken"))


@pytest.mark.parametrize("case", KILLED, ids=" ".join)
def test_a_run_after_a_killed_one_ends_in_the_same_tables(
    broken_runs: dict,
    undisturbed: dict,
    home: Path,
    run: Callable,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[str, str],
) -> None:
    path, code, told = broken_runs[case]
    assert code == -signal.SIGKILL, told
    monkeypatch.setenv("MILLRACE_HOME", str(path))
    run(DAY, END)
    assert everything() == undisturbed
    assert {report.status for report in run(DAY, END).values()} == {"unchanged"}


@pytest.mark.parametrize("case", NO_ROOM, ids=" ".join)
def test_a_full_disk_is_told_and_the_published_table_stays(
    broken_runs: dict,
    published_cinema_home: Path,
    undisturbed: dict,
    home: Path,
    run: Callable,
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[str, str],
) -> None:
    (path, code, told), table = broken_runs[case], case[1]
    assert code == 1, told
    assert f"{table}: the run failed" in told
    assert f"See that {path / 'lake'} has room and can be written, then run the interval again" in told
    assert "Traceback" not in told
    monkeypatch.setenv("MILLRACE_HOME", str(published_cinema_home))
    before = rows(table)
    monkeypatch.setenv("MILLRACE_HOME", str(path))
    assert rows(table) == before
    run(DAY, END)
    assert everything() == undisturbed


# --- two at once


def test_two_processes_at_once_publish_what_one_would(
    broken_runs: dict, undisturbed: dict, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, code, told = broken_runs[AT_ONCE]
    assert code == 0, told
    monkeypatch.setenv("MILLRACE_HOME", str(path))
    assert everything() == undisturbed
    assert versions()["silver.tickets"] == 2


# --- a lineage server that does not answer


def test_a_dead_lineage_server_does_not_stop_a_run(
    published_cinema: Cinema, run: Callable, undisturbed: dict, monkeypatch: pytest.MonkeyPatch
) -> None:
    land_second_day(published_cinema)
    file = emit.path_of()
    lines = len(file.read_text().splitlines())
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:9")
    run(DAY, END)
    assert everything() == undisturbed
    assert len(file.read_text().splitlines()) > lines

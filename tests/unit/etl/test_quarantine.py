"""Rows in quarantine are replaced together with the days or files that they belong to, never doubled."""

import json
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from contracts import catalog
from contracts.interval import Interval
from contracts.model import Table
from etl import engine, quarantine
from etl.planning import Plan
from etl.sources.landing import Rejected
from etl.staged import Staged
from tests import cinema
from tests.landing import rows
from tests.unit.etl.visits import SCHEMA, VISITS, of, visit

pytestmark = pytest.mark.usefixtures("home")
FIRST, SECOND = of("2017-03-01", "2017-03-02"), of("2017-03-02", "2017-03-03")
BRONZE, SNAPSHOT = cinema.table("bronze.tickets"), cinema.table("silver.movies")


def staged(
    table: Table, *days: Interval, whole: bool = False, rejected: tuple[Rejected, ...] = (), files: tuple[str, ...] = ()
) -> Staged:
    """A stage that speaks for these days or files."""
    plan = Plan(table, FIRST, None, {}, days=days, whole=whole)
    return Staged(plan, Path("nowhere"), 0, 0, 0, rejected=[*rejected], files=[*files])


def bad(*visits: dict[str, Any], reason: str = "weight is below 0") -> Any:
    """What an audit hands over: the table's columns and the reasons."""
    schema = SCHEMA.append(pa.field("reasons", pa.list_(pa.string())))
    return engine.session().createDataFrame(
        pa.Table.from_pylist([{**visit, "reasons": [reason]} for visit in visits], schema=schema)
    )


def cell(file: str, row: str = '{"seats": "two"}') -> Rejected:
    return Rejected(file, date(2017, 3, 1), row, ("seats is 'two', not a bigint",))


def quarantined(name: str = "visits") -> list[tuple]:
    return [
        (row["layer"], str(row["day"]), json.loads(row["row"]).get("visit_id"), row["run_id"])
        for row in rows(f"quarantine.{name}", order="layer, day, row")
    ]


def test_no_bad_row_makes_no_table() -> None:
    assert quarantine.replace(staged(VISITS, FIRST), None, "run") == (None, 0)


def test_a_row_is_kept_whole_with_its_reasons_and_its_day() -> None:
    hostile = visit(1, "2017-03-01 23:59:59.999999", visitor='O\'Brien "ÿ"\n', paid=None)
    assert quarantine.replace(staged(VISITS, FIRST), bad(hostile), "run-1") == (0, 1)
    (row,) = rows("quarantine.visits")
    assert (row["layer"], row["day"], row["reasons"], row["run_id"]) == (
        "silver",
        date(2017, 3, 1),
        ["weight is below 0"],
        "run-1",
    )
    assert datetime.fromisoformat(json.loads(row["row"]).pop("visited_at")) == hostile["visited_at"]
    assert {name: json.loads(row["row"])[name] for name in ("visit_id", "visitor", "paid", "weight")} == {
        "visit_id": 1,
        "visitor": 'O\'Brien "ÿ"\n',
        "paid": None,
        "weight": 0.5,
    }


def test_the_same_days_again_replace_what_was_held_for_them() -> None:
    for run in ("first", "second"):
        assert quarantine.replace(staged(VISITS, FIRST), bad(visit(1), visit(2)), run)[1] == 2
    assert quarantined() == [("silver", "2017-03-01", 1, "second"), ("silver", "2017-03-01", 2, "second")]


def test_other_days_are_left_alone() -> None:
    quarantine.replace(staged(VISITS, FIRST), bad(visit(1)), "first")
    quarantine.replace(staged(VISITS, SECOND), bad(visit(2, "2017-03-02")), "second")
    assert quarantined() == [("silver", "2017-03-01", 1, "first"), ("silver", "2017-03-02", 2, "second")]


def test_days_that_are_good_now_leave_the_quarantine() -> None:
    quarantine.replace(staged(VISITS, FIRST, SECOND), bad(visit(1), visit(2, "2017-03-02")), "first")
    version, count = quarantine.replace(staged(VISITS, SECOND), None, "second")
    assert (version, count) == (1, 0)
    assert quarantined() == [("silver", "2017-03-01", 1, "first")]


def test_good_days_that_were_never_bad_make_no_new_version() -> None:
    quarantine.replace(staged(VISITS, FIRST), bad(visit(1)), "first")
    assert quarantine.replace(staged(VISITS, SECOND), None, "second") == (0, 0)


def test_a_whole_table_replaces_its_own_layer_and_no_other() -> None:
    quarantine.replace(staged(BRONZE, files=("tickets/a",), rejected=(cell("tickets/a"),)), None, "first")
    silver = catalog.table("silver.tickets")
    for run in ("second", "third"):
        quarantine.replace(
            staged(silver, whole=True),
            bad(visit(1), visit(2, "2017-03-02")).withColumnRenamed("visited_at", "sold_at"),
            run,
        )
    assert [(layer, run) for layer, _, _, run in quarantined("tickets")] == [
        ("bronze", "first"),
        ("silver", "third"),
        ("silver", "third"),
    ]


def test_a_snapshot_without_time_is_replaced_whole() -> None:
    for run in ("first", "second"):
        quarantine.replace(staged(SNAPSHOT), bad(visit(1)), run)
    assert quarantined("movies") == [("silver", "None", 1, "second")]


def test_a_file_replaces_what_was_held_for_it_under_the_day_it_landed() -> None:
    names = ("tickets/2017-03-01/o'clock.csv", "tickets/2017-03-01/b.csv")
    quarantine.replace(staged(BRONZE, files=names, rejected=(*map(cell, names), cell(names[0], "{}"))), None, "first")
    quarantine.replace(staged(BRONZE, files=names[:1], rejected=(cell(names[0]),)), None, "second")
    result = rows("quarantine.tickets", order="run_id")
    assert [(row["file"], row["run_id"], str(row["day"])) for row in result] == [
        (names[1], "first", "2017-03-01"),
        (names[0], "second", "2017-03-01"),
    ]
    quarantine.replace(staged(BRONZE, files=names), None, "third")
    assert rows("quarantine.tickets") == []

"""A run touches only what it must: idle days, rows that come twice, code that changes, and what a release pins."""

from __future__ import annotations

from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from pyspark.sql import DataFrame

import etl.planning
import etl.stage
from contracts import catalog, project
from contracts.interval import IntervalError
from contracts.model import Layer, Table
from contracts.report import PUBLISHED, TableReport
from etl.transforms import StageError
from lake import release
from millrace import pipeline
from tests import comparison
from tests.cinema import Cinema, tables, ticket
from tests.conftest import copy_home, set_home
from tests.landing import rows, versions

DAY = timedelta(days=1)
GOLD = {table.qualified for table in tables(Layer.GOLD)}
WINDOWED = GOLD - {"gold.guest_profile"}
Reports = dict[str, TableReport]


def run(start: date | str, end: date | str) -> Reports:
    """Carry an interval through the lake in this process."""
    return {report.table: report for report in pipeline.run_all(str(start), str(end), "test")}


def published(reports: Reports) -> set[str]:
    return {name for name, report in reports.items() if report.status == PUBLISHED}


# --- the order of the runs


def test_a_first_run_may_find_no_ticket(cinema: Cinema, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables are there, empty, and the tickets that come later are right on the days that ran before, too."""
    run("2017-03-05", "2017-03-06")
    assert all(rows(name) == [] for name in WINDOWED)
    run("2017-03-01", "2017-03-02")
    later = comparison.contents()
    monkeypatch.setenv("MILLRACE_LAKE", str(cinema.root.parent / "straight"))
    run("2017-03-01", "2017-03-06")
    assert comparison.differences(comparison.contents(), later) == {}


@pytest.mark.parametrize(("first", "second"), [(5, 3), (3, 5)])
def test_the_earliest_of_two_days_with_one_key_wins_in_any_order(
    published_cinema: Cinema, first: int, second: int
) -> None:
    """A booking and movie that come under two days: the later one is a duplicate, whichever was loaded first."""
    for day in (first, second):
        published_cinema.land(
            "tickets",
            [ticket(9, at=f"2017-03-0{day} 10:00:00"), ticket(90 + day, at=f"2017-03-0{day} 11:00:00")],
            day=f"2017-03-0{day}",
        )
        run(f"2017-03-0{day}", f"2017-03-0{day + 1}")
    assert [(row["booking_id"], row["sold_at"].day) for row in rows("silver.tickets", "booking_id")] == [
        (1, 1),
        (2, 1),
        (9, 3),
        (93, 3),
        (95, 5),
    ]
    assert [
        (row["event_timestamp"].day, row["bookings_7d"]) for row in rows("gold.guest_activity", where="guest_id = 1")
    ] == [(2, 1), (4, 3), (6, 4)]


# --- idle days


IDLE = {
    "guest_activity": ("guest_id", (1, 8, 31, 91)),
    "movie_demand": ("movie_id", (1, 8, 29)),
    "guest_movie": ("movie_id", (1, 91)),
}
"""View -> a key, and the days after the ticket at whose midnights it enters the windows, and leaves each."""
CUTS = (1, 2, 8, 9, 28, 30, 31, 90, 92)
"""Ends of the runs, in days after the ticket; the first of them is published already."""


def test_idle_guests_decay_to_zero_and_then_emit_no_rows(published_cinema: Cinema) -> None:
    """Whether the windows move inside a run or just at its edge; the 91st midnight is the last at which anything
    does.
    """
    bought = date(2017, 3, 1)
    for first, end in pairwise(CUTS):
        run(bought + first * DAY, bought + end * DAY)
    for view, (key, moves) in IDLE.items():
        found = rows(f"gold.{view}", "event_timestamp", where=f"{key} = 1")
        assert [(row["event_timestamp"].date() - bought).days for row in found] == list(moves)
        amounts = [name for name in found[0] if name.endswith(("_7d", "_28d", "_30d", "_90d"))]
        assert all(found[0][name] > 0 for name in amounts)
        assert {float(found[-1][name]) for name in amounts} == {0.0}
        assert found[-1].get("last_booked_at") == found[0].get("last_booked_at")

    rows_before = {name: rows(name) for name in WINDOWED}
    late = pipeline.check_interval("2017-06-01", "2017-06-08", scheduled=True)
    for table in catalog.tables():
        pipeline.run_table(table.qualified, late, "scheduled")
    assert {name: rows(name) for name in WINDOWED} == rows_before
    with pytest.raises(IntervalError, match="windows are empty from 2017-06-01 on"):
        run("2017-06-01", "2017-06-02")


# --- the code changes


@pytest.fixture(scope="module")
def four_days(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which one run carried four days of the small cinema through the lake. Copy it, do not write to it."""
    path = tmp_path_factory.mktemp("four")
    with pytest.MonkeyPatch.context() as patch:
        set_home(path, patch)
        Cinema.open(path / "landing").land("tickets", [ticket(3, at="2017-03-04 09:00:00")], day="2017-03-04")
        run("2017-03-01", "2017-03-05")
    return path


def test_a_snapshot_transform_that_lacks_a_column_publishes_nothing(
    published_cinema: Cinema, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = project.current().module("transforms.gold.guest_profile")
    before, features = rows("gold.guest_profile"), module.features
    monkeypatch.setattr(module, "features", lambda guests: features(guests).drop("tier"))
    published_cinema.land("members", [{"card_id": 1, "tier": "gold"}], "2017-03-02", suffix=".csv")
    with pytest.raises(StageError, match=r"gold\.guest_profile: its transform.* returns no tier\. It returns guest_id"):
        run("2017-03-02", "2017-03-03")
    assert rows("gold.guest_profile") == before


@pytest.mark.parametrize(
    ("changed", "follow"),
    [
        ("gold.guest_movie", set()),
        ("silver.showcases", {"gold.movie_demand"}),
        ("silver.tickets", WINDOWED),
        ("silver.guests", {"gold.guest_profile"}),
    ],
)
def test_a_changed_transform_rebuilds_its_table_and_what_reads_it(
    home: Path, four_days: Path, monkeypatch: pytest.MonkeyPatch, changed: str, follow: set[str]
) -> None:
    copy_home(four_days, home)
    before, at = comparison.contents(), versions()
    real = etl.planning.code_of
    monkeypatch.setattr(etl.planning, "code_of", lambda table: "changed" if table.qualified == changed else real(table))
    reports = run("2017-03-04", "2017-03-05")
    assert published(reports) == {changed, *follow}
    assert reports[changed].account.published == before[changed].total(), "not all of it was computed anew"
    assert comparison.differences(before, comparison.contents()) == {}
    assert versions() == {name: version + (name in {changed, *follow}) for name, version in at.items()}
    assert published(run("2017-03-04", "2017-03-05")) == set()


def test_a_changed_transform_changes_rows_that_were_published(
    published_cinema: Cinema, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not only the fingerprint: what the new code gives replaces what the old one gave, on days long past too."""
    real, fingerprint = etl.stage.clean, etl.planning.code_of

    def changed(table: Table, *frames: DataFrame) -> DataFrame:
        cleaned = real(table, *frames)
        return cleaned.replace("DRAMA", "COMEDY", ["genre"]) if table.qualified == "silver.movies" else cleaned

    monkeypatch.setattr(etl.stage, "clean", changed)
    monkeypatch.setattr(
        etl.planning, "code_of", lambda table: fingerprint(table) + ("2" if table.qualified == "silver.movies" else "")
    )
    run("2017-03-02", "2017-03-03")
    assert {row["genre"] for row in rows("silver.movies")} == {"COMEDY"}


# --- releases


def test_a_release_is_new_only_when_something_changed_and_an_old_one_stays_readable(published_cinema: Cinema) -> None:
    from features import registry
    from features.offline.labels import BeyondHorizonWarning

    first, then = release.read(), {name: rows(name) for name in GOLD}
    run("2017-03-01", "2017-03-02")
    assert release.numbers() == [1]

    published_cinema.land("tickets", [ticket(3, at="2017-03-02 09:00:00", seats=5)], day="2017-03-02")
    run("2017-03-02", "2017-03-03")
    second = release.read()
    assert (first.number, first.horizon, second.number, second.horizon) == (1, "2017-03-02", 2, "2017-03-03")
    assert {name for name in second.tables if second.tables[name] != first.tables[name]} == WINDOWED | {
        "silver.tickets"
    }
    assert {name: rows(name, version=first.tables[name]) for name in GOLD} == then
    assert release.read(1) == first

    registry.apply()
    labels = "SELECT 1 AS guest_id, TIMESTAMPTZ '2017-03-03 00:00:00+00' AS event_timestamp"
    items = [
        registry.open_store(number)
        .get_historical_features(labels, ["guest_activity:seats_7d"])
        .to_df()["seats_7d"]
        .tolist()
        for number in (2, None)
    ]
    assert items == [[7], [7]]
    store = registry.open_store(1, allow_beyond_horizon=True)
    with pytest.warns(
        BeyondHorizonWarning, match=r"^1 of 1 labels lie after 2017-03-02 00:00 UTC, the horizon of release 1"
    ):
        assert store.get_historical_features(labels, ["guest_activity:seats_7d"]).to_df()["seats_7d"].tolist() == [2]

"""What starts a run: complete files and streamed rows that none has carried on, each once, whatever was killed.

Expected values are written by hand; the lake is made of commits without rows.
"""

from __future__ import annotations

import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from contracts import catalog
from contracts.interval import DAY, Interval
from etl import arrivals
from etl.arrivals import PATIENCE, Watcher
from lake import delta, publishing, release, settings
from lake.delta import STREAM_RUNS, CommitMetadata
from tests.projects import ARCADE

PROJECT = ARCADE
PLAYS, PAYMENTS = "bronze.plays", "bronze.payments"
SETTLE = 2.0
FEBRUARY = Interval(date(2026, 2, 1), date(2026, 3, 1))


def days(first: int, last: int | None = None) -> Interval:
    """From one day of February 2026 to another, both included."""
    return Interval(date(2026, 2, first), date(2026, 2, last or first) + DAY)


def land(home: Path, name: str, content: str = "a", day: int = 1, table: str = "plays") -> Path:
    path = home / "landing" / table / str(days(day).start) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def commit(name: str, *changed: Interval, run_id: str = "manual__1", reads: str | None = None) -> int:
    """Publish a version without rows that says it changed these days, by the current version of what it reads."""
    inputs = {reads: delta.version_of(reads)} if reads else {}
    ids = {reads: delta.id_of(reads)} if reads else {}
    metadata = CommitMetadata(run_id, inputs, changed, ids=ids)  # type: ignore[arg-type]
    return publishing.publish(catalog.table(name), [], metadata, base=delta.version_of(name))


def load(interval: Interval = FEBRUARY, name: str = PLAYS) -> None:
    """What a run does with a bronze table, as far as it is recorded."""
    table = catalog.table(name)
    landed = arrivals.landed(table, interval)
    commit(name)
    arrivals.record(table, landed)


class Clock:
    """A watcher, and the seconds at which it looks."""

    def __init__(self) -> None:
        self.watcher, self.now = Watcher(SETTLE), 1000.0

    def after(self, seconds: float) -> Interval | None:
        """The interval of a run that starts after so many seconds of looking every half second; None for no run."""
        for _ in range(max(round(seconds * 2), 1)):
            self.now += 0.5
            if news := self.watcher.news(self.now):
                self.watcher.announced(news)
                return news.interval
        return None


@pytest.fixture
def clock(home: Path) -> Clock:
    return Clock()


# --- landed files


def test_a_file_starts_a_run_of_its_day_once_it_is_complete(home: Path, clock: Clock) -> None:
    assert clock.after(5) is None
    land(home, "a.csv")
    assert clock.after(SETTLE) is None
    assert clock.after(1) == days(1)
    assert clock.after(60) is None


def test_a_file_that_grows_starts_none(home: Path, clock: Clock) -> None:
    growing = land(home, "a.csv")
    for _ in range(50):
        growing.write_text(growing.read_text() + "more")
        assert clock.after(1) is None
    assert clock.after(SETTLE + 1) == days(1)


def test_a_file_that_grows_holds_up_others_of_the_same_days_however_long(home: Path, clock: Clock) -> None:
    growing = land(home, "a.csv", day=2)
    land(home, "b.csv", day=1)
    land(home, "c.csv", day=3, table="payments")
    for _ in range(int(2 * PATIENCE)):
        growing.write_text(growing.read_text() + "more")
        assert clock.after(1) is None
    assert clock.after(SETTLE + 1) == days(1, 3)


def test_a_file_that_grows_on_another_day_holds_up_nothing(home: Path, clock: Clock) -> None:
    growing = land(home, "a.csv", day=9)
    land(home, "b.csv", day=1)
    found = []
    for _ in range(5):
        growing.write_text(growing.read_text() + "more")
        found.append(clock.after(1))
    assert [interval for interval in found if interval] == [days(1)]


@pytest.mark.parametrize("name", [".a.csv", "_a.csv", "a.csv.tmp"])
def test_a_name_that_is_not_finished_starts_none_until_it_is_renamed(home: Path, clock: Clock, name: str) -> None:
    path = land(home, name)
    assert clock.after(5) is None
    path.rename(path.with_name("a.csv"))
    assert clock.after(SETTLE + 1) == days(1)


def test_a_burst_is_one_run(home: Path, clock: Clock) -> None:
    for number in range(20):
        land(home, f"{number}.csv", day=1 + number % 5)
        assert clock.after(1) is None
    assert clock.after(SETTLE + 1) == days(1, 5)
    assert clock.after(60) is None


def test_a_steady_drip_starts_runs(home: Path, clock: Clock) -> None:
    started = []
    for number in range(3 * int(PATIENCE)):
        land(home, f"{number}.csv", day=1 + number % 5)
        started.append(clock.after(1))
    assert [interval for interval in started if interval][:1] != []


def test_what_a_run_has_loaded_starts_none(home: Path, clock: Clock) -> None:
    land(home, "a.csv", day=1)
    land(home, "b.csv", day=2)
    load()
    assert clock.after(10) is None


def test_only_the_days_of_the_run_were_loaded(home: Path, clock: Clock) -> None:
    land(home, "a.csv", day=1)
    land(home, "b.csv", day=2)
    load(days(1))
    assert clock.after(10) == days(2)


def test_a_file_replaced_by_one_of_the_same_size_and_time_starts_a_run(home: Path, clock: Clock) -> None:
    """As `rsync --times` does: the time may be older than the load."""
    path = land(home, "a.csv", "old")
    before = path.stat()
    load()
    other = path.with_name("a.tmp")
    other.write_text("new")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.rename(path)
    assert clock.after(10) == days(1)


def test_a_file_that_changes_during_the_load_starts_the_next_run(home: Path, clock: Clock) -> None:
    path, table = land(home, "a.csv"), catalog.table(PLAYS)
    landed = arrivals.landed(table, FEBRUARY)
    path.write_text("more")
    commit(PLAYS)
    arrivals.record(table, landed)
    assert clock.after(10) == days(1)


def test_a_table_that_was_removed_is_loaded_again(home: Path, clock: Clock) -> None:
    land(home, "a.csv")
    load()
    settings.table_path(PLAYS).rename(home / "removed")
    assert clock.after(10) == days(1)
    commit(PLAYS)  # rebuilt by hand
    assert Clock().after(10) == days(1)


def test_a_table_that_was_restored_to_an_older_version_is_loaded_again(home: Path, clock: Clock) -> None:
    land(home, "a.csv")
    commit(PLAYS)
    load()
    newest = settings.table_path(PLAYS) / "_delta_log" / f"{delta.version_of(PLAYS):020}.json"
    newest.unlink()
    assert clock.after(10) == days(1)


def test_folders_that_are_no_days_start_none(home: Path, clock: Clock) -> None:
    for folder in ("lost+found", "2026-2-1", ".2026-02-01", "2026-02-30"):
        (home / "landing" / "plays" / folder).mkdir(parents=True)
        (home / "landing" / "plays" / folder / "a.csv").write_text("a")
    (home / "landing" / "plays" / "b.csv").write_text("b")
    (home / "landing" / "plays" / "2026-02-02").symlink_to(home / "nowhere")
    assert clock.after(10) is None


def test_folders_of_one_day_in_two_spellings_are_both_looked_at(home: Path, clock: Clock) -> None:
    land(home, "a.csv")
    load()
    other = home / "landing" / "plays" / "20260201" / "a.csv"
    other.parent.mkdir()
    other.write_text("b")
    assert clock.after(10) == days(1)


# --- failures


def test_a_run_that_fails_is_not_started_again_until_more_comes(home: Path, clock: Clock) -> None:
    land(home, "bad.csv")
    assert clock.after(10) == days(1)
    assert clock.after(600) is None
    land(home, "good.csv", day=3)
    assert clock.after(10) == days(1, 3), "what failed is carried on as well"


def test_a_watcher_that_was_killed_finds_all_of_it_again(home: Path, clock: Clock) -> None:
    land(home, "a.csv")
    clock.after(1)
    assert Clock().after(10) == days(1)
    assert Clock().after(10) == days(1), "no run has loaded it"
    load()
    assert Clock().after(10) is None


# --- streamed rows


@pytest.fixture
def carried(home: Path) -> None:
    """All that bronze.plays has is carried on."""
    commit(PLAYS)
    carry()


def stream(*changed: Interval) -> int:
    return commit(PLAYS, *changed, run_id=f"{STREAM_RUNS}1")


def carry() -> None:
    commit("silver.plays", reads=PLAYS)


def test_streamed_rows_start_a_run_of_their_days_at_once(carried: None, home: Path, clock: Clock) -> None:
    stream(days(3), days(7))
    assert clock.after(0.5) == days(3, 7)
    assert clock.after(60) is None
    carry()
    assert clock.after(60) is None


def test_rows_that_are_late_widen_the_interval(carried: None, home: Path, clock: Clock) -> None:
    stream(days(8))
    carry()
    stream(days(9))
    stream(days(2))
    assert clock.after(1) == days(2, 9)


def test_a_version_that_came_during_the_run_starts_the_next_one(carried: None, home: Path, clock: Clock) -> None:
    stream(days(3))
    assert clock.after(1) == days(3)
    carry()
    stream(days(4))
    assert clock.after(1) == days(4)


def test_what_a_run_has_loaded_starts_none_and_is_carried_on_by_the_next(
    carried: None, home: Path, clock: Clock
) -> None:
    """A run that fails after bronze must not start another, and one in work needs none."""
    commit(PLAYS, days(5), run_id="asset_triggered__1")
    assert clock.after(60) is None
    land(home, "a.csv", day=2, table="payments")
    assert clock.after(10) == days(2, 5)


def test_commits_without_rows_and_maintenance_start_none(carried: None, home: Path, clock: Clock) -> None:
    stream(days(3))
    carry()
    stream()
    commit(PLAYS, run_id="optimize")
    assert clock.after(60) is None


def append_a_row(day: int) -> None:
    """As another program does it: nothing in the commit says which days it changed."""
    schema = publishing.arrow_schema(catalog.table(PLAYS))
    at = datetime(2026, 2, day, 10, tzinfo=UTC)
    text = dict.fromkeys(("round", "player", "game", "_file", "_file_hash"), "a")
    row = {**text, "ended_at": at, "seconds": 1, "_landed_date": at.date(), "_loaded_at": at}
    write_deltalake(str(settings.table_path(PLAYS)), pa.Table.from_pylist([row], schema), mode="append")


def test_a_commit_of_another_program_may_have_changed_any_day(carried: None, home: Path, clock: Clock) -> None:
    append_a_row(6)
    carry()
    append_a_row(20)
    assert clock.after(1) == days(6, 20)


def test_a_table_that_was_rebuilt_is_carried_on_as_a_whole(carried: None, home: Path, clock: Clock) -> None:
    for _ in range(3):
        commit(PLAYS)
    carry()
    settings.table_path(PLAYS).rename(home / "removed")
    commit(PLAYS)
    append_a_row(6)
    for _ in range(5):  # it has more versions now than the one that was carried on
        commit(PLAYS)
    assert clock.after(1) == days(6)


def test_a_clock_that_is_wrong_does_not_move_the_horizon(carried: None, home: Path, clock: Clock) -> None:
    today = datetime.now(UTC).date()
    stream(Interval(today + timedelta(days=400), today + timedelta(days=401)))
    assert clock.after(60) is None
    stream(Interval(today, today + DAY))
    assert clock.after(1) == Interval(today, today + DAY)


def test_days_that_a_release_knows_are_not_in_the_future(carried: None, home: Path, clock: Clock) -> None:
    ahead = datetime.now(UTC).date() + timedelta(days=400)
    release.write({}, str(ahead + DAY), {})
    stream(Interval(ahead, ahead + DAY))
    assert clock.after(1) == Interval(ahead, ahead + DAY)

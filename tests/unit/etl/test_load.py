"""Any number of files is loaded with their names and hashes, and each load comes after the one before it, whatever the
clock says.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable, write_deltalake

from contracts.columns import AUDIT_COLUMNS
from contracts.interval import Interval
from contracts.model import LONG, Column, Layer, Load, Table
from etl.bronze import load
from etl.bronze.load import Loaded
from lake import delta, publishing, settings
from lake.delta import CommitMetadata
from tests.landing import rows

COUPONS = Table(
    layer=Layer.BRONZE,
    name="coupons",
    doc="Coupons, as they landed",
    grain="one row per coupon, movie and campaign",
    owner="marketing",
    freshness=timedelta(days=400),
    load=Load.SNAPSHOT,
    time_column="_landed_date",
    columns=(
        Column("coupon", LONG, "Coupon", required=True),
        Column("movie_id", LONG, "Movie", required=True),
        Column("campaign_id", LONG, "Campaign", required=True),
        *AUDIT_COLUMNS,
    ),
)
NOW = datetime(2020, 6, 15, 12, tzinfo=UTC)
MONTH = Interval(date(2017, 3, 1), date(2017, 4, 1))


def land(home: Path, name: str, *coupons: int, day: str = "2017-03-01") -> Path:
    path = home / "landing" / "coupons" / day / f"{name}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("coupon,movie_id,campaign_id\n" + "".join(f"{coupon},1,1\n" for coupon in coupons))
    return path


def staged(home: Path) -> list[dict]:
    return [row for path in sorted((home / "stage").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[datetime], None]:
    """Set the time that a load sees."""

    class Clock(datetime):
        at = NOW

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return cls.at.astimezone(tz)

    monkeypatch.setattr(load, "datetime", Clock)

    def set_to(at: datetime) -> None:
        Clock.at = at

    return set_to


def carry(home: Path, days: Interval = MONTH) -> Loaded:
    """Load and publish, as a run does."""
    stage = home / "lake" / "bronze" / "coupons" / "_stage"
    loaded = load.load(COUPONS, days, stage)
    if loaded.staged:
        publishing.publish(
            COUPONS, sorted(stage.glob("*.parquet")), CommitMetadata("test"), base=delta.version_of("bronze.coupons")
        )
    return loaded


def deliveries() -> list[tuple[int, datetime]]:
    """Each coupon with the time of its load, oldest first."""
    return [
        (row["coupon"], row["_loaded_at"].astimezone(UTC)) for row in rows("bronze.coupons", order="_loaded_at, coupon")
    ]


# --- many files


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_many_files_of_a_month_are_loaded_each_row_with_its_file(home: Path, suffix: str) -> None:
    paths = [land(home, f"{n:03}", n + 1, n + 1000, day=f"2017-03-{n % 3 + 1:02}") for n in range(300)]
    if suffix == "parquet":
        for n, path in enumerate(paths):
            columns = {"coupon": [n + 1, n + 1000], "movie_id": [1, 1], "campaign_id": [1, 1]}
            pq.write_table(pa.table(columns), path.with_suffix(".parquet"))
            path.unlink()
        paths = [path.with_suffix(".parquet") for path in paths]
    loaded = load.load(COUPONS, MONTH, home / "stage")
    assert (loaded.rows_in, loaded.staged, len(loaded.files)) == (600, 600, 300)
    named = {
        path: (str(path.relative_to(home / "landing")), hashlib.sha256(path.read_bytes()).hexdigest()) for path in paths
    }
    expected = [
        (coupon, *named[path], date.fromisoformat(path.parent.name))
        for n, path in enumerate(paths)
        for coupon in (n + 1, n + 1000)
    ]
    assert sorted(
        (row["coupon"], row["_file"], row["_file_hash"], row["_landed_date"]) for row in staged(home)
    ) == sorted(expected)


def test_row_groups_are_filled_whatever_the_sizes_of_the_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "ROW_GROUP", 7)
    sizes = (3, 0, 1, 20, 7, 2)
    for n, size in enumerate(sizes):
        land(home, f"{n}", *(1000 * (n + 1) + row for row in range(size)))
    load.load(COUPONS, MONTH, home / "stage")
    footer = pq.read_metadata(home / "stage" / "2017-03.parquet")
    assert [footer.row_group(n).num_rows for n in range(footer.num_row_groups)] == [7, 7, 7, 7, 5]
    assert [(row["coupon"] // 1000 - 1, row["_file"][-5]) for row in staged(home)] == [
        (n, str(n)) for n, size in enumerate(sizes) for _ in range(size)
    ]


def test_the_same_content_under_two_days_of_a_month_is_loaded_twice(home: Path) -> None:
    for day in ("2017-03-01", "2017-03-02"):
        land(home, "a", 5, day=day)
    load.load(COUPONS, MONTH, home / "stage")
    assert [(str(row["_landed_date"]), row["coupon"]) for row in staged(home)] == [
        ("2017-03-01", 5),
        ("2017-03-02", 5),
    ]


# --- the order of loads


def test_a_load_is_timed_by_the_clock(home: Path, clock: Callable) -> None:
    land(home, "a", 1)
    carry(home)
    assert deliveries() == [(1, NOW)]


@pytest.mark.parametrize("back", [timedelta(0), timedelta(microseconds=1), timedelta(days=1), timedelta(days=4000)])
def test_a_load_comes_after_the_one_before_it_although_the_clock_was_set_back(
    home: Path, clock: Callable, back: timedelta
) -> None:
    clock(NOW + timedelta(microseconds=999))  # which the log's bound cuts off
    land(home, "a", 1)
    carry(home)
    clock(NOW - back)
    land(home, "a", 2)
    carry(home, Interval(date(2017, 3, 1), date(2017, 3, 2)))
    land(home, "b", 3, day="2017-03-09")
    carry(home)
    loads = deliveries()
    assert [coupon for coupon, _ in loads] == [1, 2, 3]
    assert loads[0][1] < loads[1][1] < loads[2][1] < loads[0][1] + timedelta(seconds=1)
    assert not carry(home).files


def test_a_clock_that_goes_on_is_believed_again(home: Path, clock: Callable) -> None:
    for coupon, at in enumerate((NOW, NOW - timedelta(days=1), NOW + timedelta(hours=1)), 1):
        clock(at)
        land(home, f"{coupon}", coupon)
        carry(home)
    assert deliveries()[-1] == (3, NOW + timedelta(hours=1))


def test_a_correction_that_an_older_millrace_lost_wins(home: Path, clock: Callable) -> None:
    """Before, a load took its time from the clock alone: the correction lost, and was loaded by each run."""
    land(home, "a", 2)
    digest = hashlib.sha256((home / "landing/coupons/2017-03-01/a.csv").read_bytes()).hexdigest()
    common = {"movie_id": 1, "campaign_id": 1, "_file": "coupons/2017-03-01/a.csv", "_landed_date": date(2017, 3, 1)}
    loads = [("old", 1, NOW), (digest, 2, NOW - timedelta(days=1)), (digest, 2, NOW - timedelta(hours=23))]
    written = [{**common, "coupon": coupon, "_file_hash": hashed, "_loaded_at": at} for hashed, coupon, at in loads]
    publishing.open_or_create(COUPONS)
    write_deltalake(
        settings.table_path("bronze.coupons"),
        pa.Table.from_pylist(written, schema=publishing.arrow_schema(COUPONS)),
        mode="append",
    )
    clock(NOW - timedelta(hours=22))
    assert carry(home).staged == 1
    assert deliveries()[-1][0] == 2
    assert deliveries()[-1][1] > NOW
    assert not carry(home).files


def test_files_without_bounds_in_the_log_are_looked_into(home: Path) -> None:
    path = home / "lake" / "bronze" / "coupons"
    times = {"_loaded_at": pa.array([NOW, NOW + timedelta(microseconds=7)], pa.timestamp("us", "UTC"))}
    write_deltalake(path, pa.table(times), configuration={"delta.dataSkippingNumIndexedCols": "0"})
    assert delta.newest_instant(COUPONS, DeltaTable(path), "_loaded_at") == NOW + timedelta(microseconds=7)
    write_deltalake(path, pa.table({"_loaded_at": pa.array([], pa.timestamp("us", "UTC"))}), mode="overwrite")
    assert delta.newest_instant(COUPONS, DeltaTable(path), "_loaded_at") is None

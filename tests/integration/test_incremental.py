"""However the days are cut into runs, and in whatever order files and runs come, the lake ends in the same rows, and a
run touches only what it must.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame

import etl.stage
from contracts import catalog
from contracts.interval import IntervalError
from contracts.model import Layer, Table
from contracts.report import PUBLISHED, TableReport
from lake import release
from millrace import pipeline
from tests import may, oracle
from tests.conftest import copy_home, set_home
from tests.landing import Shop, purchase, rows, versions
from tests.may import END, START, Contents

DAY = timedelta(days=1)
GOLD = {table.qualified for table in catalog.tables(Layer.GOLD)}
WINDOWED = GOLD - {"gold.customer_profile"}
Reports = dict[str, TableReport]


def run(start: date | str, end: date | str) -> Reports:
    """Carry an interval through the lake in this process."""
    return {report.table: report for report in pipeline.run_all(str(start), str(end), "test")}


def run_day(day: date) -> Reports:
    return run(day, day + DAY)


def published(reports: Reports) -> set[str]:
    return {name for name, report in reports.items() if report.status == PUBLISHED}


@pytest.fixture(scope="module")
def landed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The month's landing zone; copy it before you change it."""
    return may.land(tmp_path_factory.mktemp("may") / "landing").root


@pytest.fixture(scope="module")
def month(landed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which one run carried the month through the lake. Copy it, do not write to it."""
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        Lakes(folder, landed, patch).fresh("month")
        run(START, END)
    return folder / "month"


@pytest.fixture(scope="module")
def one_run(month: Path) -> Contents:
    """What one run over the month makes of it."""
    with pytest.MonkeyPatch.context() as patch:
        set_home(month, patch)
        return may.contents()


@pytest.fixture(scope="module")
def ten_days(landed: Path, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """What one run over its first ten days makes of it."""
    with pytest.MonkeyPatch.context() as patch:
        Lakes(tmp_path_factory.mktemp("one"), landed, patch).fresh("ten")
        run(_may(1), _may(11))
        return may.contents()


@dataclass
class Lakes:
    """Any number of lakes, one at a time."""

    root: Path
    landing: Path
    patch: pytest.MonkeyPatch

    def fresh(self, name: str, landing: Path | None = None) -> None:
        """From now on, work in an empty lake of that name."""
        set_home(self.root / name, self.patch)
        self.patch.setenv("MILLRACE_LANDING", str(landing or self.landing))

    def copy(self, name: str, of: Path, landing: Path) -> None:
        """From now on, work in a lake of that name that is as another home's."""
        self.fresh(name, landing)
        copy_home(of, self.root / name)

    def own_landing(self, name: str) -> Shop:
        """A copy of the landing zone that a test may change."""
        return Shop(Path(shutil.copytree(self.landing, self.root / f"landing of {name}")))


@pytest.fixture
def lakes(home: Path, landed: Path, monkeypatch: pytest.MonkeyPatch) -> Lakes:
    return Lakes(home, landed, monkeypatch)


# --- the order of the runs


def test_day_by_day_is_one_run(lakes: Lakes, one_run: Contents) -> None:
    lakes.fresh("daily")
    for day in _days(START, END):
        run_day(day)
    assert may.differences(one_run, may.contents()) == {}
    assert release.read().horizon == str(END)


@pytest.mark.parametrize(
    "order",
    [
        pytest.param([(5, 6), (3, 4), (4, 5), (1, 3), (6, 11)], id="5, then 3, then 4"),
        pytest.param([(2, 8), (1, 5), (4, 11), (2, 4)], id="overlapping"),
        pytest.param([(9, 11), (1, 2), (5, 6), (1, 11)], id="a gap, filled by one run over all"),
    ],
)
def test_the_order_of_runs_does_not_matter(lakes: Lakes, ten_days: Contents, order: list[tuple[int, int]]) -> None:
    lakes.fresh("crooked")
    for first, end in order:
        run(_may(first), _may(end))
    assert may.differences(ten_days, may.contents()) == {}


def test_a_gap_is_days_without_purchases(lakes: Lakes) -> None:
    """Days that never ran are as if nothing had landed on them: windows decay over them."""
    lakes.fresh("gap")
    for day in (5, 3, 8):
        run_day(_may(day))
    with_gap = may.contents()
    shop = lakes.own_landing("sparse")
    for table in (
        "transactions",
        "redemptions",
        "promotions",
        "products",
        "demographics",
        "coupons",
        "campaigns",
        "campaign_descriptions",
    ):
        for folder in (shop.root / table).iterdir():
            if folder.name not in {str(_may(day)) for day in (3, 5, 8)}:
                shutil.rmtree(folder)
    lakes.fresh("sparse", shop.root)
    run(_may(3), _may(9))
    assert may.differences(may.contents(), with_gap) == {}
    assert (
        with_gap["gold.customer_activity"].total()
        == oracle.expected_row_counts(_may(3), _may(9), _bought(shop))["customer_activity"]
    )


def test_a_first_run_may_find_no_purchase(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables are there, empty, and the purchases that come later are right on the days that ran before, too."""
    run("2017-03-05", "2017-03-06")
    assert all(rows(name) == [] for name in WINDOWED)
    run("2017-03-01", "2017-03-02")
    later = may.contents()
    monkeypatch.setenv("MILLRACE_LAKE", str(shop.root.parent / "straight"))
    run("2017-03-01", "2017-03-06")
    assert may.differences(may.contents(), later) == {}


@pytest.mark.parametrize(("first", "second"), [(5, 3), (3, 5)])
def test_the_earliest_of_two_days_with_one_key_wins_in_any_order(stocked: Shop, first: int, second: int) -> None:
    """A basket and product that come under two days: the later one is a duplicate, whichever was loaded first."""
    for day in (first, second):
        stocked.land(
            "transactions",
            [purchase(9, at=f"2017-03-0{day} 10:00:00"), purchase(90 + day, at=f"2017-03-0{day} 11:00:00")],
            day=f"2017-03-0{day}",
        )
        run(f"2017-03-0{day}", f"2017-03-0{day + 1}")
    assert [(row["basket_id"], row["transaction_at"].day) for row in rows("silver.transactions", "basket_id")] == [
        (1, 1),
        (2, 1),
        (9, 3),
        (93, 3),
        (95, 5),
    ]
    assert [
        (row["event_timestamp"].day, row["baskets_7d"])
        for row in rows("gold.customer_activity", where="customer_id = 1")
    ] == [(2, 1), (4, 3), (6, 4)]


# --- files that come late


@dataclass(frozen=True)
class Late:
    """A file that comes after its day was processed.

    `hold` takes it out of a landing zone that has it and returns the file, unlanded. `concerns` names every table that
    is to change, and tells of each of its rows whether that row may: from the row, before or after, and the file's
    rows. `splits`: it holds rows of a file of the month, which are not there without it; otherwise the lake without it
    is the month's.
    """

    hold: Callable[[Shop], Path]
    day: date
    concerns: dict[str, Callable[[dict[str, Any], list[dict[str, Any]]], bool]]
    splits: bool = False


def _some_transactions(shop: Shop) -> Path:
    """The lines of three customers come in a file of their own."""
    lines = pq.read_table(shop.path("transactions", TENTH)).to_pylist()
    late = sorted({line["household_id"] for line in lines})[:3]
    shop.land("transactions", [line for line in lines if line["household_id"] not in late], TENTH)
    return shop.land("transactions", [line for line in lines if line["household_id"] in late], TENTH, "till-7")


def _some_promotions(shop: Shop) -> Path:
    """A third of a week's promotions come in a file of their own."""
    places = pq.read_table(shop.path("promotions", WEEK_20, "week-20")).to_pylist()
    shop.land("promotions", [place for place in places if place["product_id"] % 3], WEEK_20, "week-20")
    return shop.land("promotions", [place for place in places if place["product_id"] % 3 == 0], WEEK_20, "week-20-more")


def _corrected_products(shop: Shop) -> Path:
    """Two entries of the catalogue come corrected under a later day."""
    return shop.land("products", _corrected(shop), TENTH)


def _products_corrected_the_same_day(shop: Shop) -> Path:
    """The same under the day of the catalogue itself; to a lake that loads both at once, the name that sorts last is
    the newest.
    """
    return shop.land("products", _corrected(shop), START, "products.second")


def _corrected(shop: Shop) -> list[dict[str, Any]]:
    entries = pq.read_table(shop.path("products", START)).to_pylist()[:2]
    return [{**entry, "package_size": "CORRECTED"} for entry in entries]


def _newer_demographics(shop: Shop) -> Path:
    """A new survey: customer 1 has grown older, and 5 answers for the first time."""
    answers = {"income": "50-74K", "household_size": "2", "kids_count": "0"}
    return shop.land(
        "demographics",
        [{"household_id": 1, "age": "65+", **answers}, {"household_id": 5, "age": "19-24", **answers}],
        TENTH,
        suffix=".csv",
    )


def _moved_by(
    late: list[dict[str, Any]], names: dict[str, str], days: tuple[date, date], window: int, row: dict[str, Any]
) -> bool:
    """The row has the key of a late line, and lies between its first midnight and the one at which it has left the
    longest window.
    """
    keys = {tuple(line[name] for name in names.values()) for line in late}
    midnight = row["event_timestamp"].date()
    return tuple(row[name] for name in names) in keys and days[0] + DAY <= midnight <= days[1] + (window + 1) * DAY


def _products_of(late: list[dict[str, Any]]) -> set[int]:
    return {row["product_id"] for row in late}


TENTH, WEEK_20 = date(2017, 5, 10), date(2017, 5, 8)
CUSTOMER, PRODUCT = {"customer_id": "household_id"}, {"product_id": "product_id"}
LATE = {
    "new transactions": Late(
        _some_transactions,
        TENTH,
        {
            "bronze.transactions": lambda row, _: row["_file"] == "transactions/2017-05-10/till-7.parquet",
            "silver.transactions": lambda row, late: (
                (row["basket_id"], row["product_id"]) in {(line["basket_id"], line["product_id"]) for line in late}
            ),
            "gold.customer_activity": lambda row, late: _moved_by(late, CUSTOMER, (TENTH, TENTH), 90, row),
            "gold.customer_product": lambda row, late: _moved_by(late, CUSTOMER | PRODUCT, (TENTH, TENTH), 90, row),
            "gold.product_popularity": lambda row, late: _moved_by(late, PRODUCT, (TENTH, TENTH), 28, row),
        },
        splits=True,
    ),
    "promotions of a past week": Late(
        _some_promotions,
        WEEK_20,
        {
            "bronze.promotions": lambda row, _: row["_file"] == "promotions/2017-05-08/week-20-more.parquet",
            "silver.promotions": lambda row, _: row["week"] == 20 and row["product_id"] % 3 == 0,
            # the shops' Sunday ends in the early hours of our Monday
            "gold.product_popularity": lambda row, late: _moved_by(
                late, PRODUCT, (WEEK_20, WEEK_20 + 7 * DAY), 28, row
            ),
        },
        splits=True,
    ),
    "a corrected catalogue": Late(
        _corrected_products,
        TENTH,
        {
            "bronze.products": lambda row, _: row["_landed_date"] == TENTH,
            "silver.products": lambda row, late: row["product_id"] in _products_of(late),
        },
    ),
    "a catalogue corrected the same day": Late(
        _products_corrected_the_same_day,
        START,
        {
            "bronze.products": lambda row, _: row["_file"] == "products/2017-05-01/products.second.parquet",
            "silver.products": lambda row, late: row["product_id"] in _products_of(late),
        },
    ),
    "newer demographics": Late(
        _newer_demographics,
        TENTH,
        {
            "bronze.demographics": lambda row, _: row["_landed_date"] == TENTH,
            "silver.customers": lambda row, _: row["snapshot_date"] == TENTH and row["customer_id"] in (1, 5),
            "gold.customer_profile": lambda row, _: (
                row["event_timestamp"].date() == TENTH and row["customer_id"] in (1, 5)
            ),
        },
    ),
}


@pytest.mark.parametrize("case", LATE.values(), ids=LATE.keys())
def test_a_late_file_is_picked_up_and_changes_only_what_it_must(lakes: Lakes, month: Path, case: Late) -> None:
    shop = lakes.own_landing("late")
    path = case.hold(shop)
    late = pq.read_table(path).to_pylist() if path.suffix == ".parquet" else []
    lakes.fresh("all", shop.root)
    run(START, END)
    expected = may.contents()

    held = path.rename(path.with_name(f".{path.name}"))
    if case.splits:
        lakes.fresh("late", shop.root)
        run(START, END)
    else:
        lakes.copy("late", month, shop.root)
    before, at, number = may.contents(), versions(), release.read().number
    held.rename(path)
    reports = run_day(case.day)
    after, now = may.contents(), versions()

    assert may.differences(expected, after) == {}
    assert published(reports) == set(case.concerns)
    assert now == {name: version + (name in case.concerns) for name, version in at.items()}
    assert set(may.differences(before, after)) == set(case.concerns)
    for table, concerns in case.concerns.items():
        assert [row for row in may.changed(table, before, after) if not concerns(row, late)] == []
    assert release.read().number == number + 1

    assert published(run_day(case.day)) == set()
    assert (versions(), release.read().number) == (now, number + 1)


# --- idle days


IDLE = {"customer_activity": (1, 8, 31, 91), "product_popularity": (1, 8, 29), "customer_product": (1, 91)}
"""Days after the purchase at whose midnights it enters the windows, and leaves each."""
CUTS = (1, 2, 8, 9, 28, 30, 31, 90, 92)
"""Ends of the runs, in days after the purchase; the first of them is published already."""


def test_idle_customers_decay_to_zero_and_then_emit_no_rows(stocked: Shop) -> None:
    """Whether the windows move inside a run or just at its edge; the 91st midnight is the last at which anything
    does.
    """
    bought = date(2017, 3, 1)
    for first, end in pairwise(CUTS):
        run(bought + first * DAY, bought + end * DAY)
    for view, moves in IDLE.items():
        found = rows(f"gold.{view}", "event_timestamp", where=f"{oracle.KEYS[view][-1]} = 1")
        assert [(row["event_timestamp"].date() - bought).days for row in found] == list(moves)
        amounts = [name for name in found[0] if name.endswith(("_7d", "_28d", "_30d", "_90d"))]
        assert all(found[0][name] > 0 for name in amounts)
        assert {float(found[-1][name]) for name in amounts} == {0.0}
        assert found[-1].get("last_basket_at") == found[0].get("last_basket_at")

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
    """A home in which one run carried four days of the small shop through the lake. Copy it, do not write to it."""
    path = tmp_path_factory.mktemp("four")
    with pytest.MonkeyPatch.context() as patch:
        set_home(path, patch)
        Shop.open(path / "landing").land("transactions", [purchase(3, at="2017-03-04 09:00:00")], day="2017-03-04")
        run("2017-03-01", "2017-03-05")
    return path


@pytest.mark.parametrize(
    ("changed", "follow"),
    [
        ("gold.customer_product", set()),
        ("silver.promotions", {"gold.product_popularity"}),
        ("silver.transactions", WINDOWED),
        ("silver.customers", {"gold.customer_profile"}),
    ],
)
def test_a_changed_transform_rebuilds_its_table_and_what_reads_it(
    home: Path, four_days: Path, monkeypatch: pytest.MonkeyPatch, changed: str, follow: set[str]
) -> None:
    copy_home(four_days, home)
    before, at = may.contents(), versions()
    real = etl.stage.code_of
    monkeypatch.setattr(etl.stage, "code_of", lambda table: "changed" if table.qualified == changed else real(table))
    reports = run("2017-03-04", "2017-03-05")
    assert published(reports) == {changed, *follow}
    assert reports[changed].account.published == before[changed].total(), "not all of it was computed anew"
    assert may.differences(before, may.contents()) == {}
    assert versions() == {name: version + (name in {changed, *follow}) for name, version in at.items()}
    assert published(run("2017-03-04", "2017-03-05")) == set()


def test_a_changed_transform_changes_rows_that_were_published(stocked: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not only the fingerprint: what the new code gives replaces what the old one gave, on days long past too."""
    real, fingerprint = etl.stage.clean, etl.stage.code_of

    def changed(table: Table, *frames: DataFrame) -> DataFrame:
        cleaned = real(table, *frames)
        return cleaned.replace("GROCERY", "FOOD", ["department"]) if table.qualified == "silver.products" else cleaned

    monkeypatch.setattr(etl.stage, "clean", changed)
    monkeypatch.setattr(
        etl.stage, "code_of", lambda table: fingerprint(table) + ("2" if table.qualified == "silver.products" else "")
    )
    run("2017-03-02", "2017-03-03")
    assert {row["department"] for row in rows("silver.products")} == {"FOOD"}


# --- releases


def test_a_release_is_new_only_when_something_changed_and_an_old_one_stays_readable(stocked: Shop) -> None:
    from features import registry
    from features.offline.labels import BeyondHorizonWarning

    first, then = release.read(), {name: rows(name) for name in GOLD}
    run("2017-03-01", "2017-03-02")
    assert release.numbers() == [1]

    stocked.land("transactions", [purchase(3, at="2017-03-02 09:00:00", quantity=5)], day="2017-03-02")
    run("2017-03-02", "2017-03-03")
    second = release.read()
    assert (first.number, first.horizon, second.number, second.horizon) == (1, "2017-03-02", 2, "2017-03-03")
    assert {name for name in second.tables if second.tables[name] != first.tables[name]} == WINDOWED | {
        "silver.transactions"
    }
    assert {name: rows(name, version=first.tables[name]) for name in GOLD} == then
    assert release.read(1) == first

    registry.apply()
    labels = "SELECT 1 AS customer_id, TIMESTAMPTZ '2017-03-03 00:00:00+00' AS event_timestamp"
    items = [
        registry.open_store(number)
        .get_historical_features(labels, ["customer_activity:items_7d"])
        .to_df()["items_7d"]
        .tolist()
        for number in (2, None)
    ]
    assert items == [[7], [7]]
    store = registry.open_store(1, allow_beyond_horizon=True)
    with pytest.warns(
        BeyondHorizonWarning, match=r"^1 of 1 labels lie after 2017-03-02 00:00 UTC, the horizon of release 1"
    ):
        assert store.get_historical_features(labels, ["customer_activity:items_7d"]).to_df()["items_7d"].tolist() == [2]


def _days(start: date, end: date) -> Iterator[date]:
    return (start + n * DAY for n in range((end - start).days))


def _may(day: int) -> date:
    return date(2017, 5, day)


def _bought(shop: Shop) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in (shop.root / "transactions").rglob("*.parquet"))

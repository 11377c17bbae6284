"""May 2017 of the real sample: however its days are cut into runs, and in whatever order files and runs come, the lake
ends in the same rows, and a run touches only what it must.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts.report import PUBLISHED, TableReport
from grocery.tests import may_2017, oracle
from grocery.tests.may_2017 import END, START
from grocery.tests.shop import Shop
from lake import release
from millrace import pipeline
from tests import comparison
from tests.comparison import Contents
from tests.conftest import set_home
from tests.landing import versions

DAY = timedelta(days=1)
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
    return may_2017.land(tmp_path_factory.mktemp("may") / "landing").root


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
        return comparison.contents()


@pytest.fixture(scope="module")
def ten_days(landed: Path, tmp_path_factory: pytest.TempPathFactory) -> Contents:
    """What one run over its first ten days makes of it."""
    with pytest.MonkeyPatch.context() as patch:
        Lakes(tmp_path_factory.mktemp("one"), landed, patch).fresh("ten")
        run(_may(1), _may(11))
        return comparison.contents()


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
        shutil.copytree(of, self.root / name, dirs_exist_ok=True)

    def own_landing(self, name: str) -> Shop:
        """A copy of the landing zone that a test may change."""
        return Shop(Path(shutil.copytree(self.landing, self.root / f"landing of {name}")))


@pytest.fixture
def lakes(home: Path, landed: Path, monkeypatch: pytest.MonkeyPatch) -> Lakes:
    return Lakes(home, landed, monkeypatch)


# --- the order of the runs


@pytest.mark.slow
def test_day_by_day_is_one_run(lakes: Lakes, one_run: Contents) -> None:
    lakes.fresh("daily")
    for day in _days(START, END):
        run_day(day)
    assert comparison.differences(one_run, comparison.contents()) == {}
    assert release.read().horizon == str(END)


@pytest.mark.parametrize(
    "order",
    [
        pytest.param([(5, 6), (3, 4), (4, 5), (1, 3), (6, 11)], id="5, then 3, then 4"),
        pytest.param([(2, 8), (1, 5), (4, 11), (2, 4)], id="overlapping"),
        pytest.param([(9, 11), (1, 2), (5, 6), (1, 11)], id="a gap, filled by one run over all"),
    ],
)
@pytest.mark.slow
def test_the_order_of_runs_does_not_matter(lakes: Lakes, ten_days: Contents, order: list[tuple[int, int]]) -> None:
    lakes.fresh("crooked")
    for first, end in order:
        run(_may(first), _may(end))
    assert comparison.differences(ten_days, comparison.contents()) == {}


def test_a_gap_is_days_without_purchases(lakes: Lakes) -> None:
    """Days that never ran are as if nothing had landed on them: windows decay over them."""
    lakes.fresh("gap")
    for day in (5, 3, 8):
        run_day(_may(day))
    with_gap = comparison.contents()
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
    assert comparison.differences(comparison.contents(), with_gap) == {}
    assert (
        with_gap["gold.customer_activity"].total()
        == oracle.expected_row_counts(_may(3), _may(9), _bought(shop))["customer_activity"]
    )


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


def _lines_of(late: list[dict[str, Any]]) -> set[tuple[int, int]]:
    return {(line["basket_id"], line["product_id"]) for line in late}


TENTH, WEEK_20 = date(2017, 5, 10), date(2017, 5, 8)
CUSTOMER, PRODUCT = {"customer_id": "household_id"}, {"product_id": "product_id"}
LATE = {
    "new transactions": Late(
        _some_transactions,
        TENTH,
        {
            "bronze.transactions": lambda row, _: row["_file"] == "transactions/2017-05-10/till-7.parquet",
            "silver.transactions": lambda row, late: (row["basket_id"], row["product_id"]) in _lines_of(late),
            "gold.customer_activity": lambda row, late: _moved_by(late, CUSTOMER, (TENTH, TENTH), 90, row),
            "gold.customer_product": lambda row, late: _moved_by(late, CUSTOMER | PRODUCT, (TENTH, TENTH), 90, row),
            "gold.product_popularity": lambda row, late: _moved_by(late, PRODUCT, (TENTH, TENTH), 28, row),
            **dict.fromkeys(
                ("gold.customer_velocity", "gold.customer_store"),
                lambda row, late: (row["basket_id"], row["product_id"]) in _lines_of(late),
            ),
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
    expected = comparison.contents()

    held = path.rename(path.with_name(f".{path.name}"))
    if case.splits:
        lakes.fresh("late", shop.root)
        run(START, END)
    else:
        lakes.copy("late", month, shop.root)
    before, at, number = comparison.contents(), versions(), release.read().number
    held.rename(path)
    reports = run_day(case.day)
    after, now = comparison.contents(), versions()

    assert comparison.differences(expected, after) == {}
    assert published(reports) == set(case.concerns)
    assert now == {name: version + (name in case.concerns) for name, version in at.items()}
    assert set(comparison.differences(before, after)) == set(case.concerns)
    for table, concerns in case.concerns.items():
        assert [row for row in comparison.changed(table, before, after) if not concerns(row, late)] == []
    assert release.read().number == number + 1

    assert published(run_day(case.day)) == set()
    assert (versions(), release.read().number) == (now, number + 1)


def _days(start: date, end: date) -> Iterator[date]:
    return (start + n * DAY for n in range((end - start).days))


def _may(day: int) -> date:
    return date(2017, 5, day)


def _bought(shop: Shop) -> pa.Table:
    return pa.concat_tables(pq.read_table(path) for path in (shop.root / "transactions").rglob("*.parquet"))

"""A longer past is the sample again and again: as many rows for each year, under keys, days and weeks of their own, and
with the same amounts.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from bench.scale import BASKETS, FIRST, WEEKS, YEAR, multiply
from contracts import catalog
from grocery.tests.shop import COLUMNS, Shop, purchase

YEARS = 3
LAST = date(2018, 1, 1)
"""The sample's last day, which a shift by whole weeks puts beside its first of the year after."""
EVENTS = ("transactions", "promotions", "redemptions")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The small shop, and what lies at both ends of the sample: its first and last day, its weeks 1 and 53, amounts
    with half cents.
    """
    shop = Shop.open(tmp_path / "source")
    shop.land(
        "transactions",
        [
            purchase(7, week=1, at="2017-01-01 00:00:00", sales_value=1.005),
            purchase(31198459904, week=1, at="2017-01-01 23:59:59"),
        ],
        FIRST,
    )
    shop.land("transactions", [purchase(41453065055, week=53, at="2018-01-01 04:01:20", sales_value=0.1)], LAST)
    shop.land(
        "promotions",
        [
            {"product_id": 1, "store_id": 10, "display_location": "0", "mailer_location": "A", "week": week}
            for week in (1, 53)
        ],
        FIRST,
    )
    shop.land(
        "redemptions",
        [{"household_id": 1, "coupon_upc": 10000085364, "campaign_id": 1, "redemption_date": LAST}],
        LAST,
        suffix=".csv",
    )
    (shop.root / "transactions" / str(FIRST) / ".half.parquet").write_bytes(b"not landed yet")
    return shop.root


@pytest.fixture
def target(source: Path, tmp_path: Path) -> Path:
    multiply(source, tmp_path / "target", YEARS)
    return tmp_path / "target"


def query(root: Path, table: str, sql: str) -> list[Any]:
    read = "read_parquet" if next(root.glob(f"{table}/*/*")).suffix == ".parquet" else "read_csv"
    with duckdb.connect() as con:
        return con.execute(f"SELECT {sql} FROM {read}('{root}/{table}/*/*')").fetchall()


def visible(root: Path) -> None:
    """Take the unfinished file away, which DuckDB would read."""
    for path in root.glob("*/*/.*"):
        path.unlink()


def test_every_year_has_all_rows_and_the_same_amounts(source: Path, target: Path) -> None:
    visible(source)
    for table in EVENTS:
        ((count,),) = query(source, table, "count(*)")
        assert query(target, table, "count(*)") == [(YEARS * count,)]
    amounts = (
        "sum(sales_value::DECIMAL(18, 9)), sum(retail_disc::DECIMAL(18, 9)), sum(quantity), min(sales_value),"
        " max(sales_value)"
    )
    ((sales, discounts, items, *ends),) = query(source, "transactions", amounts)
    assert query(target, "transactions", amounts) == [(YEARS * sales, YEARS * discounts, YEARS * items, *ends)]


def test_no_key_comes_twice(source: Path, target: Path) -> None:
    visible(source)
    for table, key in (
        ("transactions", "basket_id, product_id"),
        ("promotions", "product_id, store_id, week"),
        ("redemptions", "household_id, coupon_upc, redemption_date"),
    ):
        for root in (source, target):
            assert query(root, table, f"count(*) = count(DISTINCT ({key}))") == [(True,)], (table, root.name)


def test_a_row_of_each_year_is_found_where_it_belongs(target: Path) -> None:
    found = query(target, "transactions", "basket_id, week, transaction_timestamp")
    for back in range(YEARS):
        later = WEEKS * (YEARS - 1 - back)
        assert (7 + back * BASKETS, 1 + later, datetime(2017, 1, 1) - back * YEAR) in found
        assert (41453065055 + back * BASKETS, 53 + later, datetime(2018, 1, 1, 4, 1, 20) - back * YEAR) in found
    redeemed = {row[0] for row in query(target, "redemptions", "redemption_date")}
    assert {LAST - back * YEAR for back in range(YEARS)} <= redeemed


def test_a_file_lands_on_the_day_of_its_rows(target: Path) -> None:
    for path in target.glob("transactions/*/*"):
        days = {instant.date() for instant in pq.read_table(path)["transaction_timestamp"].to_pylist()}
        assert days == {date.fromisoformat(path.parent.name)}


def test_promotions_stay_with_the_purchases_of_their_week(source: Path, target: Path) -> None:
    visible(source)
    counts = {}
    for root in (source, target):
        with duckdb.connect() as con:
            sides = [f"read_parquet('{root}/{table}/*/*')" for table in ("transactions", "promotions")]
            ((counts[root],),) = con.execute(
                f"SELECT count(*) FROM {sides[0]} JOIN {sides[1]} USING (product_id, store_id, week)"
            ).fetchall()
    assert counts[source] > 0
    assert counts[target] == YEARS * counts[source]


def test_columns_and_types_stay(target: Path) -> None:
    for table in ("transactions", "promotions"):
        for path in target.glob(f"{table}/*/*"):
            schema = pq.read_schema(path)
            assert (schema.names, schema.types) == (COLUMNS[table].names, COLUMNS[table].types), path
    header = (next(target.glob("redemptions/*/2-*"))).read_text().splitlines()[0]
    assert header.replace('"', "").split(",") == COLUMNS["redemptions"].names


def test_snapshots_land_once_on_the_first_day_of_all(target: Path) -> None:
    first = str(FIRST - (YEARS - 1) * YEAR)
    landed = {path.name: [day.name for day in path.iterdir()] for path in target.iterdir() if path.name not in EVENTS}
    assert landed == {
        name: [first] for name in ("products", "demographics", "campaigns", "campaign_descriptions", "coupons")
    }
    assert {*landed, *EVENTS} == {table.name for table in catalog.tables() if table.layer == "bronze"}


def test_one_year_is_the_sample(source: Path, tmp_path: Path) -> None:
    multiply(source, tmp_path / "one", 1)
    visible(source)
    for table in EVENTS:
        assert sorted(query(tmp_path / "one", table, "*")) == sorted(query(source, table, "*"))


def test_a_year_is_whole_weeks() -> None:
    assert YEAR % timedelta(weeks=1) == timedelta(0)

"""May 2017 of the real sample for fifty customers, landed as the shop's systems would: small enough to run 31 times in
a test.

Cut from the package's files by DuckDB; no code of Millrace decides what is in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from grocery.tests.oracle import DATA
from grocery.tests.shop import Shop

START, END = date(2017, 5, 1), date(2017, 6, 1)
CUSTOMERS = 60


def land(root: Path) -> Shop:
    """Fill a landing zone: transactions and redemptions by day, promotions by week, the rest as snapshots of the first
    day.
    """
    shop = Shop(root)
    with duckdb.connect() as con:
        con.execute(
            f"CREATE TABLE bought AS FROM {_file('transactions')} WHERE household_id < {CUSTOMERS} AND"
            f" transaction_timestamp >= '{START}' AND transaction_timestamp < '{END}'"
        )
        for day, rows in _by(con, "FROM bought", "CAST(transaction_timestamp AS DATE)"):
            shop.land("transactions", rows, day)
        redeemed = (
            f"FROM {_file('coupon_redemptions')} WHERE household_id < {CUSTOMERS} AND redemption_date >= '{START}' AND"
            f" redemption_date < '{END}'"
        )
        for day, rows in _by(con, redeemed, "CAST(redemption_date AS DATE)"):
            shop.land("redemptions", rows, day, suffix=".csv")
        shown = f"FROM {_file('promotions')} SEMI JOIN bought USING (product_id, store_id, week)"
        for week, rows in _by(con, shown, "week"):
            shop.land("promotions", rows, max(week_starts(week), START), f"week-{week}")
        shop.land("products", _table(con, f"FROM {_file('products')} SEMI JOIN bought USING (product_id)"), START)
        shop.land(
            "coupons", _table(con, f"FROM {_file('coupons')} SEMI JOIN bought USING (product_id)"), START, suffix=".csv"
        )
        for name in ("demographics", "campaigns"):
            shop.land(name, _table(con, f"FROM {_file(name)} WHERE household_id < {CUSTOMERS}"), START, suffix=".csv")
        shop.land("campaign_descriptions", _table(con, f"FROM {_file('campaign_descriptions')}"), START, suffix=".csv")
    return shop


def week_starts(week: int) -> date:
    """The Monday on which the promotions of a week land; week 2 began on 2017-01-02."""
    return date(2017, 1, 2) + timedelta(weeks=week - 2)


def _file(name: str) -> str:
    return f"read_parquet('{DATA}/{name}.parquet')"


def _table(con: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    return con.sql(f"SELECT * {sql} ORDER BY ALL").to_arrow_table()


def _by(con: duckdb.DuckDBPyConnection, sql: str, key: str) -> Iterator[tuple[Any, pa.Table]]:
    con.execute(f"CREATE OR REPLACE TABLE cut AS SELECT *, {key} AS cut_by {sql}")
    for (value,) in con.execute("SELECT DISTINCT cut_by FROM cut ORDER BY ALL").fetchall():
        yield value, _table(con, f"EXCLUDE (cut_by) FROM cut WHERE cut_by = '{value}'")

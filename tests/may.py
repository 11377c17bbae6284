"""May 2017 of the real sample for fifty customers, landed as the shop's systems would: small enough to run 31 times in
a test.

Cut from the package's files by DuckDB; no code of Millrace decides what is in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from contracts import catalog
from lake import settings
from tests.landing import Shop, versions
from tests.oracle import DATA

START, END = date(2017, 5, 1), date(2017, 6, 1)
CUSTOMERS = 60
Contents = dict[str, Counter]
"""Table -> its rows as tuples, each with how often it is there."""


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


def contents() -> Contents:
    """Every published row of every table, bronze without the time of loading; read by DuckDB from the files of the
    newest versions.
    """
    return {name: rows(name) for name in versions()}


def rows(qualified: str, version: int | None = None) -> Counter:
    """The rows of a table, at a version or the newest one."""
    from deltalake import DeltaTable

    files = DeltaTable(str(settings.table_path(qualified)), version=version).file_uris()
    if not files:
        return Counter()
    layer, _ = qualified.split(".")
    columns = "* EXCLUDE (_loaded_at)" if layer == "bronze" else "*"
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        return Counter(con.execute(f"SELECT {columns} FROM read_parquet(?)", [files]).fetchall())


def differences(one: Contents, other: Contents) -> dict[str, Any]:
    """Table -> up to three rows that only one side has, or has more often; empty when both are the same lake."""
    found = {}
    for name in sorted({*one, *other}):
        left, right = one.get(name, Counter()), other.get(name, Counter())
        if left != right:
            found[name] = {
                "rows": (left.total(), right.total()),
                "only left": [*(left - right)][:3],
                "only right": [*(right - left)][:3],
            }
    return found


def changed(qualified: str, before: Contents, after: Contents) -> list[dict[str, Any]]:
    """The rows of a table that came, went or have another value, as dicts."""
    names = [name for name in catalog.table(qualified).column_names if name != "_loaded_at"]
    moved = (after[qualified] - before[qualified]) + (before[qualified] - after[qualified])
    return [dict(zip(names, row, strict=True)) for row in moved]


def _file(name: str) -> str:
    return f"read_parquet('{DATA}/{name}.parquet')"


def _table(con: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    return con.sql(f"SELECT * {sql} ORDER BY ALL").to_arrow_table()


def _by(con: duckdb.DuckDBPyConnection, sql: str, key: str) -> Iterator[tuple[Any, pa.Table]]:
    con.execute(f"CREATE OR REPLACE TABLE cut AS SELECT *, {key} AS cut_by {sql}")
    for (value,) in con.execute("SELECT DISTINCT cut_by FROM cut ORDER BY ALL").fetchall():
        yield value, _table(con, f"EXCLUDE (cut_by) FROM cut WHERE cut_by = '{value}'")

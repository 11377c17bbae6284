"""`gold.product_popularity`: units, buyers, revenue and the promoted share of each product over 7 and 28 days."""

from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from contracts.gold.product_popularity import WINDOWS
from contracts.interval import Interval
from contracts.model import MONEY_SUM
from etl.gold import windows

LONGEST = max(WINDOWS)
SUMS = {"units": WINDOWS, "revenue": WINDOWS, "promoted": (28,)}
COUNTS = {"buyers": WINDOWS}
KEY = ("product_id",)
PLACE = ("product_id", "store_id", "week")
"""What a promotion and a transaction share."""


def features(midnights: Sequence[Interval], transactions: DataFrame, promotions: DataFrame) -> DataFrame:
    """One row per product and midnight at which a window changes. `transactions` must reach back LONGEST + 1 days before the first midnight."""
    concerned = windows.concerned(transactions, KEY, midnights, WINDOWS)
    changed = windows.changes(_daily(_with_promoted(concerned, promotions)), KEY, SUMS, COUNTS)
    totals = windows.totals(changed, KEY, {**SUMS, **COUNTS})
    return windows.at_midnights(
        totals.select(
            *KEY,
            windows.event_timestamp(),
            *(F.col(f"units_{w}d").cast("bigint").alias(f"units_{w}d") for w in WINDOWS),
            *(F.col(f"buyers_{w}d").cast("bigint").alias(f"buyers_{w}d") for w in WINDOWS),
            *(F.col(f"revenue_{w}d").cast(MONEY_SUM.spark).alias(f"revenue_{w}d") for w in WINDOWS),
            windows.share(F.col("promoted_28d"), F.col("units_28d")).alias("promoted_share_28d"),
        ),
        midnights,
    )


def _with_promoted(transactions: DataFrame, promotions: DataFrame) -> DataFrame:
    """Adds `is_promoted`. The few places of the transactions pick the promotions, not the other way round: there are 14 times more promotions."""
    shown = promotions.filter("display_location <> '0' OR mailer_location <> '0'").select(*PLACE)
    promoted = transactions.select(*PLACE).distinct().join(shown, list(PLACE), "left_semi").withColumn("is_promoted", F.lit(True))
    return transactions.join(promoted, list(PLACE), "left")


def _daily(transactions: DataFrame) -> DataFrame:
    """One row per product and day; a customer counts once in a window however often it buys."""
    buyers = transactions.groupBy(*KEY, "customer_id", windows.day_of("transaction_at")).agg(
        F.sum("quantity").alias("units"),
        F.sum("sales_value").alias("revenue"),
        F.sum(F.when(F.col("is_promoted"), F.col("quantity")).otherwise(0)).alias("promoted"),
    )
    marked = windows.with_presence(buyers, KEY, "customer_id", WINDOWS, "buyers")
    return marked.groupBy(*KEY, "day").agg(*(F.sum(name).alias(name) for name in SUMS), *windows.presence("buyers", WINDOWS))

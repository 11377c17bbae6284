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
BUYERS = windows.Distinct("buyers", "customer_id", WINDOWS)
"""A customer counts once in a window however often it buys."""
KEY = ("product_id",)
PLACE = ("product_id", "store_id", "week")
"""What a promotion and a transaction share."""


def features(midnights: Sequence[Interval], transactions: DataFrame, promotions: DataFrame) -> DataFrame:
    """One row per product and midnight at which a window changes. `transactions` must reach back LONGEST + 1 days before the first midnight."""
    concerned = _with_promoted(windows.concerned(transactions, KEY, midnights, WINDOWS), promotions)
    lines = concerned.select(
        *KEY,
        "customer_id",
        "transaction_at",
        F.col("quantity").alias("units"),
        F.col("sales_value").alias("revenue"),
        F.when(F.col("is_promoted"), F.col("quantity")).otherwise(0).alias("promoted"),
    )
    held = windows.contents(lines, midnights, KEY, SUMS, distinct=BUYERS)
    return held.select(
        *KEY,
        "event_timestamp",
        *(F.col(f"units_{w}d").cast("bigint").alias(f"units_{w}d") for w in WINDOWS),
        *(F.col(f"buyers_{w}d").cast("bigint").alias(f"buyers_{w}d") for w in WINDOWS),
        *(F.col(f"revenue_{w}d").cast(MONEY_SUM.spark).alias(f"revenue_{w}d") for w in WINDOWS),
        windows.share(F.col("promoted_28d"), F.col("units_28d")).alias("promoted_share_28d"),
    )


def _with_promoted(transactions: DataFrame, promotions: DataFrame) -> DataFrame:
    """Adds `is_promoted`. The few places of the transactions pick the promotions, not the other way round: there are 14 times more promotions."""
    shown = promotions.filter("display_location <> '0' OR mailer_location <> '0'").select(*PLACE)
    promoted = transactions.select(*PLACE).distinct().join(shown, list(PLACE), "left_semi").withColumn("is_promoted", F.lit(True))
    return transactions.join(promoted, list(PLACE), "left")

"""`gold.customer_activity`: spend, items, baskets and discounts of each customer over 7, 30 and 90 days."""

from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from contracts.gold.customer_activity import WINDOWS
from contracts.interval import Interval
from contracts.model import MONEY_SUM
from etl.gold import windows

LONGEST = max(WINDOWS)
SUMS = {"spend": WINDOWS, "items": WINDOWS, "discount": (30,)}
BASKETS = windows.Distinct("baskets", "basket_id", WINDOWS)
"""A basket counts once however many products it holds and however many days it spans."""
KEY = ("customer_id",)


def features(midnights: Sequence[Interval], transactions: DataFrame) -> DataFrame:
    """One row per customer and midnight at which a window changes. `transactions` must reach back LONGEST + 1 days before the first midnight."""
    lines = windows.concerned(transactions, KEY, midnights, WINDOWS).select(
        *KEY,
        "basket_id",
        "transaction_at",
        F.col("sales_value").alias("spend"),
        F.col("quantity").alias("items"),
        (F.col("retail_disc") + F.col("coupon_disc") + F.col("coupon_match_disc")).alias("discount"),
    )
    held = windows.contents(lines, midnights, KEY, SUMS, distinct=BASKETS, newest="last_basket_at")
    discount, spend = F.col("discount_30d"), F.col("spend_30d")
    return held.select(
        *KEY,
        "event_timestamp",
        *(F.col(f"spend_{w}d").cast(MONEY_SUM.spark).alias(f"spend_{w}d") for w in WINDOWS),
        *(F.col(f"items_{w}d").cast("bigint").alias(f"items_{w}d") for w in WINDOWS),
        *(F.col(f"baskets_{w}d").cast("bigint").alias(f"baskets_{w}d") for w in WINDOWS),
        windows.share(discount, spend + discount).alias("discount_share_30d"),
        "last_basket_at",
    )

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
COUNTS = {"baskets": WINDOWS}
KEY = ("customer_id",)


def features(midnights: Sequence[Interval], transactions: DataFrame) -> DataFrame:
    """One row per customer and midnight at which a window changes. `transactions` must reach back LONGEST + 1 days before the first midnight."""
    concerned = windows.concerned(transactions, KEY, midnights, WINDOWS)
    changed = windows.changes(_daily(concerned), KEY, SUMS, COUNTS, newest="last_basket_at")
    totals = windows.totals(changed, KEY, {**SUMS, **COUNTS}, newest="last_basket_at")
    discount, spend = F.col("discount_30d"), F.col("spend_30d")
    return windows.at_midnights(
        totals.select(
            *KEY,
            windows.event_timestamp(),
            *(F.col(f"spend_{w}d").cast(MONEY_SUM.spark).alias(f"spend_{w}d") for w in WINDOWS),
            *(F.col(f"items_{w}d").cast("bigint").alias(f"items_{w}d") for w in WINDOWS),
            *(F.col(f"baskets_{w}d").cast("bigint").alias(f"baskets_{w}d") for w in WINDOWS),
            windows.share(discount, spend + discount).alias("discount_share_30d"),
            "last_basket_at",
        ),
        midnights,
    )


def _daily(transactions: DataFrame) -> DataFrame:
    """One row per customer and day; a basket counts once however many products it holds and however many days it spans."""
    discount = F.col("retail_disc") + F.col("coupon_disc") + F.col("coupon_match_disc")
    baskets = transactions.groupBy(*KEY, "basket_id", windows.day_of("transaction_at")).agg(
        F.sum("sales_value").alias("spend"),
        F.sum("quantity").alias("items"),
        F.sum(discount).alias("discount"),
        F.max("transaction_at").alias("last_basket_at"),
    )
    marked = windows.with_presence(baskets, KEY, "basket_id", WINDOWS, "baskets")
    totals = [F.sum(name).alias(name) for name in SUMS]
    return marked.groupBy(*KEY, "day").agg(*totals, *windows.presence("baskets", WINDOWS), F.max("last_basket_at").alias("last_basket_at"))

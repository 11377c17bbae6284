"""`gold.customer_product`: how many baskets of a customer held a product over 90 days, when the last one was, and what went before it."""

from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from contracts.gold.customer_product import HALF_LIFE, MEMORY, WINDOW
from contracts.interval import Interval
from etl.gold import windows

REMEMBERED = windows.Memory("purchases", MEMORY, HALF_LIFE)
LONGEST = WINDOW + MEMORY
"""Days: a row is written as its last purchase leaves the window, and tells the memory of that purchase."""
KEY = ("customer_id", "product_id")


def features(midnights: Sequence[Interval], transactions: DataFrame) -> DataFrame:
    """One row per customer, product and midnight at which the window changes. `transactions` must reach back LONGEST + 1 days before the first midnight.

    A basket holds a product in one row (the key of silver.transactions), so rows count distinct baskets.
    """
    concerned = windows.concerned(transactions, KEY, midnights, (WINDOW,))
    lines = concerned.select(*KEY, "transaction_at", F.lit(1).cast("bigint").alias("purchases"))
    held = windows.contents(lines, midnights, KEY, {"purchases": (WINDOW,)}, newest="last_purchased_at", memory=REMEMBERED)
    counts = [F.col(name).cast("bigint").alias(name) for name in (f"purchases_{WINDOW}d", "memory_purchases", "memory_weight")]
    return held.select(*KEY, "event_timestamp", *counts, "last_purchased_at", "memory_began_at")

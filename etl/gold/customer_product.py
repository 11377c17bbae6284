"""`gold.customer_product`: how many baskets of a customer held a product over 90 days, and when the last one was."""

from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from contracts.gold.customer_product import WINDOW
from contracts.interval import Interval
from etl.gold import windows

LONGEST = WINDOW
KEY = ("customer_id", "product_id")


def features(midnights: Sequence[Interval], transactions: DataFrame) -> DataFrame:
    """One row per customer, product and midnight at which the window changes. `transactions` must reach back LONGEST + 1 days before the first midnight.

    A basket holds a product in one row (the key of silver.transactions), so rows count distinct baskets.
    """
    concerned = windows.concerned(transactions, KEY, midnights, (WINDOW,))
    lines = concerned.select(*KEY, "transaction_at", F.lit(1).cast("bigint").alias("purchases"))
    held = windows.contents(lines, midnights, KEY, {"purchases": (WINDOW,)}, newest="last_purchased_at")
    return held.select(*KEY, "event_timestamp", F.col(f"purchases_{WINDOW}d").cast("bigint").alias(f"purchases_{WINDOW}d"), "last_purchased_at")

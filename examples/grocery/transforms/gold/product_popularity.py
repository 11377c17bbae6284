"""`gold.product_popularity`: which purchases were of a product on promotion."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

SHELF = ("product_id", "store_id", "week")
"""The columns that join promotions to transactions."""


def events(transactions: DataFrame, promotions: DataFrame) -> DataFrame:
    """The transactions with `promoted_quantity`.

    The distinct shelves of the transactions are matched with the promotions first: there are 14 times more promotions.
    """
    shown = promotions.filter("display_location <> '0' OR mailer_location <> '0'").select(*SHELF)
    promoted = (
        transactions.select(*SHELF)
        .distinct()
        .join(shown, list(SHELF), "left_semi")
        .withColumn("is_promoted", F.lit(True))
    )
    quantity = F.when(F.col("is_promoted"), F.col("quantity")).otherwise(0)
    return transactions.join(promoted, list(SHELF), "left").withColumn("promoted_quantity", quantity)

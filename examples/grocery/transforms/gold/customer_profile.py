"""`gold.customer_profile`: the part of the survey's answers that models use, known from the midnight of their snapshot
on.
"""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def features(customers: DataFrame) -> DataFrame:
    """One row per customer and snapshot."""
    known_at = F.col("snapshot_date").cast("timestamp").alias("event_timestamp")
    return customers.select("customer_id", known_at, "age", "income", "household_size", "kids_count")

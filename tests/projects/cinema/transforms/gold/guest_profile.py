"""`gold.guest_profile`: what guests said, known from the midnight of their snapshot on."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F


def features(guests: DataFrame) -> DataFrame:
    """One row per guest and snapshot."""
    known_at = F.col("snapshot_date").cast("timestamp").alias("event_timestamp")
    return guests.select("guest_id", known_at, "age_band", "tier", "party_size", "children")

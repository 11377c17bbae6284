"""`silver.promotions`: the weekly deliveries, with the date of their folder."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from etl.silver import PROVENANCE


def clean(promotions: DataFrame) -> DataFrame:
    """One row per row that came in."""
    return promotions.select("product_id", "store_id", "week", "display_location", "mailer_location", F.col("_landed_date").alias("landed_date"), *PROVENANCE)

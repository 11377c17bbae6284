"""`silver.campaigns`: who was addressed, with the type and the days of the campaign from its newest description."""

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from etl.silver import PROVENANCE


def clean(campaigns: DataFrame, campaign_descriptions: DataFrame) -> DataFrame:
    """One row per row of `campaigns`, also for a campaign without a description."""
    newest = Window.partitionBy("campaign_id").orderBy(*(F.col(name).desc() for name in PROVENANCE))
    described = campaign_descriptions.withColumn("nth", F.row_number().over(newest)).filter("nth = 1")
    described = described.select("campaign_id", "campaign_type", _day("start_date"), _day("end_date"))
    customer = F.col("household_id").alias("customer_id")
    joined = campaigns.join(described, "campaign_id", "left")
    return joined.select("campaign_id", customer, "campaign_type", "start_date", "end_date", *PROVENANCE)


def _day(name: str) -> Column:
    return F.to_date(name).alias(name)

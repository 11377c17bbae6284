"""`silver.campaigns`: who was addressed, with the type and the days of the campaign from its newest description."""

from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from etl.silver import PROVENANCE, customer_id, day


def clean(campaigns: DataFrame, campaign_descriptions: DataFrame) -> DataFrame:
    """One row per row of `campaigns`; a campaign without a description keeps its customers."""
    newest = Window.partitionBy("campaign_id").orderBy(*(F.col(name).desc() for name in PROVENANCE))
    described = campaign_descriptions.withColumn("nth", F.row_number().over(newest)).filter("nth = 1")
    described = described.select("campaign_id", "campaign_type", day("start_date"), day("end_date"))
    return campaigns.join(described, "campaign_id", "left").select("campaign_id", customer_id(), "campaign_type", "start_date", "end_date", *PROVENANCE)

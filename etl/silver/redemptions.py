"""`silver.redemptions`: the household becomes a customer, the instant a day."""

from pyspark.sql import DataFrame

from etl.silver import PROVENANCE, customer_id, day


def clean(redemptions: DataFrame) -> DataFrame:
    """One row per row that came in."""
    return redemptions.select(customer_id(), "coupon_upc", "campaign_id", day("redemption_date"), *PROVENANCE)

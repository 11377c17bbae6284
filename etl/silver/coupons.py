"""`silver.coupons`: which product a coupon is good for."""

from pyspark.sql import DataFrame

from etl.silver import PROVENANCE


def clean(coupons: DataFrame) -> DataFrame:
    """One row per row that came in."""
    return coupons.select("coupon_upc", "product_id", "campaign_id", *PROVENANCE)

"""`silver.redemptions`: which customer handed in which coupon."""

from datetime import timedelta

from contracts.model import DATE, Column, Layer, Reference, Table
from grocery.columns import CAMPAIGN_ID, COUPON_UPC, CUSTOMER_ID

redemptions = Table(
    layer=Layer.SILVER,
    name="redemptions",
    doc="Coupons handed in",
    grain="one row per customer, coupon, campaign and day",
    owner="marketing",
    freshness=timedelta(days=1),
    inputs=("bronze.redemptions",),
    key=("customer_id", "coupon_upc", "campaign_id", "redemption_date"),
    time_column="redemption_date",
    columns=(
        CUSTOMER_ID,
        COUPON_UPC,
        CAMPAIGN_ID,
        Column("redemption_date", DATE, "Day of the redemption", required=True),
    ),
    references=(
        Reference(("coupon_upc", "campaign_id"), "silver.coupons", ("coupon_upc", "campaign_id")),
        Reference(("campaign_id", "customer_id"), "silver.campaigns", ("campaign_id", "customer_id")),
    ),
)

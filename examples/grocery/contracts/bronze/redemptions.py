"""`bronze.redemptions`: coupons handed in, as they landed."""

from datetime import timedelta

from contracts.columns import AUDIT_COLUMNS
from contracts.model import LONG, TIMESTAMP, Column, Layer, Pii, Rule, Table

redemptions = Table(
    layer=Layer.BRONZE,
    name="redemptions",
    doc="Coupons handed in, as they landed",
    grain="one row per household, coupon and campaign, once per file",
    owner="data-platform",
    freshness=timedelta(days=1),
    time_column="redemption_date",
    columns=(
        Column("household_id", LONG, "Household that shops", required=True, pii=Pii.PSEUDONYM),
        Column("coupon_upc", LONG, "Coupon", required=True),
        Column("campaign_id", LONG, "Campaign", required=True),
        Column("redemption_date", TIMESTAMP, "Day of the redemption", required=True),
        *AUDIT_COLUMNS,
    ),
    rules=(
        Rule(
            "not_after_landing",
            "CAST(redemption_date AS DATE) <= _landed_date",
            "the redemption lies after the day its file landed",
        ),
    ),
)

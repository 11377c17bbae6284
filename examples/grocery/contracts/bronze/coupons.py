"""`bronze.coupons`: coupons and the products they are good for, as they landed."""

from datetime import timedelta

from contracts.columns import AUDIT_COLUMNS
from contracts.model import LONG, Column, Layer, Load, Table

coupons = Table(
    layer=Layer.BRONZE,
    name="coupons",
    doc="Coupons and the products they are good for, as they landed",
    grain="one row per coupon, product and campaign",
    owner="data-platform",
    freshness=timedelta(days=400),
    load=Load.SNAPSHOT,
    time_column="_landed_date",
    columns=(
        Column("coupon_upc", LONG, "Coupon", required=True),
        Column("product_id", LONG, "Product", required=True),
        Column("campaign_id", LONG, "Campaign", required=True),
        *AUDIT_COLUMNS,
    ),
)

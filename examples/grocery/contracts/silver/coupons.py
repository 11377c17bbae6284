"""`silver.coupons`: which product a coupon is good for, in which campaign."""

from datetime import timedelta

from contracts.model import Layer, Load, Reference, Table
from grocery.columns import CAMPAIGN_ID, COUPON_UPC, PRODUCT_ID

coupons = Table(
    layer=Layer.SILVER,
    name="coupons",
    doc="Products that a coupon is good for",
    grain="one row per coupon, product and campaign",
    owner="marketing",
    freshness=timedelta(days=400),
    load=Load.SNAPSHOT,
    inputs=("bronze.coupons",),
    key=("coupon_upc", "product_id", "campaign_id"),
    columns=(COUPON_UPC, PRODUCT_ID, CAMPAIGN_ID),
    references=(Reference(("product_id",), "silver.products", ("product_id",)),),
)

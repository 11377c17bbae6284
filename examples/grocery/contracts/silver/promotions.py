"""`silver.promotions`: which product was on display or in the mailer, where and in which week."""

from datetime import timedelta

from contracts.model import STRING, Column, Layer, Reference, Table
from grocery.columns import PRODUCT_ID, STORE_ID, WEEK, landed

promotions = Table(
    layer=Layer.SILVER,
    name="promotions",
    doc="Products on display or in the weekly mailer",
    grain="one row per product, store, week and pair of places",
    owner="merchandising",
    freshness=timedelta(weeks=1),
    inputs=("bronze.promotions",),
    key=("product_id", "store_id", "week", "display_location", "mailer_location"),
    time_column="landed_date",
    columns=(
        PRODUCT_ID,
        STORE_ID,
        WEEK,
        Column(
            "display_location",
            STRING,
            "Place of the in-store display, 0 for none",
            required=True,
            allowed=("0", "1", "2", "3", "4", "5", "6", "7", "9", "A"),
        ),
        Column(
            "mailer_location",
            STRING,
            "Place in the mailer, 0 for none",
            required=True,
            allowed=("0", "A", "C", "D", "F", "H", "J", "L", "P", "X", "Z"),
        ),
        landed("landed_date", "Date of the weekly delivery"),
    ),
    references=(Reference(("product_id",), "silver.products", ("product_id",)),),
)

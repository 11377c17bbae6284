"""`bronze.promotions`: products on display or in the weekly mailer, as they landed."""

from datetime import timedelta

from contracts.columns import AUDIT_COLUMNS
from contracts.model import LONG, STRING, Column, Layer, Table

promotions = Table(
    layer=Layer.BRONZE,
    name="promotions",
    doc="Products on display or in the weekly mailer, as they landed",
    grain="one row per product, store, week and place, once per file",
    owner="data-platform",
    freshness=timedelta(weeks=1),
    time_column="_landed_date",
    columns=(
        Column("product_id", LONG, "Product", required=True),
        Column("store_id", LONG, "Store", required=True),
        Column("display_location", STRING, "Place of the in-store display, 0 for none", required=True),
        Column("mailer_location", STRING, "Place in the mailer, 0 for none", required=True),
        Column("week", LONG, "Week of the study, from 1", required=True),
        *AUDIT_COLUMNS,
    ),
)

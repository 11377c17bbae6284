"""`gold.customer_product`: how often a customer has bought a product lately, and when last."""

from datetime import timedelta

from contracts.gold import AT_MIDNIGHT, EVENT_TIMESTAMP
from contracts.model import LONG, TIMESTAMP, Column, Layer, Rule, Table
from contracts.silver import CUSTOMER_ID, PRODUCT_ID

WINDOW = 90
"""Days."""

customer_product = Table(
    layer=Layer.GOLD,
    name="customer_product",
    doc="How often a customer has bought a product lately, and when last",
    grain="one row per customer, product and midnight at which the window changes",
    owner="ml-platform",
    freshness=timedelta(days=1),
    inputs=("silver.transactions",),
    key=("customer_id", "product_id", "event_timestamp"),
    time_column="event_timestamp",
    columns=(
        CUSTOMER_ID,
        PRODUCT_ID,
        EVENT_TIMESTAMP,
        Column("purchases_90d", LONG, "Distinct baskets with the product in the last 90 days", required=True, minimum=0, unit="baskets"),
        Column("last_purchased_at", TIMESTAMP, "Newest purchase before event_timestamp, of any age", required=True),
    ),
    rules=(
        AT_MIDNIGHT,
        Rule("last_purchase_is_past", "last_purchased_at < event_timestamp", "last_purchased_at is not before event_timestamp"),
    ),
)

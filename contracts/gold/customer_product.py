"""`gold.customer_product`: how often a customer has bought a product lately, and when last."""

from datetime import timedelta

from contracts.gold import AT_MIDNIGHT, EVENT_TIMESTAMP
from contracts.model import LONG, TIMESTAMP, Column, Layer, Rule, Table
from contracts.silver import CUSTOMER_ID, PRODUCT_ID

WINDOW = 90
"""Days."""
MEMORY, HALF_LIFE = 365, 60
"""Days: how far back from the newest purchase is remembered, and how much earlier a purchase counts half."""

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
        Column(
            "memory_purchases",
            LONG,
            f"Distinct baskets with the product in the {MEMORY} days that end with the day of last_purchased_at",
            required=True,
            minimum=1,
            unit="baskets",
        ),
        Column("memory_began_at", TIMESTAMP, f"Oldest purchase in the {MEMORY} days that end with the day of last_purchased_at", required=True),
        Column(
            "memory_weight",
            LONG,
            f"Sum over these baskets of round(2^20 * 2^(-k / {HALF_LIFE})), k being the whole days from the basket's day to that of last_purchased_at",
            required=True,
            minimum=1,
        ),
    ),
    rules=(
        AT_MIDNIGHT,
        Rule("last_purchase_is_past", "last_purchased_at < event_timestamp", "last_purchased_at is not before event_timestamp"),
        Rule("memory_is_past", "memory_began_at <= last_purchased_at", "memory_began_at is after last_purchased_at"),
        Rule("memory_holds_the_window", "purchases_90d <= memory_purchases", "90 days hold more purchases than the memory"),
    ),
)

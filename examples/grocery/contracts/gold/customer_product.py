"""`gold.customer_product`: how often a customer has bought a product lately, and when last.

A basket holds a product in one row (the key of silver.transactions), so rows count distinct baskets.
"""

from contracts.aggregations import Count, Decayed, First, Latest, before_latest, days, feature_table
from contracts.model import Rule
from grocery.columns import CUSTOMER_ID, PRODUCT_ID
from grocery.contracts.silver.transactions import transactions

MEMORY, HALF_LIFE = 365, 60
"""Days: how far back from the newest purchase is remembered, and how much earlier a purchase counts half."""

customer_product = feature_table(
    name="customer_product",
    doc="How often a customer has bought a product lately, and when last",
    owner="ml-platform",
    key=(CUSTOMER_ID, PRODUCT_ID),
    events=transactions,
    aggregations=(
        Count("purchases", windows=days(90), doc="Distinct baskets with the product", unit="baskets"),
        Latest("last_purchased_at", doc="Newest purchase"),
        Count(
            "memory_purchases",
            windows=before_latest(MEMORY),
            doc="Distinct baskets with the product",
            minimum=1,
            unit="baskets",
        ),
        First("memory_began_at", windows=before_latest(MEMORY), doc="Oldest purchase"),
        Decayed("memory_weight", windows=before_latest(MEMORY), half_life=HALF_LIFE, minimum=1),
    ),
    rules=(
        Rule("memory_is_past", "memory_began_at <= last_purchased_at", "memory_began_at is after last_purchased_at"),
        Rule("memory_holds_the_window", "purchases_90d <= memory_purchases", "90 days hold more purchases than the memory"),
    ),
)

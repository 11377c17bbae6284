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
    grain="one row per customer, product and midnight at which the window changes",
    key=(CUSTOMER_ID, PRODUCT_ID),
    events=transactions,
    aggregations=(
        Count("purchases", windows=days(90), doc="Distinct baskets with the product", unit="baskets"),
        Latest("last_purchased_at", doc="Newest purchase"),
        Count(
            "memory_purchases",
            windows=before_latest(MEMORY),
            meaning="Distinct baskets with the product in the {window} that end with the day of last_purchased_at",
            minimum=1,
            unit="baskets",
        ),
        First(
            "memory_began_at",
            windows=before_latest(MEMORY),
            meaning="Oldest purchase in the {window} that end with the day of last_purchased_at",
        ),
        Decayed(
            "memory_weight",
            windows=before_latest(MEMORY),
            half_life=HALF_LIFE,
            meaning=(
                f"Sum over these baskets of round(2^20 * 2^(-k / {HALF_LIFE})), k being the whole days from the"
                " basket's day to that of last_purchased_at"
            ),
            minimum=1,
        ),
    ),
    rules=(
        Rule("memory_is_past", "memory_began_at <= last_purchased_at", "memory_began_at is after last_purchased_at"),
        Rule(
            "memory_holds_the_window",
            "purchases_90d <= memory_purchases",
            "90 days hold more purchases than the memory",
        ),
    ),
)

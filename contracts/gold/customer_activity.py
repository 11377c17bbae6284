"""`gold.customer_activity`: how much and how often a customer has bought lately."""

from datetime import timedelta

from contracts.gold import AT_MIDNIGHT, EVENT_TIMESTAMP
from contracts.model import DOUBLE, LONG, MONEY_SUM, TIMESTAMP, Column, Layer, Rule, Table
from contracts.silver import CUSTOMER_ID

WINDOWS = (7, 30, 90)
"""Days."""

customer_activity = Table(
    layer=Layer.GOLD,
    name="customer_activity",
    doc="How much and how often a customer has bought lately",
    grain="one row per customer and midnight at which a window changes",
    owner="ml-platform",
    freshness=timedelta(days=1),
    inputs=("silver.transactions",),
    key=("customer_id", "event_timestamp"),
    time_column="event_timestamp",
    columns=(
        CUSTOMER_ID,
        EVENT_TIMESTAMP,
        *(Column(f"spend_{w}d", MONEY_SUM, f"Sum of sales_value in the last {w} days", required=True, minimum=0, unit="USD") for w in WINDOWS),
        *(Column(f"items_{w}d", LONG, f"Sum of quantity in the last {w} days", required=True, minimum=0, unit="items") for w in WINDOWS),
        *(Column(f"baskets_{w}d", LONG, f"Distinct baskets in the last {w} days", required=True, minimum=0, unit="baskets") for w in WINDOWS),
        Column(
            "discount_share_30d", DOUBLE, "Discounts / (sales_value + discounts) over 30 days, 0 when nothing was paid", required=True, minimum=0, maximum=1
        ),
        Column("last_basket_at", TIMESTAMP, "Newest transaction before event_timestamp, of any age", required=True),
    ),
    rules=(
        AT_MIDNIGHT,
        Rule(
            "windows_nest",
            "baskets_7d <= baskets_30d AND baskets_30d <= baskets_90d AND spend_7d <= spend_30d AND spend_30d <= spend_90d",
            "a shorter window holds more than a longer one",
        ),
        Rule("last_basket_is_past", "last_basket_at < event_timestamp", "last_basket_at is not before event_timestamp"),
    ),
)

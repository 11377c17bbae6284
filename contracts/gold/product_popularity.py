"""`gold.product_popularity`: how much of a product was sold lately, to how many, and how much of it on promotion."""

from datetime import timedelta

from contracts.gold import AT_MIDNIGHT, EVENT_TIMESTAMP
from contracts.model import DOUBLE, LONG, MONEY_SUM, Column, Layer, Reference, Rule, Table
from contracts.silver import PRODUCT_ID

WINDOWS = (7, 28)
"""Days."""

product_popularity = Table(
    layer=Layer.GOLD,
    name="product_popularity",
    doc="How much of a product was sold lately",
    grain="one row per product and midnight at which a window changes",
    owner="ml-platform",
    freshness=timedelta(days=1),
    inputs=("silver.transactions", "silver.promotions"),
    key=("product_id", "event_timestamp"),
    time_column="event_timestamp",
    columns=(
        PRODUCT_ID,
        EVENT_TIMESTAMP,
        *(Column(f"units_{w}d", LONG, f"Sum of quantity in the last {w} days", required=True, minimum=0, unit="items") for w in WINDOWS),
        *(Column(f"buyers_{w}d", LONG, f"Distinct customers in the last {w} days", required=True, minimum=0, unit="customers") for w in WINDOWS),
        *(Column(f"revenue_{w}d", MONEY_SUM, f"Sum of sales_value in the last {w} days", required=True, minimum=0, unit="USD") for w in WINDOWS),
        Column("promoted_share_28d", DOUBLE, "Units in promoted transactions / units over 28 days, 0 when no units", required=True, minimum=0, maximum=1),
    ),
    rules=(
        AT_MIDNIGHT,
        Rule(
            "windows_nest", "units_7d <= units_28d AND buyers_7d <= buyers_28d AND revenue_7d <= revenue_28d", "a shorter window holds more than a longer one"
        ),
    ),
    references=(Reference(("product_id",), "silver.products", ("product_id",)),),
)

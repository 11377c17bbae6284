"""`gold.product_popularity`: how much of a product was sold lately, to how many, and how much of it on promotion."""

from contracts.aggregations import Distinct, MappedInTime, Ratio, Sum, days, feature_table
from contracts.model import LONG, Column, Reference
from grocery.columns import PRODUCT_ID
from grocery.contracts.silver.promotions import promotions
from grocery.contracts.silver.transactions import transactions

product_popularity = feature_table(
    name="product_popularity",
    doc="How much of a product was sold lately",
    owner="ml-platform",
    grain="one row per product and midnight at which a window changes",
    key=(PRODUCT_ID,),
    events=transactions,
    joined=(
        MappedInTime(
            promotions,
            by=("week",),
            reads=("product_id", "store_id", "week", "display_location", "mailer_location"),
        ),
    ),
    prepared=(
        Column(
            "promoted_quantity",
            LONG,
            "Units bought on promotion",
            required=True,
            minimum=0,
            source="quantity",
        ),
    ),
    aggregations=(
        Sum("units", "quantity", windows=days(7, 28), unit="items"),
        Distinct("buyers", "customer_id", windows=days(7, 28), doc="Distinct customers", unit="customers"),
        Sum("revenue", "sales_value", windows=days(7, 28)),
        Ratio(
            "promoted_share",
            part=Sum(of="promoted_quantity"),
            whole=Sum(of="quantity"),
            windows=days(28),
            meaning="Units in promoted transactions / units over {window}, 0 when no units",
            minimum=0,
            maximum=1,
        ),
    ),
    references=(Reference(("product_id",), "silver.products", ("product_id",)),),
)

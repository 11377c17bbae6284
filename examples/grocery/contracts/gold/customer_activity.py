"""`gold.customer_activity`: how much and how often a customer has bought lately."""

from contracts.aggregations import Distinct, Latest, Ratio, Sum, days, feature_table
from grocery.columns import CUSTOMER_ID
from grocery.contracts.silver.transactions import transactions

DISCOUNTS = "retail_disc + coupon_disc + coupon_match_disc"

customer_activity = feature_table(
    name="customer_activity",
    doc="How much and how often a customer has bought lately",
    owner="ml-platform",
    key=(CUSTOMER_ID,),
    events=transactions,
    aggregations=(
        Sum("spend", "sales_value", windows=days(7, 30, 90)),
        Sum("items", "quantity", windows=days(7, 30, 90), unit="items"),
        Distinct("baskets", "basket_id", windows=days(7, 30, 90), doc="Distinct baskets", unit="baskets"),
        Ratio(
            "discount_share",
            part=Sum(of=DISCOUNTS),
            whole=Sum(of=f"sales_value + {DISCOUNTS}"),
            windows=days(30),
            doc="Discounts / (sales_value + discounts)",
            minimum=0,
            maximum=1,
        ),
        Latest("last_basket_at", doc="Newest transaction"),
    ),
)

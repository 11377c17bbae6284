"""`gold.customer_orders`: how much and how often a customer has ordered lately."""

from contracts.aggregations import Count, Distinct, Latest, Sum, days, feature_table
from starter.columns import CUSTOMER
from starter.contracts.silver.orders import orders

customer_orders = feature_table(
    name="customer_orders",
    doc="How much and how often a customer has ordered lately",
    owner="shop",
    key=(CUSTOMER,),
    events=orders,
    aggregations=(
        Sum("spend", "amount", windows=days(7, 30)),
        Count("orders", windows=days(7, 30), doc="Orders"),
        Distinct("categories", "category", windows=days(30)),
        Latest("last_order_at"),
    ),
)

"""`gold.customer_orders`: what a customer has ordered lately."""

from depot.contracts.silver.orders import orders

from contracts.aggregations import Count, Sum, days, feature_table

customer_orders = feature_table(
    name="customer_orders",
    doc="What a customer has ordered lately",
    owner="depot",
    key=(orders.column("customer"),),
    events=orders,
    aggregations=(Sum("spend", "amount", windows=days(7)), Count("orders", windows=days(7))),
)

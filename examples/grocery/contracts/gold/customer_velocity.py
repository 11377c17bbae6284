"""`gold.customer_velocity`: how much, how often and where a customer has bought in the last minutes and hours, at any
instant.

A row of silver.transactions is one basket and product: a purchase is a basket, and a line is one of its products.
"""

from contracts.aggregations import At, Distinct, Mean, Sum, days, feature_table, hours, minutes
from grocery.columns import CUSTOMER_ID
from grocery.contracts.silver.transactions import transactions

LATELY = (*minutes(10), *hours(1, 24))

customer_velocity = feature_table(
    name="customer_velocity",
    doc="How much, how often and where a customer has bought in the last minutes and hours, at any instant",
    owner="risk",
    grain="one row per basket and product",
    key=(CUSTOMER_ID,),
    events=transactions,
    at=At.INSTANTS,
    aggregations=(
        Distinct("purchases", "basket_id", windows=LATELY, doc="Distinct baskets", unit="baskets"),
        Sum("amount", "sales_value", windows=LATELY),
        Distinct("stores", "store_id", windows=LATELY, doc="Distinct stores", unit="stores"),
        Mean("line_mean", "sales_value", windows=days(90), doc="Mean sales_value of a basket's line"),
    ),
)

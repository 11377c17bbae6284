"""`gold.customer_store`: when a customer last bought in a store, at any instant; no features before the first time."""

from contracts.aggregations import At, Latest, feature_table
from grocery.columns import CUSTOMER_ID, STORE_ID
from grocery.contracts.silver.transactions import transactions

customer_store = feature_table(
    name="customer_store",
    doc="When a customer last bought in a store, at any instant",
    owner="risk",
    grain="one row per basket and product",
    key=(CUSTOMER_ID, STORE_ID),
    events=transactions,
    at=At.INSTANTS,
    aggregations=(Latest("last_in_store_at", doc="Newest purchase in the store"),),
)

"""`gold.customer_profile`: what is known about a customer from the newest demographics."""

from datetime import timedelta

from contracts.columns import AT_MIDNIGHT, EVENT_TIMESTAMP
from contracts.model import Layer, Load, Table
from grocery.columns import CUSTOMER_ID
from grocery.contracts.silver.customers import AGE, HOUSEHOLD_SIZE, INCOME, KIDS_COUNT

customer_profile = Table(
    layer=Layer.GOLD,
    name="customer_profile",
    doc="What is known about a customer from the newest demographics",
    grain="one row per customer and snapshot",
    owner="ml-platform",
    freshness=timedelta(days=400),
    load=Load.SNAPSHOT,
    inputs=("silver.customers",),
    key=("customer_id", "event_timestamp"),
    columns=(CUSTOMER_ID, EVENT_TIMESTAMP, AGE, INCOME, HOUSEHOLD_SIZE, KIDS_COUNT),
    rules=(AT_MIDNIGHT,),
)

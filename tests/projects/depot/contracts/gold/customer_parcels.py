"""`gold.customer_parcels`: what a customer has been sent lately."""

from depot.contracts.silver.parcels import parcels

from contracts.aggregations import Count, days, feature_table

customer_parcels = feature_table(
    name="customer_parcels",
    doc="What a customer has been sent lately",
    owner="depot",
    key=(parcels.column("customer"),),
    events=parcels,
    aggregations=(Count("parcels", windows=days(7)),),
)

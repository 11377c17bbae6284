"""One service for everything that is known about a customer."""

from feast import FeatureService

from features import views

customer_v1 = FeatureService(
    name="customer_v1",
    features=[views.view("customer_orders"), views.view("customer_parcels")],
    description="What a customer has ordered and been sent lately",
    owner="depot",
)

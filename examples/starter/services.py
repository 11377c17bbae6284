"""Feature services: what a model asks for together. Entities and views come from the gold contracts."""

from feast import FeatureService

from features import views

customer_v1 = FeatureService(
    name="customer_v1",
    features=[views.view("customer_orders")],
    description="What is known about a customer",
    owner="shop",
)

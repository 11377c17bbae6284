"""Entities, feature views and services, derived from the gold contracts."""

from feast import FeatureService

from contracts.gold.customer_activity import customer_activity as activity
from contracts.gold.customer_product import customer_product as pair
from contracts.gold.customer_profile import customer_profile as profile
from contracts.gold.product_popularity import product_popularity as popularity
from contracts.silver import CUSTOMER_ID, PRODUCT_ID
from features import on_demand, registry, views

customer = views.entity(CUSTOMER_ID)
product = views.entity(PRODUCT_ID)

customer_activity = views.feature_view(activity, [customer])
customer_profile = views.feature_view(profile, [customer])
product_popularity = views.feature_view(popularity, [product])
customer_product = views.feature_view(pair, [customer, product])

customer_recency = views.on_demand_view(
    "customer_recency",
    on_demand.days_since_last_basket,
    customer_activity[["last_basket_at"]],
    "Days from the customer's last basket to request_time, fractional",
)
customer_product_recency = views.on_demand_view(
    "customer_product_recency",
    on_demand.days_since_last_purchase,
    customer_product[["last_purchased_at"]],
    "Days from the customer's last purchase of the product to request_time, fractional",
)
customer_product_decay = views.on_demand_view(
    "customer_product_decay",
    on_demand.decayed_purchases,
    customer_product[["memory_weight", "last_purchased_at"]],
    "Remembered purchases of the product, each counted half for every 60 days before request_time",
)
customer_product_memory = views.on_demand_view(
    "customer_product_memory",
    on_demand.days_since_memory_began,
    customer_product[["memory_began_at"]],
    "Days from the oldest remembered purchase of the product to request_time, fractional",
)

recommendation_v1 = FeatureService(
    name="recommendation_v1",
    features=[
        customer_activity,
        product_popularity,
        customer_product,
        customer_profile,
        customer_recency,
        customer_product_recency,
        customer_product_decay,
        customer_product_memory,
    ],
    description="What will this customer want of this product? All features",
    owner="ml-platform",
)
customer_value_v1 = FeatureService(
    name="customer_value_v1",
    features=[customer_activity, customer_profile],
    description="What is this customer worth? Activity and profile",
    owner="ml-platform",
)

project = registry.project("millrace", vars().values())  # last: its tag is the fingerprint of all that is above

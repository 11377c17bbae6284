"""The feature services of the shop, and the features that are computed on demand. Entities and views come from the gold
contracts.
"""

from feast import FeatureService, Field, RequestSource
from feast.types import Float64

from features import views
from grocery import on_demand

_DAYS = """days = [
        days_between(later, earlier)
        for later, earlier in zip(inputs["request_time"], inputs["{}"], strict=True)
    ]"""
_DAYS_IN_ONE_LINE = (
    'days = [days_between(later, earlier) for later, earlier in zip(inputs["request_time"], inputs["{}"], strict=True)]'
)
FORMER_TEXTS = {
    "from features.recency import days_between\n    from grocery.on_demand import faded": (
        "from features.recency import days_between, faded"
    ),
    **{
        _DAYS.format(column): _DAYS_IN_ONE_LINE.format(column)
        for column in ("last_basket_at", "last_purchased_at", "memory_began_at")
    },
}
"""On-demand functions as older manifests of training sets know them: imports that moved, lines that were wrapped."""

customer_activity = views.view("customer_activity")
customer_profile = views.view("customer_profile")
product_popularity = views.view("product_popularity")
customer_product = views.view("customer_product")
customer_velocity = views.view("customer_velocity")
customer_store = views.view("customer_store")

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

line = RequestSource(
    name="line",
    schema=[Field(name="line_amount", dtype=Float64)],
    description="The line of a basket that is being paid: its amount, USD",
)
customer_line = views.on_demand_view(
    "customer_line",
    on_demand.line_to_mean_90d,
    customer_velocity[["line_mean_90d"]],
    "The request's line_amount / the mean of the customer's lines of the last 90 days",
    requests=(line,),
)
customer_store_novelty = views.on_demand_view(
    "customer_store_novelty",
    on_demand.is_first_in_store,
    customer_store[["last_in_store_at"]],
    "1 if the customer has never bought in the store before the instant of the request, otherwise 0",
    requests=(),
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
fraud_v1 = FeatureService(
    name="fraud_v1",
    features=[customer_velocity, customer_store, customer_line, customer_store_novelty],
    description="Is this line of a basket fraud? Velocity, amount and store, at the instant of the payment",
    owner="risk",
)

"""`scores.recommender`: the products that each customer most likely buys next, by model and release."""

from datetime import timedelta

from contracts.model import DOUBLE, LONG, STRING, TIMESTAMP, Column, Layer, Reference, Rule, Table
from grocery.columns import CUSTOMER_ID, PRODUCT_ID

LARGEST_SCORE = 1e300
"""Beyond it a score is no number to order by: infinite, or none at all."""

recommender = Table(
    layer=Layer.SCORES,
    name="recommender",
    doc="The products that each customer most likely buys in the seven days after a release's horizon",
    grain="one row per model, release, customer and rank",
    owner="ml-platform",
    freshness=timedelta(days=7),
    inputs=(
        "silver.transactions",
        "gold.customer_activity",
        "gold.customer_product",
        "gold.customer_profile",
        "gold.product_popularity",
    ),
    key=("model_digest", "release", "release_created_at", "customer_id", "rank"),
    columns=(
        CUSTOMER_ID,
        Column("rank", LONG, "1 is the product that the customer most likely buys", required=True, minimum=1),
        PRODUCT_ID,
        Column(
            "score",
            DOUBLE,
            "Orders the products of one customer, and means nothing else",
            required=True,
            minimum=-LARGEST_SCORE,
            maximum=LARGEST_SCORE,
        ),
        Column("as_of", TIMESTAMP, "Midnight whose features were read: the release's horizon", required=True),
        Column("model", STRING, "Name of the model", required=True),
        Column(
            "model_digest", STRING, "SHA-256 of what decides the model's scores", required=True, pattern="[0-9a-f]{64}"
        ),
        Column("release", LONG, "Number of the release", required=True, minimum=1),
        Column("release_created_at", TIMESTAMP, "When the release was made: a number may be used again", required=True),
        Column("scored_at", TIMESTAMP, "When the scores were computed", required=True),
    ),
    references=(Reference(("product_id",), "silver.products", ("product_id",)),),
    rules=(
        Rule(
            "ranks_count_up",
            "rank = row_number() OVER (PARTITION BY customer_id ORDER BY rank)",
            "a rank is missing or comes twice",
        ),
        Rule("products_differ", "count(*) OVER (PARTITION BY customer_id, product_id) = 1", "a product comes twice"),
        Rule(
            "scores_fall",
            "score <= lag(score) OVER (PARTITION BY customer_id ORDER BY rank)",
            "a score is higher than the one before it",
        ),
        Rule("at_midnight", "as_of = date_trunc('day', as_of)", "as_of is not a midnight"),
    ),
    max_quarantine_share=0.0,
)

"""Recommend products to one customer: the online release's candidates, their features from `get_online_features`, and
the model's scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import pandas as pd

from contracts.interval import midnight
from features import registry
from features.lake_reader import LakeReader
from features.online import backends, generation
from grocery.recommender import candidates
from grocery.recommender.evaluation import TOP
from grocery.recommender.model import Model
from lake import release


@dataclass(frozen=True)
class Recommendation:
    """A product with its department and category. Scores are comparable only within one customer."""

    product_id: int
    score: float
    department: str
    category: str


def recommend(model: Model, customer: int, number: int = TOP) -> list[Recommendation]:
    """The products that the customer will most likely buy in the seven days from the horizon, best first.

    Empty for a customer who bought nothing in the 90 days before. OnlineStoreEmptyError if no release is online.
    """
    about = backends.metadata()
    if about is None or about.release is None or about.horizon is None:
        raise generation.OnlineStoreEmptyError("no release is online. Run the DAG `millrace` (or `make demo`) first")
    reader, horizon = LakeReader(release.read(about.release)), date.fromisoformat(about.horizon)
    sql = candidates.considered_sql(horizon, customer)
    reader.create_views(sql)
    products = [row[1] for row in reader.connection.execute(sql).fetchall()]
    if not products:
        return []
    store = registry.open_store(about.release)
    rows = {
        "customer_id": [customer] * len(products),
        "product_id": products,
        "request_time": [midnight(horizon)] * len(products),
    }
    served = pd.DataFrame(store.get_online_features(store.get_feature_service(model.about["service"]), rows).to_dict())
    best = sorted(
        zip(model.scores(served).tolist(), served["product_id"].tolist(), strict=True),
        key=lambda pair: (-pair[0], pair[1]),
    )[:number]
    catalogue = _catalogue(reader, [product for _, product in best])
    return [Recommendation(product, score, *catalogue.get(product, ("", ""))) for score, product in best]


def _catalogue(reader: LakeReader, products: list[int]) -> dict[int, tuple[str, str]]:
    """Department and category of each of these products that is in the catalogue."""
    query = (
        "SELECT product_id, coalesce(department, ''), coalesce(product_category, '') FROM"
        f" {reader.table('silver.products')} WHERE product_id IN (SELECT unnest(?))"
    )
    return {
        product: (department, category)
        for product, department, category in reader.connection.execute(query, [products]).fetchall()
    }

"""Recommendations for one customer, from what is online now: candidates of the release, features through `get_online_features`, and the model's scores."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import pandas as pd

from contracts import release
from contracts.interval import midnight
from features import generation, registry
from features.lake_reader import LakeReader
from models.recommender import candidates
from models.recommender.evaluation import TOP
from models.recommender.model import Model


@dataclass(frozen=True)
class Recommendation:
    """A product and how likely it is bought within a week, with what the catalogue says of it."""

    product_id: int
    probability: float
    department: str
    category: str


def recommend(model: Model, customer: int, number: int = TOP) -> list[Recommendation]:
    """The products that the customer most likely buys in the seven days from the horizon on; none for a customer who bought nothing in the 90 days before."""
    about = generation.about()
    if about is None or about.release is None or about.horizon is None:
        raise generation.OnlineStoreEmptyError("no release is online. Run the DAG `millrace` (or `make demo`) first")
    reader, horizon = LakeReader(release.read(about.release)), date.fromisoformat(about.horizon)
    sql = candidates.considered_sql(horizon, customer)
    reader.offer(sql)
    products = [row[0] for row in reader.connection.execute(sql).fetchall()]
    if not products:
        return []
    store = registry.open_store(about.release)
    rows = {"customer_id": [customer] * len(products), "product_id": products, "request_time": [midnight(horizon)] * len(products)}
    served = pd.DataFrame(store.get_online_features(store.get_feature_service(model.about["service"]), rows).to_dict())
    best = sorted(zip(model.scores(served).tolist(), served["product_id"].tolist(), strict=True), key=lambda pair: (-pair[0], pair[1]))[:number]
    return [Recommendation(product, probability, *_catalogue(reader, product)) for probability, product in best]


def _catalogue(reader: LakeReader, product: int) -> tuple[str, str]:
    reader.offer("silver.products")
    found = reader.connection.execute("SELECT department, product_category FROM silver.products WHERE product_id = ?", [product]).fetchone()
    return (found[0] or "", found[1] or "") if found else ("", "")

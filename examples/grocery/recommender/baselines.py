"""The baselines that a model has to beat: rankings without a training set, over all products rather than only the
model's candidates.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import Any

import numpy as np
import pandas as pd

from features.lake_reader import LakeReader
from grocery.recommender.evaluation import CUSTOMER, PRODUCT, TOP, WEEK

SCORES = {
    "popular": "ln(1 + buyers)",
    "frequency": "purchases_90d + epoch(newest) / 1e12",
    "decayed": "decayed",
    "decayed_popular": "decayed + 0.1 * ln(1 + buyers)",
}
"""Ranking -> the score of a pair of customer and product in SQL: most buyers in 28 days; baskets in 90 days, then the
latest; purchases weighted by exp(-age / 90 days); the same plus 0.1 log popularity.
"""
STRONGEST = "decayed_popular"
FACTORS, ITERATIONS, NEIGHBORS = 64, 10, 20
"""The first two are of ALS, the last of item-kNN."""


def rankings(reader: LakeReader, week: date, seed: int) -> dict[str, pd.DataFrame]:
    """Each baseline's TOP products of every customer, at the midnight before the week.

    Columns: `since`, `customer_id`, `product_id`, `score`.
    """
    pairs = _pairs(reader, week)
    ranked = {name: _best(pairs, name) for name in SCORES}
    ranked |= dict(_collaborative(pairs, seed))
    return {name: ranking.assign(**{WEEK: pd.Timestamp(week, tz="UTC")}) for name, ranking in ranked.items()}


def _pairs(reader: LakeReader, week: date) -> pd.DataFrame:
    """One row per customer and product: what each ever bought, plus the TOP most popular products."""
    since = f"TIMESTAMPTZ '{week} 00:00:00+00'"
    sql = f"""
        WITH known AS (SELECT *, epoch({since} - transaction_at) / 86400 AS age FROM silver.transactions
            WHERE transaction_at < {since}),
        customers AS (SELECT DISTINCT customer_id FROM known),
        seen AS (
            SELECT customer_id, product_id, count(DISTINCT basket_id) FILTER (WHERE age <= 90) AS purchases_90d,
                max(transaction_at) AS newest, sum(exp(-age / 90)) AS decayed
            FROM known GROUP BY ALL
        ),
        sold AS (SELECT product_id, count(DISTINCT customer_id) AS buyers FROM known WHERE age <= 28 GROUP BY ALL),
        popular AS (SELECT product_id FROM sold ORDER BY buyers DESC, product_id LIMIT {TOP}),
        offered AS (SELECT customer_id, product_id FROM seen UNION SELECT customer_id, product_id
            FROM customers, popular)
        SELECT customer_id, product_id, coalesce(purchases_90d, 0) AS purchases_90d, coalesce(newest,
            TIMESTAMPTZ 'epoch') AS newest,
            coalesce(decayed, 0) AS decayed, coalesce(buyers, 0) AS buyers
        FROM offered LEFT JOIN seen USING (customer_id, product_id) LEFT JOIN sold USING (product_id)
    """
    reader.create_views(sql)
    scores = ", ".join(f"{score} AS {name}_score" for name, score in SCORES.items())
    pairs: pd.DataFrame = reader.connection.sql(f"SELECT *, {scores} FROM ({sql})").to_arrow_table().to_pandas()
    return pairs


def _best(pairs: pd.DataFrame, name: str) -> pd.DataFrame:
    ranked = pairs[[CUSTOMER, PRODUCT]].assign(score=pairs[f"{name}_score"])
    return ranked.sort_values([CUSTOMER, "score", PRODUCT], ascending=[True, False, True]).groupby(CUSTOMER).head(TOP)


def _collaborative(pairs: pd.DataFrame, seed: int) -> Iterator[tuple[str, pd.DataFrame]]:
    """Item-kNN (cosine) and ALS over the decayed purchases; they may rank products that the customer has bought."""
    from implicit.als import AlternatingLeastSquares
    from implicit.nearest_neighbours import CosineRecommender
    from scipy.sparse import csr_matrix

    bought = pairs[pairs["decayed"] > 0]
    rows, customers = pd.factorize(bought[CUSTOMER], sort=True)
    columns, products = pd.factorize(bought[PRODUCT], sort=True)
    matrix = csr_matrix((bought["decayed"].to_numpy(np.float32), (rows, columns)))
    with _one_thread():
        models: dict[str, Any] = {
            "item_knn": CosineRecommender(K=NEIGHBORS, num_threads=1),
            "als": AlternatingLeastSquares(factors=FACTORS, iterations=ITERATIONS, num_threads=1, random_state=seed),
        }
        for name, model in models.items():
            model.fit(matrix, show_progress=False)
            best, scores = model.recommend(np.arange(len(customers)), matrix, N=TOP, filter_already_liked_items=False)
            ranked = pd.DataFrame(
                {CUSTOMER: np.repeat(customers, best.shape[1]), PRODUCT: best.ravel(), "score": scores.ravel()}
            )
            ranked = ranked[ranked[PRODUCT] >= 0]
            yield name, ranked.assign(**{PRODUCT: np.asarray(products)[ranked[PRODUCT]]})


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit BLAS to one thread, since `implicit` calls it from its own threads, and silence its warnings."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, "blas"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

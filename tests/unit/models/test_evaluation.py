"""Recall and NDCG against a plain count, and by hand."""

import math
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.recommender.evaluation import TOP, Quality, bought_before, quality

pairs = st.tuples(st.integers(1, 4), st.integers(1, 30))
scores = st.dictionaries(pairs, st.integers(0, 3) | st.none(), max_size=80)


def counted(scored: dict[tuple[int, int], int | None], bought: set[tuple[int, int]]) -> Quality:
    """One customer after the other, one place after the other."""
    recalls, gains = [], []
    for customer in {one for one, _ in bought}:
        wanted = {product for one, product in bought if one == customer}
        mine = [(product, score) for (one, product), score in scored.items() if one == customer]
        first = sorted(mine, key=lambda pair: (pair[1] is None, -(pair[1] or 0), pair[0]))[:TOP]
        gain = sum(1 / math.log2(place + 2) for place, (product, _) in enumerate(first) if product in wanted)
        best = sum(1 / math.log2(place + 2) for place in range(min(TOP, len(wanted))))
        recalls.append(sum(product in wanted for product, _ in first) / len(wanted))
        gains.append(gain / best)
    return Quality(sum(recalls) / len(recalls), sum(gains) / len(gains), len(recalls))


def frame(rows: Any, *names: str) -> pd.DataFrame:
    return pd.DataFrame([*rows], columns=[*names])


@given(scored=scores, bought=st.sets(pairs, min_size=1, max_size=60))
def test_equals_a_plain_count(scored: dict[tuple[int, int], int | None], bought: set[tuple[int, int]]) -> None:
    rows = frame(((*pair, score) for pair, score in scored.items()), "customer_id", "product_id", "score").astype({"score": "float64"})
    found, expected = quality(rows, "score", frame(bought, "customer_id", "product_id")), counted(scored, bought)
    assert (found.recall, found.ndcg, found.customers) == (pytest.approx(expected.recall), pytest.approx(expected.ndcg), expected.customers)


def test_by_hand() -> None:
    scored = frame([(1, 10, 0.9), (1, 11, 0.8), (1, 12, 0.7)], "customer_id", "product_id", "score")
    bought = frame([(1, 12), (1, 99), (2, 10)], "customer_id", "product_id")
    found = quality(scored, "score", bought)
    assert found.recall == pytest.approx((1 / 2 + 0) / 2)
    assert found.ndcg == pytest.approx((1 / math.log2(4)) / (1 + 1 / math.log2(3)) / 2)
    assert found.customers == 2


def test_of_products_bought_as_often_the_latest_comes_first_and_the_unknown_last() -> None:
    data = pd.DataFrame({"purchases_90d": [2, 2, 1, None], "days_since_last_purchase": [9.0, 3.0, 1.0, None]})
    assert bought_before(data).rank(ascending=False).tolist() == [2, 1, 3, 4]


def test_ten_of_twenty_are_half_of_what_was_bought_in_the_best_order() -> None:
    scored = frame([(1, product, 1.0) for product in range(20)], "customer_id", "product_id", "score")
    found = quality(scored, "score", frame([(1, product) for product in range(20)], "customer_id", "product_id"))
    assert (found.recall, found.ndcg) == (pytest.approx(0.5), pytest.approx(1.0))

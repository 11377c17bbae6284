"""Recall and NDCG against a plain count, and by hand; intervals of what is known."""

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from grocery.recommender.evaluation import TOP, by_customer, interval, qualities, retrieved

keys = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 30))
scores = st.dictionaries(keys, st.integers(0, 3) | st.none(), max_size=80)
NAMES = ("since", "customer_id", "product_id")
Key = tuple[int, int, int]


def counted(ranked: dict[Key, int | None], bought: set[Key]) -> dict[tuple[int, int], tuple[float, float]]:
    """One week and customer after the other, one position after the other."""
    found = {}
    for buyer in {(week, customer) for week, customer, _ in bought}:
        theirs = {product for week, customer, product in bought if (week, customer) == buyer}
        mine = [(product, score) for (week, customer, product), score in ranked.items() if (week, customer) == buyer]
        first = sorted(mine, key=lambda pair: (pair[1] is None, -(pair[1] or 0), pair[0]))[:TOP]
        gain = sum(1 / math.log2(position + 2) for position, (product, _) in enumerate(first) if product in theirs)
        best = sum(1 / math.log2(position + 2) for position in range(min(TOP, len(theirs))))
        found[buyer] = (sum(product in theirs for product, _ in first) / len(theirs), gain / best)
    return found


def frame(rows: Any, *names: str) -> pd.DataFrame:
    return pd.DataFrame([*rows], columns=[*names])


@hypothesis(deadline=None, max_examples=50)
@given(ranked=scores, bought=st.sets(keys, min_size=1, max_size=60))
def test_equals_a_plain_count(ranked: dict[Key, int | None], bought: set[Key]) -> None:
    rows = frame(((*key, score) for key, score in ranked.items()), *NAMES, "score").astype({"score": "float64"})
    found, expected = by_customer(rows, "score", frame(bought, *NAMES)), counted(ranked, bought)
    assert {key: (row.recall, row.ndcg) for key, row in zip(found.index, found.itertuples(), strict=True)} == {
        key: (pytest.approx(recall), pytest.approx(ndcg)) for key, (recall, ndcg) in expected.items()
    }


def test_by_hand() -> None:
    ranked = frame([(1, 1, 10, 0.9), (1, 1, 11, 0.8), (1, 1, 12, 0.7)], *NAMES, "score")
    bought = frame([(1, 1, 12), (1, 1, 99), (1, 2, 10)], *NAMES)
    found = by_customer(ranked, "score", bought)
    assert found["recall"].tolist() == [0.5, 0.0]
    assert found["ndcg"].tolist() == [pytest.approx(1 / math.log2(4) / (1 + 1 / math.log2(3))), 0.0]
    assert retrieved(ranked, bought) == pytest.approx(1 / 3)


def of_customers(*values: float) -> pd.DataFrame:
    """Two weeks of each customer, with the same figures."""
    index = pd.MultiIndex.from_product([(1, 2), range(len(values))], names=["since", "customer_id"])
    return pd.DataFrame({"recall": [*values] * 2, "ndcg": [*values] * 2}, index)


def test_weeks_of_a_customer_are_drawn_together() -> None:
    """100 customers of 0 or 1 in two equal weeks: the standard error is that of 100 draws, not of 200."""
    low, high = interval(of_customers(*[0.0, 1.0] * 50)["recall"])
    assert (high - low) / 2 == pytest.approx(1.96 * 0.5 / math.sqrt(100), rel=0.1)


def test_a_lead_is_paired() -> None:
    """A lead of 0.01 with everybody is certain, however much customers differ."""
    base = of_customers(*np.linspace(0, 0.9, 50))
    found = qualities({"model": base + 0.01, "simple": base}, "simple")
    assert found["model"].ndcg_lead_interval == (pytest.approx(0.01), pytest.approx(0.01))
    assert found["model"].recall_interval[0] < found["simple"].recall < found["model"].recall_interval[1]
    assert (found["simple"].ndcg_lead, found["simple"].customers) == (0.0, 50)

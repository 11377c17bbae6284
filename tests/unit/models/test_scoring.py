"""What scores must be before they are published."""

from typing import Any

import pyarrow as pa
import pytest

from models.recommender.scoring import ScoringError, check

GOOD = [
    {"customer_id": 1, "rank": 1, "product_id": 10, "score": 0.5},
    {"customer_id": 1, "rank": 2, "product_id": 11, "score": 0.5},
]


def test_good_scores_pass() -> None:
    check(pa.Table.from_pylist([*GOOD, {**GOOD[0], "customer_id": 2}]))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"rank": 1}, "a rank is missing or comes twice"),
        ({"rank": 3}, "a rank is missing or comes twice"),
        ({"product_id": 10}, "a product comes twice"),
        ({"score": float("nan")}, "a score is not a finite number"),
        ({"score": float("inf")}, "a score is not a finite number"),
        ({"score": 0.6}, "a score is higher than the one before it"),
    ],
)
def test_what_is_broken_is_named(changed: dict[str, Any], reason: str) -> None:
    with pytest.raises(ScoringError, match=rf"{reason} \(\d rows?, such as customer 1\)|{reason}"):
        check(pa.Table.from_pylist([GOOD[0], {**GOOD[1], **changed}]))

"""`on_demand.faded` continues the weights of `memory_weight`."""

import pytest

from contracts.aggregations import WEIGHT_OF_NEWEST
from grocery import on_demand
from grocery.contracts.gold.customer_product import HALF_LIFE


def test_features_fade_as_gold_weighs() -> None:
    assert (on_demand.ONE_PURCHASE, on_demand.HALF_LIFE) == (WEIGHT_OF_NEWEST, HALF_LIFE)


@pytest.mark.parametrize(
    ("weight", "days", "expected"),
    [(3 * 2**20, 0.0, 3.0), (2**20, 60.0, 0.5), (2**20, 30.0, 2**-0.5), (None, 1.0, None), (1, None, None)],
)
def test_purchases_fade(weight: int | None, days: float | None, expected: float | None) -> None:
    assert on_demand.faded(weight, days) == expected

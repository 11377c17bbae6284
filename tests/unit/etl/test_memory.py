"""The weights of `Decayed` are integers that no platform rounds in another way, and `on_demand.faded` continues
them.
"""

from decimal import Decimal, localcontext

import pytest

from contracts.aggregations import WEIGHT_OF_NEWEST, Decayed
from grocery import on_demand
from grocery.contracts.gold.customer_product import HALF_LIFE, MEMORY

WEIGHTS = Decayed("weight", half_life=HALF_LIFE).weights(MEMORY)


def test_weights_equal_those_of_fifty_digits_and_lie_far_from_a_tie() -> None:
    with localcontext() as context:
        context.prec = 50
        exact = [2**20 * Decimal(2) ** (Decimal(-k) / HALF_LIFE) for k in range(MEMORY)]
    assert tuple(int(value.to_integral_value()) for value in exact) == WEIGHTS
    assert min(abs(value % 1 - Decimal("0.5")) for value in exact) > Decimal("1e-4")
    assert WEIGHTS[0] == WEIGHT_OF_NEWEST
    assert WEIGHTS[60] * 2 == WEIGHTS[0]


def test_features_fade_as_gold_weighs() -> None:
    assert (on_demand.ONE_PURCHASE, on_demand.HALF_LIFE) == (WEIGHT_OF_NEWEST, HALF_LIFE)


@pytest.mark.parametrize(
    ("weight", "days", "expected"),
    [(3 * 2**20, 0.0, 3.0), (2**20, 60.0, 0.5), (2**20, 30.0, 2**-0.5), (None, 1.0, None), (1, None, None)],
)
def test_purchases_fade(weight: int | None, days: float | None, expected: float | None) -> None:
    assert on_demand.faded(weight, days) == expected

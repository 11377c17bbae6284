"""The weights of `windows.Memory` are integers that no platform rounds in another way, and `on_demand.faded` continues them."""

from decimal import Decimal, localcontext

import pytest

from contracts.gold.customer_product import HALF_LIFE, MEMORY
from etl.gold import windows
from etl.gold.customer_product import REMEMBERED
from features import on_demand


def test_weights_equal_those_of_fifty_digits_and_lie_far_from_a_tie() -> None:
    with localcontext() as context:
        context.prec = 50
        exact = [2**20 * Decimal(2) ** (Decimal(-k) / HALF_LIFE) for k in range(MEMORY)]
    assert REMEMBERED.weights == tuple(int(value.to_integral_value()) for value in exact)
    assert min(abs(value % 1 - Decimal("0.5")) for value in exact) > Decimal("1e-4")
    assert REMEMBERED.weights[0] == windows.ONE_PURCHASE
    assert REMEMBERED.weights[60] * 2 == REMEMBERED.weights[0]


def test_features_fade_as_gold_weighs() -> None:
    assert (on_demand.ONE_PURCHASE, on_demand.HALF_LIFE) == (windows.ONE_PURCHASE, HALF_LIFE)


@pytest.mark.parametrize(
    ("weight", "days", "expected"), [(3 * 2**20, 0.0, 3.0), (2**20, 60.0, 0.5), (2**20, 30.0, 2**-0.5), (None, 1.0, None), (1, None, None)]
)
def test_purchases_fade(weight: int | None, days: float | None, expected: float | None) -> None:
    assert on_demand.faded(weight, days) == expected

"""The weights of `Decayed` are integers that no platform rounds in another way."""

from decimal import Decimal, localcontext

from contracts.aggregations import WEIGHT_OF_NEWEST, Decayed

MEMORY, HALF_LIFE = 365, 60
"""Days, as in feature tables of the cinema and of the grocery."""
WEIGHTS = Decayed("weight", half_life=HALF_LIFE).weights(MEMORY)


def test_weights_equal_those_of_fifty_digits_and_lie_far_from_a_tie() -> None:
    with localcontext() as context:
        context.prec = 50
        exact = [2**20 * Decimal(2) ** (Decimal(-k) / HALF_LIFE) for k in range(MEMORY)]
    assert tuple(int(value.to_integral_value()) for value in exact) == WEIGHTS
    assert min(abs(value % 1 - Decimal("0.5")) for value in exact) > Decimal("1e-4")
    assert WEIGHTS[0] == WEIGHT_OF_NEWEST
    assert WEIGHTS[60] * 2 == WEIGHTS[0]

"""Windows by Arrow, with numbers beyond 64 bits. That they are right is tested with the declarations
(tests/integration/test_aggregations_property.py).
"""

from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.gold import arrow
from etl.gold.measures import Measures, Recent

WINDOWS = (2, 5)
FIRST = date(1969, 12, 20)
AMOUNT = pa.decimal128(38, 2)
amounts = st.one_of(st.integers(-3, 3), st.integers(-(10**20), 10**20), st.just((1 << 63) - 1), st.just(1 << 63))
shops = st.dictionaries(st.tuples(st.sampled_from(["", "a", "ä"]), st.integers(0, 20)), amounts, min_size=1)


def table_of(rows: dict[tuple[str, int], int], kind: pa.DataType, unit: Any) -> pa.Table:
    """A bucket's daily rows, in no order."""
    columns: dict[str, Any] = {
        arrow.BUCKET: [7] * len(rows),
        "key": [key for key, _ in rows],
        "day": pa.array([FIRST + timedelta(days=day) for _, day in rows], pa.date32()),
        "amount": pa.array([unit(amount) for amount in rows.values()], kind),
    }
    columns["_day_sum_amount"] = columns["amount"]
    return pa.table(columns)


def summed(rows: dict[tuple[str, int], int]) -> Iterator[tuple[str, date, dict[int, int]]]:
    for key in {key for key, _ in rows}:
        days = {day: amount for (owner, day), amount in rows.items() if owner == key}
        for t in sorted({day + 1 + w for day in days for w in (0, *WINDOWS)}):
            sums = {w: sum(amount for day, amount in days.items() if t - w <= day < t) for w in WINDOWS}
            yield key, FIRST + timedelta(days=t), sums


@settings(deadline=None)
@given(rows=shops)
def test_sums_of_decimals_are_exact(rows: dict[tuple[str, int], int]) -> None:
    measures = Measures(sums={"amount": WINDOWS}, trailing=WINDOWS)
    table = table_of(rows, AMOUNT, lambda cents: Decimal(cents).scaleb(-2))
    result = arrow._slide(table, ["key"], measures)
    assert result.schema.field("amount_2d").type == AMOUNT
    found = {
        (row["key"], row["t"]): [Fraction(row[f"amount_{w}d"]) * 100 for w in WINDOWS] for row in result.to_pylist()
    }
    assert found == {(key, t): [sums[w] for w in WINDOWS] for key, t, sums in summed(rows)}


@settings(deadline=None)
@given(rows=shops, half_life=st.sampled_from([0, 1, 7]))
def test_recent_sums_are_exact_or_refused(rows: dict[tuple[str, int], int], half_life: int) -> None:
    """They are bigints: what exceeds one fails the query."""
    measures = Measures(recent={"recent": Recent("amount", 4, half_life)}, trailing=WINDOWS)
    weights = [int(Fraction(2.0 ** (20 - age / half_life)) + Fraction(1, 2)) if half_life else 1 for age in range(4)]
    expected: dict[tuple[str, date], int] = {}
    for key, t, _ in summed(rows):
        newest = max(day for owner, day in rows if owner == key and FIRST + timedelta(days=day) < t)
        expected[key, t] = sum(weights[age] * rows.get((key, newest - age), 0) for age in range(4))
    table = table_of(rows, pa.decimal128(38, 0), Decimal)
    if any(abs(value) >= 1 << 63 for value in expected.values()):
        with pytest.raises((OverflowError, pa.ArrowInvalid)):
            arrow._slide(table, ["key"], measures)
        return
    assert {(row["key"], row["t"]): row["recent"] for row in arrow._slide(table, ["key"], measures).to_pylist()} == (
        expected
    )


def test_a_bigint_never_wraps_around() -> None:
    rows = {("a", 0): (1 << 63) - 1, ("a", 1): 1}
    with pytest.raises(OverflowError):
        arrow._slide(table_of(rows, pa.int64(), int), ["key"], Measures(sums={"amount": WINDOWS}, trailing=WINDOWS))


def test_many_days_are_weighed_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {(key, day): day + 1 for key in "abc" for day in range(9)}
    measures = Measures(recent={"recent": Recent("amount", 365, 60)}, trailing=WINDOWS)
    table = table_of(rows, pa.int64(), int)
    at_once = arrow._slide(table, ["key"], measures)
    for most in (1, 7, 10):
        monkeypatch.setattr(arrow, "PAIRS", most)
        assert arrow._slide(table, ["key"], measures).equals(at_once)

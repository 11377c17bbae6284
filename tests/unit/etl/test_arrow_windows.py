"""Windows by Arrow, with numbers beyond 64 bits. That they are right is tested with the declarations
(tests/integration/test_aggregations_property.py).
"""

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.interval import Interval
from etl.gold import arrow
from etl.gold.measures import Measures, Recent

WINDOWS = (2, 5)
SUMS = Measures(sums={"amount": WINDOWS}, trailing=WINDOWS)
FIRST = date(1969, 12, 20)
ALWAYS = Interval(date(1900, 1, 1), date(2100, 1, 1))
AMOUNT = pa.decimal128(38, 2)
LOWEST, HIGHEST = -(1 << 63), (1 << 63) - 1

Days = dict[tuple[str, int], int]
"""(key, day after FIRST) -> amount."""
amounts = st.one_of(st.integers(-3, 3), st.integers(-(10**20), 10**20), st.sampled_from([LOWEST, HIGHEST, HIGHEST + 1]))
shops = st.dictionaries(st.tuples(st.sampled_from(["", "a", "ä"]), st.integers(0, 20)), amounts, min_size=1)


def money(cents: int) -> Decimal:
    return Decimal((cents < 0, tuple(map(int, str(abs(cents)))), -2))


def table_of(rows: Days, kind: pa.DataType = AMOUNT, unit: Callable[[int], Any] = money) -> pa.Table:
    """A bucket's daily rows, in no order."""
    columns: dict[str, Any] = {
        arrow.BUCKET: [7] * len(rows),
        "key": [key for key, _ in rows],
        "day": pa.array([FIRST + timedelta(days=day) for _, day in rows], pa.date32()),
        "amount": pa.array([unit(amount) for amount in rows.values()], kind),
    }
    columns["_day_sum_amount"] = columns["amount"]
    return pa.table(columns)


def slide(table: pa.Table, measures: Measures = SUMS, midnights: tuple[Interval, ...] = (ALWAYS,)) -> pa.Table:
    return arrow._slide(table, ["key"], measures, midnights)


def summed(rows: Days) -> Iterator[tuple[str, date, dict[int, int]]]:
    for key in {key for key, _ in rows}:
        days = {day: amount for (owner, day), amount in rows.items() if owner == key}
        for t in sorted({day + 1 + w for day in days for w in (0, *WINDOWS)}):
            sums = {w: sum(amount for day, amount in days.items() if t - w <= day < t) for w in WINDOWS}
            yield key, FIRST + timedelta(days=t), sums


@settings(deadline=None)
@given(rows=shops)
def test_sums_of_decimals_are_exact(rows: Days) -> None:
    result = slide(table_of(rows))
    assert result.schema.field("amount_2d").type == AMOUNT
    found = {
        (row["key"], row["t"]): [Fraction(row[f"amount_{w}d"]) * 100 for w in WINDOWS] for row in result.to_pylist()
    }
    assert found == {(key, t): [sums[w] for w in WINDOWS] for key, t, sums in summed(rows)}


@settings(deadline=None)
@given(rows=shops, half_life=st.sampled_from([0, 1, 7]))
def test_recent_sums_are_exact_or_refused(rows: Days, half_life: int) -> None:
    """They are bigints: what exceeds one fails the query."""
    measures = Measures(recent={"recent": Recent("amount", 4, half_life)}, trailing=WINDOWS)
    weights = [int(Fraction(2.0 ** (20 - age / half_life)) + Fraction(1, 2)) if half_life else 1 for age in range(4)]
    expected: dict[tuple[str, date], int] = {}
    for key, t, _ in summed(rows):
        newest = max(day for owner, day in rows if owner == key and FIRST + timedelta(days=day) < t)
        expected[key, t] = sum(weights[age] * rows.get((key, newest - age), 0) for age in range(4))
    table = table_of(rows, pa.decimal128(38, 0), Decimal)
    if any(not LOWEST <= value <= HIGHEST for value in expected.values()):
        with pytest.raises(OverflowError):
            slide(table, measures)
    else:
        found = slide(table, measures).to_pylist()
        assert {(row["key"], row["t"]): row["recent"] for row in found} == expected


def test_a_bigint_never_wraps_around() -> None:
    bigints = pa.int64(), int
    with pytest.raises(OverflowError):
        slide(table_of({("a", 0): HIGHEST, ("a", 1): 1}, *bigints))
    lowest = slide(table_of({("a", 0): LOWEST, ("a", 9): 7, ("b", 0): 1}, *bigints))
    assert lowest.column("amount_2d").to_pylist() == [LOWEST, 0, 0, 7, 0, 0, 1, 0, 0]


def test_a_sum_of_more_digits_than_a_decimal_is_refused() -> None:
    with pytest.raises(OverflowError, match=r"a sum has more digits than decimal128\(38, 2\)"):
        slide(table_of({("a", 0): 10**38 - 1, ("a", 1): 1}))


def test_null_is_refused() -> None:
    with pytest.raises(ValueError, match="1 of 1 values to sum are NULL"):
        slide(table_of({("a", 0): 1}, unit=lambda _: None))


def test_a_recent_sum_with_decimals_is_refused() -> None:
    """It would be the unscaled number."""
    measures = Measures(recent={"recent": Recent("amount", 4)}, trailing=WINDOWS)
    with pytest.raises(ValueError, match=r"^amount is decimal128\(38, 2\), and the sum up to .* is a bigint$"):
        slide(table_of({("a", 0): 125}), measures)


@settings(deadline=None)
@given(rows=shops, spans=st.lists(st.tuples(st.integers(-2, 30), st.integers(1, 5)), max_size=4))
def test_only_the_midnights_that_were_asked_for(rows: Days, spans: list[tuple[int, int]]) -> None:
    asked = tuple(Interval(FIRST + timedelta(days=day), FIRST + timedelta(days=day + length)) for day, length in spans)
    expected = [row for row in slide(table_of(rows)).to_pylist() if any(row["t"] in span for span in asked)]
    assert slide(table_of(rows), midnights=asked).to_pylist() == expected


def test_many_days_are_weighed_piece_by_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    table = table_of({(key, day): day + 1 for key in "abc" for day in range(9)}, pa.int64(), int)
    measures = Measures(recent={"recent": Recent("amount", 365, 60)}, trailing=WINDOWS)
    at_once = slide(table, measures)
    for most in (1, 7, 10):
        monkeypatch.setattr(arrow, "PAIRS", most)
        assert slide(table, measures).equals(at_once)

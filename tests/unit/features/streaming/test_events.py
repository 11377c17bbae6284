"""Silver cells that a feature worker computes in DuckDB are those that a run computes in the engine."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from contracts.model import BOOLEAN, DATE, DOUBLE, LONG, STRING, TIMESTAMP, Column, Type, decimal
from etl import engine
from etl.silver import select
from features.streaming import events, tails
from lake.publishing import arrow_type

SMALL, WIDE, WHOLE = decimal(5, 2), decimal(30, 4), decimal(10, 0)
VALUES: dict[Type, list[Any]] = {
    LONG: [0, 7, -7, 99999, 100000, 2**62, -(2**62)],
    DOUBLE: [0.0, -0.0, 1.005, 2.5, -2.5, 0.5, 1.5, 12.7, -12.7, 999.994, 999.995, 999.999, 1e18, 9.3e18, 1e300, 0.1],
    STRING: [
        *("", "a", "7", " 7 ", "-7", "+7", "7.5", "1e3", "007", "99999999999999999999", "true", "NaN", "Infinity"),
        *("2021-02-03", "2021-02-03T04:05:06Z", "0.005", "1.005", ".5", "5.", "-.5", ".", "+", "1 2"),
    ],
    BOOLEAN: [True, False],
    DATE: [date(1970, 1, 1), date(2021, 2, 28), date(1900, 1, 1)],
    TIMESTAMP: [
        datetime(2021, 2, 3, 4, 5, 6, 789000, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ],
    SMALL: [Decimal("1.23"), Decimal("-999.99"), Decimal("0.00"), Decimal("2.50"), Decimal("3.50")],
    WIDE: [Decimal("12345678901234567890.1234"), Decimal("0.0050"), Decimal("-0.0050"), Decimal("7.0000")],
}
TARGETS = (LONG, DOUBLE, STRING, BOOLEAN, DATE, TIMESTAMP, SMALL, WIDE, WHOLE)


PAIRS = [(s, t) for s in VALUES for t in TARGETS if s != t and (tails._kind(s), tails._kind(t)) in tails.CASTS]


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=lambda type_: type_.spark)
def test_cells_are_cast_as_the_engine_casts_them(source: Type, target: Type) -> None:
    bronze, column = Column("v", source, "Value"), Column("w", target, "Value", source="v")
    values = pa.table({"n": pa.array(range(len(VALUES[source]))), "v": pa.array(VALUES[source], arrow_type(source))})
    rows = engine.session().createDataFrame(values)
    expected = {row["n"]: row["w"] for row in rows.select("n", select._cell(column, bronze)).collect()}
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.register("rows", values)
    actual = dict(connection.execute(f"SELECT n, {events.cell(column, bronze)} FROM rows").fetchall())
    assert [(VALUES[source][n], expected[n], actual[n]) for n in expected if not _same(expected[n], actual[n])] == []


def test_every_pair_that_a_tail_may_cast_is_tested() -> None:
    assert {(tails._kind(source), tails._kind(target)) for source, target in PAIRS} == tails.CASTS


def _same(expected: Any, actual: Any) -> bool:
    if isinstance(expected, datetime) and isinstance(actual, datetime):
        return _utc(expected) == _utc(actual)
    return type(expected) is type(actual) and (expected == actual or (expected != expected and actual != actual))


def _utc(moment: datetime) -> datetime:
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)

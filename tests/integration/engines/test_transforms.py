"""Each transform on small hostile tables: Spark gives the rows that Sail gives.

What the rows should be is shown elsewhere, by oracles on Sail. Here one engine is compared with the other, on inputs
that no audit would let pass.
"""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from contracts import catalog
from contracts.interval import Interval
from contracts.model import BOOLEAN, DATE, DOUBLE, LONG, STRING, TIMESTAMP, Column, DecimalType, Layer, Load, Table
from etl import engine
from etl.gold import aggregate, instants
from etl.stage import clean
from etl.transforms import transform
from lake.publishing import arrow_type
from tests.projects import GROCERY
from tests.spark import COMPILED

PROJECT = GROCERY

Row = dict[str, Any]
FEW = settings(
    max_examples=4,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=[*HealthCheck],
)
NOON = datetime(2017, 3, 1, 12, tzinfo=UTC)
CELLS: dict[Any, list[Any]] = {
    LONG: [-1, 0, 1, 2, 16, 17, 2**40, -(2**40)],
    DOUBLE: [-0.0, 0.0, 0.005, 1.005, -2.675, 5.55e-17, 1e300, -1e300, 9999999999.994, math.nan, math.inf, -math.inf],
    STRING: ["", "0", "A", "a", " A", "Ä", "Ä", "ß", "\U0001f33e", "a\nb", "'", "NULL", "2017-03-01"],
    BOOLEAN: [True, False],
    DATE: [date(2017, 2, 28), date(2017, 3, 1), date(1900, 1, 1), date(2199, 12, 31), date(2016, 2, 29)],
    TIMESTAMP: [
        *(
            NOON + step
            for step in (
                timedelta(0),
                timedelta(microseconds=1),
                -timedelta(hours=12),
                timedelta(hours=12) - timedelta(microseconds=1),
            )
        ),
        *(NOON - timedelta(days=days) for days in (7, 8, 28, 29, 30, 31, 90, 91)),
        datetime(1900, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        datetime(2199, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    ],
}
MONEY = [Decimal("-0.01"), Decimal("0.00"), Decimal("0.01"), Decimal("9999999999.99"), Decimal("-9999999999.99")]
RUNS = {
    "no midnight": (),
    "one midnight": (Interval(date(2017, 3, 2), date(2017, 3, 3)),),
    "many midnights": (Interval(date(2016, 12, 1), date(2017, 6, 15)),),
}


def cell(column: Column) -> st.SearchStrategy[Any]:
    kept = MONEY if isinstance(column.type, DecimalType) else CELLS[column.type]
    return st.one_of(st.sampled_from(kept), st.sampled_from(kept), st.none())


def rows(table: Table) -> st.SearchStrategy[list[Row]]:
    """Few values, so that keys meet; some rows come twice."""
    row = st.fixed_dictionaries({column.name: cell(column) for column in table.columns})
    return st.lists(row, max_size=25).map(lambda some: [*some, *some[:3]])


def frame(session: Any, table: Table, content: list[Row]) -> Any:
    if not content:
        return session.createDataFrame([], ", ".join(f"{column.name} {column.type.spark}" for column in table.columns))
    schema = pa.schema([(column.name, arrow_type(column.type)) for column in table.columns])
    return session.createDataFrame(pa.Table.from_pylist(content, schema=schema))


def found(frame: Any) -> Counter:
    """Rows as they print: NaN is itself, -0.0 is not 0.0, and an instant has no zone."""
    plain = [
        tuple(
            (name, value.astimezone(UTC) if isinstance(value, datetime) else value)
            for name, value in sorted(row.items())
        )
        for row in frame.toArrow().to_pylist()
    ]
    return Counter(map(repr, plain))


@pytest.fixture
def sessions(home: Any, spark_url: str) -> dict[str, Any]:
    spark = engine._session(spark_url)
    for name, value in COMPILED.items():
        spark.conf.set(name, value)
    return {"sail": engine._session("sail"), "spark": spark}


def inputs(table: Table) -> st.SearchStrategy[tuple[list[Row], ...]]:
    return st.tuples(*(rows(catalog.table(name)) for name in table.inputs))


@pytest.mark.parametrize("table", catalog.tables(Layer.SILVER), ids=lambda table: table.qualified)
def test_silver_is_the_same(sessions: dict[str, Any], table: Table) -> None:
    @FEW
    @given(inputs(table))
    def check(content: tuple[list[Row], ...]) -> None:
        results = {}
        for name, session in sessions.items():
            frames = [
                frame(session, catalog.table(source), some) for source, some in zip(table.inputs, content, strict=True)
            ]
            results[name] = found(clean(table, *frames).select(*table.column_names))
        assert results["spark"] == results["sail"]

    check()


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("table", catalog.tables(Layer.GOLD), ids=lambda table: table.qualified)
def test_gold_is_the_same(sessions: dict[str, Any], table: Table, run: str) -> None:
    if (table.load == Load.SNAPSHOT or table.is_of_instants) and run != "one midnight":
        return  # it looks at no midnight

    @FEW
    @given(inputs(table))
    def check(content: tuple[list[Row], ...]) -> None:
        results = {}
        for name, session in sessions.items():
            frames = [
                frame(session, catalog.table(source), some) for source, some in zip(table.inputs, content, strict=True)
            ]
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(engine, "is_embedded", lambda embedded=name == "sail": embedded)
                results[name] = found(_gold(table, RUNS[run], frames).select(*table.column_names))
        assert results["spark"] == results["sail"]

    check()


def _gold(table: Table, midnights: tuple[Interval, ...], frames: list[Any]) -> Any:
    """The table's rows at these midnights, as staging has them computed."""
    if table.aggregates:
        prepare = transform(table).events if table.aggregates.needs_transform else None
        if table.is_of_instants:
            return instants.rows(table, table.aggregates, dict(zip(table.inputs, frames, strict=True)), prepare)
        return aggregate.features(table, midnights, dict(zip(table.inputs, frames, strict=True)), prepare)
    return (
        transform(table).features(*frames)
        if table.load == Load.SNAPSHOT
        else transform(table).features(midnights, *frames)
    )

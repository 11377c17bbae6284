"""Profiles counted by DuckDB, with aggregates over one column at a time."""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa

from features.offline.profiles.model import (
    FREQUENT,
    LARGE,
    PERCENTS,
    ColumnKind,
    ColumnProfile,
    Profile,
    day,
    instant,
    kind_of,
    moments,
    scale_of,
)
from lake.sql import identifier

LIMB = 43
"""Bits of one of three parts of a number; squares of parts can be summed over any number of rows in 128 bits."""


def profile(connection: duckdb.DuckDBPyConnection, table: str) -> Profile:
    """The profile of a table or view of the connection; `table` is a quoted name."""
    schema = connection.sql(f"FROM {table} LIMIT 0").to_arrow_table().schema
    (rows,) = _first_row(connection, f"SELECT count(*) FROM {table}")
    return Profile(rows, tuple(_column(connection, table, field) for field in schema))


def _column(connection: duckdb.DuckDBPyConnection, table: str, field: pa.Field) -> ColumnProfile:
    name, kind = identifier(field.name), kind_of(field.type)
    nans = f"count(*) FILTER (WHERE isnan({name}))" if kind == ColumnKind.DOUBLE else "0"
    counts = dict(
        zip(
            ("nulls", "nans"),
            _first_row(connection, f"SELECT count(*) - count({name}), {nans} FROM {table}"),
            strict=True,
        )
    )
    if kind == ColumnKind.OTHER:
        return ColumnProfile(field.name, str(field.type), **counts)
    cells = f"SELECT {_value(kind, name)} AS v FROM {table} WHERE {name} IS NOT NULL"
    if kind == ColumnKind.DOUBLE:
        cells += f" AND NOT isnan({name})"
    quantiles = f"quantile_disc(v, {[percent / 100 for percent in PERCENTS]})" if kind.has_quantiles else "NULL"
    distinct, minimum, maximum, middle = _first_row(
        connection, f"SELECT count(DISTINCT v), min(v), max(v), {quantiles} FROM ({cells})"
    )
    frequent = connection.execute(
        f"SELECT v, count(*) AS c FROM ({cells}) GROUP BY v ORDER BY c DESC, v LIMIT {FREQUENT}"
    ).fetchall()
    mean, deviation = _moments(connection, cells, field.type)
    return ColumnProfile(
        field.name,
        str(field.type),
        **counts,
        distinct=distinct,
        minimum=_as_python(kind, minimum),
        maximum=_as_python(kind, maximum),
        mean=mean,
        deviation=deviation,
        quantiles=tuple(_as_python(kind, value) for value in middle or ()),
        frequent=tuple((_as_python(kind, value), rows) for value, rows in frequent),
    )


def _first_row(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    return connection.execute(query).fetchall()[0]  # type: ignore[no-any-return]


def _value(kind: ColumnKind, name: str) -> str:
    """The cell in a type that DuckDB can always return to Python: instants outside Python's calendar are not datetimes.
    Zero has one sign.
    """
    return {
        ColumnKind.INSTANT: f"epoch_us({name})",
        ColumnKind.DAY: f"{name} - DATE '1970-01-01'",
        ColumnKind.DOUBLE: f"CAST({name} AS DOUBLE) + 0.0::DOUBLE",
    }.get(kind, name)


def _as_python(kind: ColumnKind, value: Any) -> Any:
    if value is None:
        return None
    return {ColumnKind.INSTANT: instant, ColumnKind.DAY: day}.get(kind, lambda value: value)(value)


def _moments(
    connection: duckdb.DuckDBPyConnection, cells: str, type_: pa.DataType
) -> tuple[float | None, float | None]:
    kind = kind_of(type_)
    if kind == ColumnKind.DOUBLE:
        small = f"FILTER (WHERE abs(v) < {LARGE})"
        mean, deviation, large = _first_row(
            connection,
            f"SELECT avg(v) {small}, stddev_samp(v) {small}, count(*) FILTER (WHERE abs(v) >= {LARGE}) FROM ({cells})",
        )
        return (None, None) if large else (mean, deviation)
    if kind == ColumnKind.EXACT:
        return moments(
            *_exact_sums(
                connection,
                cells,
                "v::HUGEINT" if pa.types.is_integer(type_) else "replace(v::VARCHAR, '.', '')::HUGEINT",
            ),
            scale_of(type_),
        )
    return None, None


def _exact_sums(connection: duckdb.DuckDBPyConnection, cells: str, whole: str) -> tuple[int, int, int]:
    """Number of cells, sum and sum of squares, in units of the last digit. 128 bits could overflow, so the numbers are
    summed in parts.
    """
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    parts = ", ".join(f"(u >> {LIMB * i}) & {2**LIMB - 1} AS p{i}" for i in range(3))
    sums = ", ".join([*(f"sum(s * p{i})" for i in range(3)), *(f"sum(p{i} * p{j})" for i, j in pairs)])
    unsigned = f"SELECT abs({whole}) AS u, sign({whole}) AS s FROM ({cells})"
    count, *results = _first_row(connection, f"SELECT count(*), {sums} FROM (SELECT s, {parts} FROM ({unsigned}))")
    linear, squared = results[:3], results[3:]
    total = sum((value or 0) << (LIMB * i) for i, value in enumerate(linear))
    squares = sum(
        ((value or 0) << (LIMB * (i + j))) * (1 if i == j else 2) for (i, j), value in zip(pairs, squared, strict=True)
    )
    return count, total, squares

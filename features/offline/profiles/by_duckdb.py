"""Profiles counted by DuckDB: aggregates over the table's columns, one after the other."""

from __future__ import annotations

from typing import Any

import duckdb
import pyarrow as pa

from features.offline.profiles.model import (
    FREQUENT,
    LARGE,
    PERCENTS,
    ColumnProfile,
    Profile,
    Sort,
    day,
    instant,
    moments,
    scale_of,
    sort_of,
)
from lake.sql import identifier

LIMB = 43
"""Bits of one of three parts of a number; squares of parts can be summed over any number of rows in 128 bits."""


def profile(connection: duckdb.DuckDBPyConnection, table: str) -> Profile:
    """The profile of a table or view of the connection; `table` is a quoted name."""
    schema = connection.sql(f"FROM {table} LIMIT 0").to_arrow_table().schema
    (rows,) = _one(connection, f"SELECT count(*) FROM {table}")
    return Profile(rows, tuple(_column(connection, table, field) for field in schema))


def _column(connection: duckdb.DuckDBPyConnection, table: str, field: pa.Field) -> ColumnProfile:
    name, sort = identifier(field.name), sort_of(field.type)
    nans = f"count(*) FILTER (WHERE isnan({name}))" if sort == Sort.DOUBLE else "0"
    told = dict(
        zip(("nulls", "nans"), _one(connection, f"SELECT count(*) - count({name}), {nans} FROM {table}"), strict=True)
    )
    if sort == Sort.OTHER:
        return ColumnProfile(field.name, str(field.type), **told)
    cells = f"SELECT {_value(sort, name)} AS v FROM {table} WHERE {name} IS NOT NULL"
    if sort == Sort.DOUBLE:
        cells += f" AND NOT isnan({name})"
    quantiles = f"quantile_disc(v, {[percent / 100 for percent in PERCENTS]})" if sort.has_quantiles else "NULL"
    distinct, minimum, maximum, middle = _one(
        connection, f"SELECT count(DISTINCT v), min(v), max(v), {quantiles} FROM ({cells})"
    )
    frequent = connection.execute(
        f"SELECT v, count(*) AS c FROM ({cells}) GROUP BY v ORDER BY c DESC, v LIMIT {FREQUENT}"
    ).fetchall()
    mean, deviation = _moments(connection, cells, field.type)
    return ColumnProfile(
        field.name,
        str(field.type),
        **told,
        distinct=distinct,
        minimum=_told(sort, minimum),
        maximum=_told(sort, maximum),
        mean=mean,
        deviation=deviation,
        quantiles=tuple(_told(sort, value) for value in middle or ()),
        frequent=tuple((_told(sort, value), rows) for value, rows in frequent),
    )


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> tuple[Any, ...]:
    return connection.execute(query).fetchall()[0]  # type: ignore[no-any-return]


def _value(sort: Sort, name: str) -> str:
    """The cell as DuckDB can hand it to Python whatever it is: instants beyond Python's calendar are not datetimes.
    There is one zero.
    """
    return {
        Sort.INSTANT: f"epoch_us({name})",
        Sort.DAY: f"{name} - DATE '1970-01-01'",
        Sort.DOUBLE: f"CAST({name} AS DOUBLE) + 0.0::DOUBLE",
    }.get(sort, name)


def _told(sort: Sort, value: Any) -> Any:
    if value is None:
        return None
    return {Sort.INSTANT: instant, Sort.DAY: day}.get(sort, lambda given: given)(value)


def _moments(
    connection: duckdb.DuckDBPyConnection, cells: str, type_: pa.DataType
) -> tuple[float | None, float | None]:
    sort = sort_of(type_)
    if sort == Sort.DOUBLE:
        small = f"FILTER (WHERE abs(v) < {LARGE})"
        mean, deviation, large = _one(
            connection,
            f"SELECT avg(v) {small}, stddev_samp(v) {small}, count(*) FILTER (WHERE abs(v) >= {LARGE}) FROM ({cells})",
        )
        return (None, None) if large else (mean, deviation)
    if sort == Sort.EXACT:
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
    """Number of cells, sum and sum of squares, in units of the last digit. No sum of 128 bits could hold them, so the
    parts of the numbers are summed.
    """
    pairs = [(i, j) for i in range(3) for j in range(i, 3)]
    parts = ", ".join(f"(u >> {LIMB * i}) & {2**LIMB - 1} AS p{i}" for i in range(3))
    sums = ", ".join([*(f"sum(s * p{i})" for i in range(3)), *(f"sum(p{i} * p{j})" for i, j in pairs)])
    unsigned = f"SELECT abs({whole}) AS u, sign({whole}) AS s FROM ({cells})"
    count, *found = _one(connection, f"SELECT count(*), {sums} FROM (SELECT s, {parts} FROM ({unsigned}))")
    linear, squared = found[:3], found[3:]
    total = sum((value or 0) << (LIMB * i) for i, value in enumerate(linear))
    squares = sum(
        ((value or 0) << (LIMB * (i + j))) * (1 if i == j else 2) for (i, j), value in zip(pairs, squared, strict=True)
    )
    return count, total, squares

"""Profiles counted in data frames of cuDF or pandas, from how often each value occurs.

The frame groups and sorts; NumPy computes the figures from the result, one row per distinct value in order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import cached_property
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.offline import frames
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

NARROW = 18
"""Digits of a decimal that fit 64 bits."""
LIMB = 16
"""Bits of a part of a number; squares of parts can be summed over two thousand million rows in 64 bits."""


def profile(library: str, connection: duckdb.DuckDBPyConnection, table: str) -> Profile:
    """The profile of a table or view of the connection, one column at a time; `table` is a quoted name."""
    modules = frames.library(library)
    schema = connection.sql(f"FROM {table} LIMIT 0").to_arrow_table().schema
    rows = connection.sql(f"SELECT count(*) FROM {table}").fetchall()[0][0]
    return Profile(
        rows,
        tuple(
            column(modules, name, connection.sql(f"SELECT {identifier(name)} FROM {table}").to_arrow_table()[name])
            for name in schema.names
        ),
    )


def column(modules: Any, name: str, cells: pa.ChunkedArray) -> ColumnProfile:
    """The profile of a column, by the module `pandas` or `cudf`."""
    kind, present = kind_of(cells.type), cells.drop_null()
    nulls = len(cells) - len(present)
    if kind == ColumnKind.OTHER:
        return ColumnProfile(name, str(cells.type), nulls)
    numbers = _numbers(present) if kind == ColumnKind.DOUBLE else present
    counted = Counted(cells.type, frames.counted(modules, _parts(kind, numbers)))
    mean, deviation = counted.moments
    return ColumnProfile(
        name,
        str(cells.type),
        nulls,
        nans=len(present) - len(numbers),
        distinct=len(counted.sizes),
        minimum=counted.ranked(1),
        maximum=counted.ranked(counted.cells),
        mean=mean,
        deviation=deviation,
        quantiles=tuple(counted.ranked(max(1, -(-counted.cells * percent // 100))) for percent in PERCENTS)
        if kind.has_quantiles and counted.cells
        else (),
        frequent=tuple(
            (counted.value(index), int(counted.sizes[index]))
            for index in np.argsort(-counted.sizes, kind="stable")[:FREQUENT]
        ),
    )


@dataclass(frozen=True)
class Counted:
    """Distinct values in order, each in one or more columns of `groups`, with the number of their `rows`."""

    type: pa.DataType
    groups: pa.Table

    @property
    def parts(self) -> list[str]:
        """The columns of a value, the most significant one first."""
        return [name for name in self.groups.column_names if name != frames.ROWS]

    @cached_property
    def sizes(self) -> np.ndarray:
        """Rows of each value."""
        return np.asarray(self.groups[frames.ROWS])

    @cached_property
    def running(self) -> np.ndarray:
        """Rows of each value and of the smaller ones."""
        return np.cumsum(self.sizes)

    @property
    def cells(self) -> int:
        """Rows of all values."""
        return int(self.running[-1]) if len(self.running) else 0

    def ranked(self, rank: int) -> Any:
        """The value of the cell with that rank, counted from 1; None where there is no cell."""
        return self.value(int(np.searchsorted(self.running, rank))) if self.cells else None

    def value(self, index: int) -> Any:
        """The distinct value at that index."""
        first, *rest = (self.groups[part][int(index)].as_py() for part in self.parts)
        for part in rest:
            first = (first << 32) + part
        return _AS_PYTHON.get(kind_of(self.type), lambda value, _type: value)(first, self.type)

    @property
    def moments(self) -> tuple[float | None, float | None]:
        """Mean and deviation."""
        kind = kind_of(self.type)
        if kind == ColumnKind.EXACT:
            return moments(self.cells, *self._exact_sums(), scale_of(self.type))
        return self._double_moments() if kind == ColumnKind.DOUBLE else (None, None)

    def _exact_sums(self) -> tuple[int, int]:
        """Sum and sum of squares, in units of the last digit, from sums over the parts of the numbers that fit 64
        bits.
        """
        limbs = [
            limb
            for part in reversed(self.parts)
            for limb in _limbs(np.asarray(self.groups[part]), whole=part == self.parts[0])
        ]
        weighted = [limb * self.sizes for limb in limbs]
        total = sum(int(limb.sum()) << (LIMB * i) for i, limb in enumerate(weighted))
        squares = sum(int(a @ b) << (LIMB * (i + j)) for i, a in enumerate(weighted) for j, b in enumerate(limbs))
        return total, squares

    def _double_moments(self) -> tuple[float | None, float | None]:
        values = np.asarray(self.groups[self.parts[0]])
        if not self.cells or max(abs(values[0]), abs(values[-1])) >= LARGE:
            return None, None
        mean = float(values @ self.sizes) / self.cells
        squares = float((values - mean) ** 2 @ self.sizes)
        return mean, math.sqrt(squares / (self.cells - 1)) if self.cells > 1 else None


def _numbers(cells: pa.ChunkedArray) -> pa.ChunkedArray:
    """Doubles that are numbers, with one zero."""
    doubles = cells.cast(pa.float64())
    return pc.add(doubles.filter(pc.invert(pc.is_nan(doubles))), 0.0)


def _parts(kind: ColumnKind, cells: pa.ChunkedArray) -> pa.Table:
    """The values in one column that a frame can sort, or for decimals of more than 64 bits in three: the high bits,
    then twice 32.
    """
    if pa.types.is_decimal(cells.type):
        return _words(cells)
    if kind == ColumnKind.INSTANT:
        cells = cells.cast(frames.INSTANT if cells.type.tz else pa.timestamp("us"))
    if kind == ColumnKind.DAY:
        cells = cells.cast(pa.date32()).cast(pa.int32())
    plain = {ColumnKind.DOUBLE: pa.float64(), ColumnKind.TEXT: pa.string(), ColumnKind.TRUTH: pa.bool_()}
    return pa.table({"v": cells.cast(plain.get(kind, pa.int64()))})


def _words(cells: pa.ChunkedArray) -> pa.Table:
    """Decimals in units of their last digit."""
    whole = cells.cast(pa.decimal128(38, cells.type.scale)).combine_chunks()
    words = np.frombuffer(whole.buffers()[1] or b"", np.uint64)[2 * whole.offset :][: 2 * len(whole)].reshape(-1, 2)
    low, high = words[:, 0], words[:, 1].astype(np.int64)
    if cells.type.precision <= NARROW:
        return pa.table({"v": low.astype(np.int64)})
    return pa.table({"high": high, "middle": (low >> 32).astype(np.int64), "low": (low & 0xFFFFFFFF).astype(np.int64)})


def _limbs(numbers: np.ndarray, *, whole: bool) -> list[np.ndarray]:
    """The numbers in limbs of 16 bits, lowest first: two for 32 unsigned bits, or four for 64 bits (`whole`), the
    highest with the sign.
    """
    *lower, highest = [numbers >> (LIMB * i) for i in range(4 if whole else 2)]
    return [*(part & 0xFFFF for part in lower), highest]


_AS_PYTHON: dict[ColumnKind, Callable[[Any, pa.DataType], Any]] = {
    ColumnKind.EXACT: lambda whole, type_: _decimal(whole, type_.scale) if pa.types.is_decimal(type_) else whole,
    ColumnKind.INSTANT: lambda microseconds, _: instant(microseconds),
    ColumnKind.DAY: lambda days, _: day(days),
}


def _decimal(whole: int, scale: int) -> Decimal:
    """Made from its digits, because arithmetic would round to 28 of them."""
    return Decimal((int(whole < 0), tuple(map(int, str(abs(whole)))), -scale))

"""The figures of a profile, and their definitions, which both implementations follow.

Integers and decimals are exact: their mean and deviation come from exact sums, rounded once. Doubles differ in the last
digits from one implementation to the other, as their sums depend on the order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from typing import Any

import pyarrow as pa

PERCENTS = (1, 5, 25, 50, 75, 95, 99)
FREQUENT = 5
"""Number of most frequent values in a profile."""
LARGE = 1e150
"""The square of doubles from here on, infinity included, overflows: a column with one has neither mean nor
deviation.
"""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Value = int | float | bool | str | Decimal | date | datetime


class ColumnKind(StrEnum):
    """The kind of a column, which decides its figures."""

    EXACT = "integers and decimals: everything"
    DOUBLE = "doubles: everything, not a number apart"
    INSTANT = "timestamps: all but mean and deviation"
    DAY = "dates: all but mean and deviation"
    TEXT = "text, ordered by code points: no quantiles"
    TRUTH = "booleans: no quantiles"
    OTHER = "bytes, lists and such: NULLs only"

    @property
    def has_quantiles(self) -> bool:
        """Whether quantiles of such values mean something."""
        return self in (ColumnKind.EXACT, ColumnKind.DOUBLE, ColumnKind.INSTANT, ColumnKind.DAY)


@dataclass(frozen=True)
class ColumnProfile:
    """One column. Figures other than `nulls` and `nans` leave out those cells, and are None where no cell is left or
    the kind has no such figure.

    The quantile of p percent is the smallest value that at least p percent of the cells do not exceed, so it is always
    one of them.
    """

    name: str
    type: str
    nulls: int
    nans: int = 0
    distinct: int | None = None
    minimum: Value | None = None
    maximum: Value | None = None
    mean: float | None = None
    deviation: float | None = None
    """Of a sample: the sum of squares is divided by the number of cells less one."""
    quantiles: tuple[Value, ...] = ()
    """Of PERCENTS."""
    frequent: tuple[tuple[Value, int], ...] = ()
    """The most frequent values with their rows; among equally frequent ones the smallest first."""

    def quantile(self, percent: int) -> Value | None:
        """The value of one of PERCENTS."""
        return self.quantiles[PERCENTS.index(percent)] if self.quantiles else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it: decimals, instants and doubles that are no numbers in JSON become text."""
        quantiles = {f"{percent}%": _plain(value) for percent, value in zip(PERCENTS, self.quantiles, strict=False)}
        frequent = [{"value": _plain(value), "rows": rows} for value, rows in self.frequent]
        figures = {name: _plain(value) for name, value in vars(self).items() if name not in ("quantiles", "frequent")}
        return {**figures, "quantiles": quantiles, "frequent": frequent}


@dataclass(frozen=True)
class Profile:
    """A table, column by column in its own order."""

    rows: int
    columns: tuple[ColumnProfile, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {"rows": self.rows, "columns": [column.to_dict() for column in self.columns]}


def kind_of(type_: pa.DataType) -> ColumnKind:
    """The kind of columns of this type."""
    tests_of = {
        ColumnKind.EXACT: (pa.types.is_integer, pa.types.is_decimal),
        ColumnKind.DOUBLE: (pa.types.is_floating,),
        ColumnKind.INSTANT: (pa.types.is_timestamp,),
        ColumnKind.DAY: (pa.types.is_date,),
        ColumnKind.TEXT: (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary),
        ColumnKind.TRUTH: (pa.types.is_boolean,),
    }
    return next((kind for kind, tests in tests_of.items() if any(test(type_) for test in tests)), ColumnKind.OTHER)


def scale_of(type_: pa.DataType) -> int:
    """Digits after the point."""
    return type_.scale if pa.types.is_decimal(type_) else 0


def instant(microseconds: int) -> datetime | str:
    """The instant so long after 1970, as text where Python's calendar ends."""
    try:
        return EPOCH + timedelta(microseconds=microseconds)
    except OverflowError:
        return f"1970-01-01 {microseconds:+} us"


def day(days: int) -> date | str:
    """The day so long after 1970-01-01, as text where Python's calendar ends."""
    try:
        return EPOCH.date() + timedelta(days=days)
    except OverflowError:
        return f"1970-01-01 {days:+} days"


def moments(cells: int, total: int, squares: int, scale: int) -> tuple[float | None, float | None]:
    """Mean and deviation from the sum of the values and the sum of their squares, both in units of the last digit."""
    mean = float(Fraction(total, cells * 10**scale)) if cells else None
    variance = Fraction(cells * squares - total**2, cells * (cells - 1) * 10 ** (2 * scale)) if cells > 1 else None
    return mean, None if variance is None else math.sqrt(variance)


def _plain(value: Any) -> Any:
    if isinstance(value, date):
        return value.isoformat()
    return (
        str(value) if isinstance(value, Decimal) or (isinstance(value, float) and not math.isfinite(value)) else value
    )

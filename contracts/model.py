"""The vocabulary of a contract: `Table`, `Column`, `Reference`, `Rule` and the types they use.

What a table promises is written with these words; how a promise is kept (Spark, Great Expectations, Delta, Feast) is
not known here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal as Number
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from contracts.aggregations import Aggregates

NAME = re.compile(r"[a-z][a-z0-9_]*")
WINDOW = re.compile(r"\bover\s*\(", re.IGNORECASE)
"""A window in SQL."""


class ContractError(ValueError):
    """A contract that contradicts itself; raised at import, so it never reaches a run."""


class Layer(StrEnum):
    """Where a table lives, in the order in which rows pass."""

    BRONZE = "bronze"
    SILVER = "silver"
    GOLD = "gold"
    SCORES = "scores"
    """What models say about a release."""
    QUARANTINE = "quarantine"


class Severity(StrEnum):
    """What a broken check does: a critical row goes to quarantine and a critical table check stops the run; a warning
    is reported.
    """

    CRITICAL = "critical"
    WARNING = "warning"


class Pii(StrEnum):
    """How a column relates to a person."""

    NONE = "none"
    PSEUDONYM = "pseudonym"
    """Identifies a person to whoever holds the key table."""
    QUASI = "quasi-identifier"
    """Narrows a person down together with other columns."""


class Load(StrEnum):
    """How landed files add up to a table."""

    EVENTS = "events"
    """A folder holds what happened in that period; the table is the sum of all folders."""
    SNAPSHOT = "snapshot"
    """A folder holds the whole state on that date; the newest row of each key counts."""


@dataclass(frozen=True)
class Type:
    """A column type, named as Spark SQL names it."""

    spark: str

    @property
    def duckdb(self) -> str:
        """Its name in DuckDB."""
        return {"string": "VARCHAR", "timestamp": "TIMESTAMPTZ"}.get(self.spark, self.spark)


@dataclass(frozen=True)
class DecimalType(Type):
    """An exact number with `scale` digits after the point."""

    precision: int = 12
    scale: int = 2

    @property
    def largest(self) -> float:
        """The largest number that fits, for the bounds of a column of doubles that becomes one of this type."""
        return float(Number(10**self.precision - 1).scaleb(-self.scale))


LONG = Type("bigint")
STRING = Type("string")
DOUBLE = Type("double")
BOOLEAN = Type("boolean")
DATE = Type("date")
TIMESTAMP = Type("timestamp")
"""An instant, microseconds, UTC."""


def decimal(precision: int, scale: int) -> DecimalType:
    """DECIMAL(precision, scale)."""
    return DecimalType(f"decimal({precision},{scale})", precision, scale)


MONEY = decimal(12, 2)
MONEY_SUM = decimal(18, 2)

Bound = int | float | Number


@dataclass(frozen=True)
class Column:
    """One column and what each of its cells promises.

    `required` cells are never NULL; `minimum`, `maximum` (both inclusive), `allowed` and `pattern` (the whole text)
    bind the cells that are not NULL. `source` is what the column is made of, where its name is another: in bronze a
    column of the landed file, in silver without a transform one of bronze. `multiline` allows line breaks in a quoted
    cell of a landed CSV file. Elsewhere a quote that is not closed on its line stops the file.
    """

    name: str
    type: Type
    doc: str
    required: bool = False
    minimum: Bound | None = None
    maximum: Bound | None = None
    allowed: tuple[str, ...] = ()
    pattern: str | None = None
    multiline: bool = False
    unit: str | None = None
    pii: Pii = Pii.NONE
    severity: Severity = Severity.CRITICAL
    source: str | None = None

    @property
    def source_name(self) -> str:
        """The name of what it is made of."""
        return self.source or self.name

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name.lstrip("_")):
            raise ContractError(
                f"column {self.name!r}: a name is lower case letters, digits and underscores, such as ordered_at"
            )
        if not self.doc:
            raise ContractError(f"column {self.name}: say in `doc` what a cell means")
        if self.minimum is not None and self.maximum is not None and self.minimum > self.maximum:
            raise ContractError(f"column {self.name}: minimum {self.minimum} is above maximum {self.maximum}")
        if (
            (self.minimum is not None or self.maximum is not None)
            and self.type not in (LONG, DOUBLE)
            and not isinstance(self.type, DecimalType)
        ):
            raise ContractError(f"column {self.name}: minimum and maximum bind numbers, and {self.type.spark} is none")
        if (self.allowed or self.pattern) and self.type != STRING:
            raise ContractError(f"column {self.name}: allowed and pattern bind text, and {self.type.spark} is none")
        if self.multiline and self.type != STRING:
            raise ContractError(f"column {self.name}: multiline binds text, and {self.type.spark} is none")


@dataclass(frozen=True)
class Reference:
    """Each value of `columns` exists among `to_columns` of table `to` (layer.name)."""

    columns: tuple[str, ...]
    to: str
    to_columns: tuple[str, ...]
    severity: Severity = Severity.WARNING

    @property
    def name(self) -> str:
        """The check's name, such as `product_id_in_silver_products`."""
        return f"{'_'.join(self.columns)}_in_{self.to.replace('.', '_')}"

    @property
    def reason(self) -> str:
        """The sentence that a quarantined row and a report carry."""
        return f"{', '.join(self.columns)} is not in {self.to}"


@dataclass(frozen=True)
class Rule:
    """A promise that binds several columns of a row: `sql` is true, in the SQL that Spark and DuckDB share. NULL counts
    as kept.

    A window in it (`OVER (...)`) sees the rows that are staged together, not those that are published already. A silver
    table has none: its rules also choose among rows of one key, one row at a time.
    """

    name: str
    sql: str
    reason: str
    severity: Severity = Severity.CRITICAL


@dataclass(frozen=True)
class Check:
    """One row-level promise, however it was declared: kept where `sql` is not false."""

    name: str
    columns: tuple[str, ...]
    sql: str
    reason: str
    severity: Severity


@dataclass(frozen=True)
class Table:
    """A Delta table at `<lake>/<layer>/<name>` and all that it promises.

    `key` is unique over the table. `time_column` orders the table in time: its date decides which interval a row
    belongs to. `max_quarantine_share` is the share of bad rows above which nothing is published, because the fault is
    then in the file, not in the rows; at 0 a single bad row stops the table, because its rows belong together. A gold
    table is computed from its `aggregates` (see `contracts.aggregations`), or by a plain transform: then its rows at t
    depend on the rows of its inputs in [t - history, t), or it is a SNAPSHOT, which any change rebuilds.
    """

    layer: Layer
    name: str
    doc: str
    grain: str
    owner: str
    freshness: timedelta
    columns: tuple[Column, ...]
    key: tuple[str, ...] = ()
    time_column: str | None = None
    load: Load = Load.EVENTS
    references: tuple[Reference, ...] = ()
    rules: tuple[Rule, ...] = ()
    inputs: tuple[str, ...] = ()
    max_quarantine_share: float = 0.05
    history: timedelta | None = None
    aggregates: Aggregates | None = None

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise ContractError(f"{self.qualified}: columns declared twice: {', '.join(doubled)}")
        used = (
            *self.key,
            *((self.time_column,) if self.time_column else ()),
            *(c for r in self.references for c in r.columns),
        )
        unknown = sorted(set(used) - set(names))
        if unknown:
            raise ContractError(
                f"{self.qualified}: key, time_column or references name columns that are not declared:"
                f" {', '.join(unknown)}"
            )
        windowed = [rule.name for rule in self.rules if WINDOW.search(rule.sql)]
        if windowed and self.layer == Layer.SILVER:
            raise ContractError(
                f"{self.qualified}: the rules {', '.join(windowed)} look at other rows by a window, and in silver a"
                " rule also chooses among the rows of one key. Write rules over columns of the row alone"
            )

    @property
    def qualified(self) -> str:
        """`layer.name`, as reports and errors write it."""
        return f"{self.layer}.{self.name}"

    @property
    def history_days(self) -> int | None:
        """`history` in whole days, rounded up."""
        return None if self.history is None else -(-self.history // timedelta(days=1))

    @property
    def column_names(self) -> tuple[str, ...]:
        """The names in table order."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """The column of that name, or KeyError."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"{self.qualified} has no column {name}; it has {', '.join(self.column_names)}")

    def checks(self) -> tuple[Check, ...]:
        """Every row-level promise except references, in the order of the columns."""
        return (*self._column_checks(), *(_rule_check(rule) for rule in self.rules))

    def _column_checks(self) -> Iterator[Check]:
        for column in self.columns:
            yield from _checks_of(column)


def _checks_of(column: Column) -> Iterator[Check]:
    name = column.name
    if column.required:
        # A transform that casts to a decimal makes NULL of a number with too many digits: the cell did come.
        unfit = f", or does not fit {column.type.spark}" if isinstance(column.type, DecimalType) else ""
        yield Check(f"{name}_present", (name,), f"{name} IS NOT NULL", f"{name} is missing{unfit}", Severity.CRITICAL)
    if column.minimum is not None or column.maximum is not None:
        yield Check(f"{name}_range", (name,), _range_sql(column), _range_reason(column), column.severity)
    if column.allowed:
        values = ", ".join("'" + value.replace("'", "''") + "'" for value in column.allowed)
        yield Check(
            f"{name}_allowed",
            (name,),
            f"{name} IN ({values})",
            f"{name} is not one of {', '.join(column.allowed)}",
            column.severity,
        )
    if column.pattern:
        yield Check(
            f"{name}_pattern",
            (name,),
            f"{name} RLIKE '^(?:{column.pattern})$'",
            f"{name} does not look like {column.pattern}",
            column.severity,
        )


def _range_sql(column: Column) -> str:
    low = f"{column.name} >= {_number(column.minimum)}" if column.minimum is not None else ""
    high = f"{column.name} <= {_number(column.maximum)}" if column.maximum is not None else ""
    return " AND ".join(part for part in (low, high) if part)


def _number(bound: Bound) -> str:
    """The bound in SQL, where a number with a point is a decimal: Sail fails to compare a large double with one."""
    return f"CAST({bound} AS DOUBLE)" if isinstance(bound, float) else str(bound)


def _range_reason(column: Column) -> str:
    if column.maximum is None:
        return f"{column.name} is below {column.minimum}"
    if column.minimum is None:
        return f"{column.name} is above {column.maximum}"
    return f"{column.name} is not between {column.minimum} and {column.maximum}"


def _rule_check(rule: Rule) -> Check:
    return Check(rule.name, (), rule.sql, rule.reason, rule.severity)

"""The vocabulary of contracts: `Table`, `Column`, `Reference`, `Rule` and their types.

Contracts say what a table promises. How Spark, Great Expectations, Delta and Feast keep it is up to other packages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal as Number
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING

from contracts.expressions import portable, string

if TYPE_CHECKING:
    from contracts.aggregations import Aggregates

NAME = re.compile(r"[a-z][a-z0-9_]*")
TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
CONNECTION = re.compile(r"(?!.*_file$)[a-z][a-z0-9_]*")
WINDOW = re.compile(r"\bover\s*\(", re.IGNORECASE)
"""A window function in SQL."""


class ContractError(ValueError):
    """An invalid contract; raised at import, before any run."""


class Layer(StrEnum):
    """The layer of a table, in the order in which rows pass through."""

    BRONZE = "bronze"
    SILVER = "silver"
    GOLD = "gold"
    SCORES = "scores"
    """Predictions of models on a release."""
    QUARANTINE = "quarantine"


class Severity(StrEnum):
    """The effect of a failed check.

    Critical: the row goes to quarantine, or, for a check of the whole table, the run stops. Warning: it is reported.
    """

    CRITICAL = "critical"
    WARNING = "warning"


class Pii(StrEnum):
    """How a column relates to a person."""

    NONE = "none"
    PSEUDONYM = "pseudonym"
    """Identifies a person to whoever holds the key table."""
    QUASI = "quasi-identifier"
    """Narrows down a person together with other columns."""


class Format(StrEnum):
    """What the value of a message is."""

    JSON = "json"
    """A row: a JSON object with the columns as fields."""
    DEBEZIUM = "debezium"
    """A change of a row of a database, as Debezium writes it in JSON, with or without its schema."""


@dataclass(frozen=True)
class Topic:
    """A Kafka topic whose messages are rows of a bronze table, beside its landed files or in place of them.

    A message's value is a JSON object with the columns as fields, under the names that landed files have. Fields that
    the contract lacks are ignored; a missing field is NULL. In Debezium's format these are the fields of `before` and
    `after`.
    """

    name: str
    format: Format = Format.JSON

    def __post_init__(self) -> None:
        if not TOPIC.fullmatch(self.name) or self.name in (".", ".."):
            raise ContractError(
                f"topic {self.name!r}: Kafka's names are up to 249 letters, digits, dots, underscores and hyphens"
            )


@dataclass(frozen=True)
class Database:
    """A table or view of a PostgreSQL database whose rows are pulled into the landing zone of a bronze table.

    `connection` names the setting with the URL: MILLRACE_SOURCE_SHOP for `shop`. `relation` is `table` or
    `schema.table`, spelled as the database spells it. Columns have the names that landed files would have.

    Without a cursor each pull is a snapshot of all rows. `cursor` is a column that grows with each new or changed row.
    A pull then reads the rows from `overlap` before the newest value pulled, because transactions commit later than
    they set the column: a timedelta for times, an integer for numbers. Deleted rows leave no trace in it.
    """

    connection: str
    relation: str
    cursor: str | None = None
    overlap: timedelta | int | None = None

    def __post_init__(self) -> None:
        if not CONNECTION.fullmatch(self.connection):
            raise ContractError(
                f"database connection {self.connection!r}: a name is lower case letters, digits and underscores, such"
                " as shop, and does not end in _file"
            )
        schema, dot, name = self.relation.rpartition(".")
        if not name or (dot and not schema) or "." in schema:
            raise ContractError(f"database relation {self.relation!r}: write table or schema.table")
        if self.cursor and self.overlap is None:
            raise ContractError(
                f"database cursor {self.cursor}: say in `overlap` how far before its newest value to read again, such"
                " as timedelta(minutes=10): longer than any transaction that writes the table"
            )
        size = self.overlap.total_seconds() if isinstance(self.overlap, timedelta) else self.overlap
        if size is not None and (not self.cursor or size < 0):
            raise ContractError("database overlap: it is for a cursor, and not negative")

    @property
    def variable(self) -> str:
        """The setting with the URL of the database."""
        return f"MILLRACE_SOURCE_{self.connection.upper()}"


class Load(StrEnum):
    """How landed files, or messages, add up to a table."""

    EVENTS = "events"
    """A folder has the events of a period; the table is the union of all folders."""
    SNAPSHOT = "snapshot"
    """A folder has the whole state on its date; the newest row of each key counts."""
    CHANGES = "changes"
    """For bronze: a row is the new state of its key, or its deletion; the newest of each key counts, on its own day."""


@dataclass(frozen=True)
class Type:
    """A column type, named as Spark SQL names it."""

    spark: str

    @property
    def duckdb(self) -> str:
        """The type's name in DuckDB."""
        return {"string": "VARCHAR", "timestamp": "TIMESTAMPTZ"}.get(self.spark, self.spark)


@dataclass(frozen=True)
class DecimalType(Type):
    """An exact number with `scale` digits after the point."""

    precision: int = 12
    scale: int = 2

    @property
    def largest(self) -> float:
        """The largest value, for bounds of a double column that is cast to this type."""
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
    """One column and the checks of its cells.

    `required` cells are never NULL. `minimum`, `maximum` (both inclusive), `allowed` and `pattern` (a full match) apply
    to cells that are not NULL. `source` is the column's name upstream, if it differs: in the landed file for bronze, in
    bronze for silver without a transform. `multiline` allows line breaks in quoted cells of landed CSV files; in other
    columns a quote that is not closed on its line stops the file.
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
        """The name of the column upstream."""
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
            raise ContractError(
                f"column {self.name}: minimum and maximum are for numbers, and {self.type.spark} is not one"
            )
        if (self.allowed or self.pattern) and self.type != STRING:
            raise ContractError(
                f"column {self.name}: allowed and pattern are for strings, and {self.type.spark} is not one"
            )
        if self.multiline and self.type != STRING:
            raise ContractError(f"column {self.name}: multiline is for strings, and {self.type.spark} is not one")


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
        """The reason in reports and quarantine."""
        return f"{', '.join(self.columns)} is not in {self.to}"


@dataclass(frozen=True)
class Rule:
    """A check over several columns of a row: `sql`, in the SQL that Spark and DuckDB share, is true or NULL.

    A window function in it sees the rows that are staged together, without published ones. Silver tables allow none:
    their rules also choose among the rows of one key, row by row.
    """

    name: str
    sql: str
    reason: str
    severity: Severity = Severity.CRITICAL


@dataclass(frozen=True)
class Check:
    """A row-level check, however it was declared: it passes where `sql` is true or NULL. With `is_presence` it only
    asks for a value in its column.
    """

    name: str
    columns: tuple[str, ...]
    sql: str
    reason: str
    severity: Severity
    is_presence: bool = False


@dataclass(frozen=True)
class Table:
    """The contract of the Delta table at `<lake>/<layer>/<name>`.

    `key` is unique in the table. The date of `time_column` decides to which interval a row belongs. Above
    `max_quarantine_share` bad rows nothing is published, because the fault is probably in the file; at 0 a single bad
    row stops the table, because its rows belong together. A gold table is computed from its `aggregates` (see
    `contracts.aggregations`) or by a plain transform. With a plain transform, either its rows at t depend on input rows
    in [t - history, t), or it is a SNAPSHOT, which any change rebuilds.
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
    topic: Topic | None = None
    database: Database | None = None

    def __post_init__(self) -> None:
        names = [column.name for column in self.columns]
        duplicates = sorted({name for name in names if names.count(name) > 1})
        if duplicates:
            raise ContractError(f"{self.qualified}: columns declared twice: {', '.join(duplicates)}")
        used = (
            *self.key,
            *((self.time_column,) if self.time_column else ()),
            *(name for reference in self.references for name in reference.columns),
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
        """The column of that name; KeyError when there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"{self.qualified} has no column {name}; it has {', '.join(self.column_names)}")

    @property
    def is_change_stream(self) -> bool:
        """Whether it reads the changes of a database from a topic."""
        return self.topic is not None and self.topic.format == Format.DEBEZIUM

    @property
    def is_replaced_by_pulls(self) -> bool:
        """Whether each pull of a database brings the whole table, so that only the newest one counts."""
        return self.database is not None and self.database.cursor is None

    @property
    def is_of_instants(self) -> bool:
        """Whether it is a gold table of events, from which features are computed for any instant."""
        return self.aggregates is not None and self.aggregates.is_of_instants

    def checks(self) -> tuple[Check, ...]:
        """The row-level checks without references: of columns, in their order, then rules."""
        return self._checks

    @cached_property
    def _checks(self) -> tuple[Check, ...]:
        of_columns = (check for column in self.columns for check in _checks_of(column))
        return (*of_columns, *(_rule_check(rule) for rule in self.rules))


def _checks_of(column: Column) -> Iterator[Check]:
    name = column.name
    if column.required:
        # a transform's cast to a decimal turns a number with too many digits into NULL
        unfit = f", or does not fit {column.type.spark}" if isinstance(column.type, DecimalType) else ""
        reason = f"{name} is missing{unfit}"
        yield Check(f"{name}_present", (name,), f"{name} IS NOT NULL", reason, Severity.CRITICAL, is_presence=True)
    if column.minimum is not None or column.maximum is not None:
        yield Check(f"{name}_range", (name,), _range_sql(column), _range_reason(column), column.severity)
    if column.allowed:
        values = ", ".join(string(value) for value in column.allowed)
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
            f"{name} RLIKE {string(f'^(?:{column.pattern})$')}",
            f"{name} does not look like {column.pattern}",
            column.severity,
        )


def _range_sql(column: Column) -> str:
    low = f"{column.name} >= {_number(column.minimum)}" if column.minimum is not None else ""
    high = f"{column.name} <= {_number(column.maximum)}" if column.maximum is not None else ""
    return " AND ".join(part for part in (low, high) if part)


def _number(bound: Bound) -> str:
    """The bound in SQL, floats cast to DOUBLE: Sail fails to compare a large double with a decimal literal."""
    return f"CAST({bound} AS DOUBLE)" if isinstance(bound, float) else str(bound)


def _range_reason(column: Column) -> str:
    if column.maximum is None:
        return f"{column.name} is below {column.minimum}"
    if column.minimum is None:
        return f"{column.name} is above {column.maximum}"
    return f"{column.name} is not between {column.minimum} and {column.maximum}"


def _rule_check(rule: Rule) -> Check:
    return Check(rule.name, (), portable(rule.sql), rule.reason, rule.severity)

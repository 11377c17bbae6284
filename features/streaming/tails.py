"""Which views of instants have a tail: those whose events can be computed from one message alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property

from contracts import catalog, project
from contracts.aggregations import Aggregates
from contracts.expressions import identifiers
from contracts.model import (
    BOOLEAN,
    DATE,
    DOUBLE,
    LONG,
    STRING,
    TIMESTAMP,
    Column,
    DecimalType,
    Layer,
    Load,
    Severity,
    Table,
    Topic,
    Type,
)
from contracts.project import Project
from features.instants.declaration import digest
from features.streaming.expressions import is_portable, is_portable_pattern

CASTS = {
    (LONG, DOUBLE),
    (LONG, STRING),
    (LONG, DecimalType),
    (DOUBLE, LONG),
    (DOUBLE, DecimalType),
    (STRING, LONG),
    (STRING, DecimalType),
    (BOOLEAN, STRING),
    (DATE, STRING),
    (DATE, TIMESTAMP),
    (TIMESTAMP, DATE),
    (DecimalType, LONG),
    (DecimalType, DecimalType),
}
"""Kinds of columns in bronze and silver between which DuckDB casts as the engines do."""


@dataclass(frozen=True)
class Tail:
    """The events of a view of instants that came after the release which is served: messages of the topic of `bronze`,
    cleaned as in `silver`, with what each gives to the aggregations of `gold`.
    """

    bronze: Table
    silver: Table
    gold: Table

    @property
    def view(self) -> str:
        """The name of the feature view."""
        return self.gold.name

    @property
    def topic(self) -> str:
        """The name of the topic."""
        return self.bronze.topic.name if self.bronze.topic else ""

    @property
    def declared(self) -> Aggregates:
        """The declaration of the view's table."""
        if self.gold.aggregates is None:
            raise ValueError(f"{self.gold.qualified} declares no aggregations")
        return self.gold.aggregates

    @property
    def event_key(self) -> tuple[Column, ...]:
        """What identifies an event."""
        return tuple(self.gold.column(name) for name in self.silver.key)

    @cached_property
    def name(self) -> str:
        """The view, with a digest of everything that decides which events a message gives. A changed contract begins a
        new tail.
        """
        facts = [digest(self.declared), self.topic]
        for table in (self.bronze, self.silver, self.gold):
            columns = [column for column in table.columns if self._decides(table, column)]
            facts.append(repr([(c.name, c.type.spark, c.source_name, c.required) for c in columns]))
            facts.append(repr([(c.name, c.sql) for c in table.checks() if c.severity == Severity.CRITICAL]))
            facts.append(repr((table.key, table.time_column)))
        return f"{self.view}-{hashlib.sha256(''.join(facts).encode()).hexdigest()[:12]}"

    def _decides(self, table: Table, column: Column) -> bool:
        """Whether events depend on a column: an optional one that is added for something else begins no new tail."""
        checked = {name for check in table.checks() for name in (*check.columns, *identifiers(check.sql))}
        if column.name in checked or column.name in (*table.key, table.time_column):
            return True
        if table is self.bronze:
            return column.name in {of.source_name for of in self.silver.columns if self._decides(self.silver, of)}
        if table is self.silver:
            expressions = [sql for part, _ in self.declared.measure_columns() for sql in (part.of, part.where)]
            own = {name for sql in expressions for name in identifiers(sql)}
            return column.name in own | {key.name for key in self.declared.key}
        return True


def all_tails() -> list[Tail]:
    """The tails of the current project's views."""
    return [tail for table in _tables_of_instants() if (tail := of(table)) is not None]


def of(table: Table) -> Tail | None:
    """The tail of a gold table's view; None if it has none."""
    events = table.aggregates.events if table.aggregates else None
    topic = catalog.table(events.inputs[0]).topic if events and events.inputs else None
    return _of(project.current(), table.name, topic)


@cache
def _of(_: Project, name: str, _topic: Topic | None) -> Tail | None:
    table = catalog.table(f"{Layer.GOLD}.{name}")
    if table.aggregates is None or obstacle(table):
        return None
    silver = table.aggregates.events
    return Tail(catalog.table(silver.inputs[0]), silver, table)


def obstacles() -> Iterator[tuple[Table, str]]:
    """The gold tables of instants whose views count no messages, and why."""
    for table in _tables_of_instants():
        if reason := obstacle(table):
            yield table, reason


def obstacle(table: Table) -> str:
    """Why a gold table's view counts messages only once a release has them; empty if it counts them at once."""
    declared = table.aggregates
    if declared is None or not declared.is_of_instants:
        return "it has values at midnights"
    silver = declared.events
    if silver.layer != Layer.SILVER or len(silver.inputs) != 1:
        return f"{silver.qualified} is made of several tables"
    bronze = catalog.table(silver.inputs[0])
    if bronze.topic is None:
        return f"{bronze.qualified} has no topic"
    if silver.load != Load.EVENTS or bronze.load != Load.EVENTS:
        return f"{silver.qualified} is a state and not events"
    if declared.joined:
        return f"its events are joined to {', '.join(join.table.qualified for join in declared.joined)}"
    for transformed in (silver, table):
        if project.current().has_module(f"transforms.{transformed.layer}.{transformed.name}"):
            return f"{transformed.qualified} has a transform"
    if casts := [name for name in silver.column_names if not _is_castable(silver.column(name), bronze)]:
        return f"{silver.qualified} casts {', '.join(casts)} as only the engine does. Declare the type in bronze"
    for checked in (bronze, silver, table):
        if unlike := _unlike(checked):
            return f"{', '.join(unlike)} of {checked.qualified} may not mean the same to DuckDB and the engine"
        if critical := [r.to for r in checked.references if r.severity == Severity.CRITICAL]:
            return f"rows of {checked.qualified} are checked against {', '.join(critical)}"
    if not silver.key:
        return f"{silver.qualified} has no key, so an event that comes twice cannot be told from two"
    return ""


def _unlike(table: Table) -> list[str]:
    """Columns, critical rules and aggregations with a pattern or an expression that engines may read in two ways."""
    critical = [rule for rule in table.rules if rule.severity == Severity.CRITICAL]
    patterns = [
        column.name
        for column in table.columns
        if column.pattern and column.severity == Severity.CRITICAL and not is_portable_pattern(column.pattern)
    ]
    measures = table.aggregates.measure_columns() if table.aggregates else ()
    return [
        *(f"the pattern of {name}" for name in patterns),
        *(f"the rule {rule.name}" for rule in critical if not is_portable(rule.sql)),
        *(
            f"the aggregation {column.name}"
            for part, column in measures
            if not is_portable(part.of) or not is_portable(part.where)
        ),
    ]


def _is_castable(column: Column, bronze: Table) -> bool:
    source = bronze.column(column.source_name).type
    return source == column.type or (_kind(source), _kind(column.type)) in CASTS


def _kind(type_: Type) -> Type | type[Type]:
    return DecimalType if isinstance(type_, DecimalType) else type_


def _tables_of_instants() -> list[Table]:
    return [table for table in catalog.tables(Layer.GOLD) if table.is_of_instants]

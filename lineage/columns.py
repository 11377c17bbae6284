"""Where each column comes from, derived from the contracts: landed field -> bronze -> silver -> feature.

A declared column names its source, and an aggregation names the columns of its events in `of` and `where`. What a
transform computes is known by name only: a column has the source that its contract gives, or else the column of the
same name among the inputs. A column that neither names has no entry. A prepared column may depend on whatever the
transform reads of a mapped table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from contracts import catalog
from contracts.aggregations import (
    Aggregates,
    Aggregation,
    Dimension,
    MappedInTime,
    Ratio,
    served_columns,
)
from contracts.columns import AUDIT_COLUMNS, CHANGE_COLUMNS, EVENT_TIMESTAMP, STREAM_COLUMNS
from contracts.expressions import identifiers
from contracts.model import Column, ContractError, Layer, Table

LANDING = "landing"
"""The layer of landed files in a `Source`."""


class Use(StrEnum):
    """How a source takes part, in OpenLineage's terms."""

    IDENTITY = "IDENTITY"
    TRANSFORMATION = "TRANSFORMATION"
    AGGREGATION = "AGGREGATION"
    FILTER = "FILTER"
    GROUP_BY = "GROUP_BY"
    JOIN = "JOIN"
    WINDOW = "WINDOW"

    @property
    def is_direct(self) -> bool:
        """Whether values flow into the column; otherwise the source only decides which values do."""
        return self in (Use.IDENTITY, Use.TRANSFORMATION, Use.AGGREGATION)


@dataclass(frozen=True, order=True)
class Source:
    """A column of a table (`silver.orders`) or of its landed files (`landing.orders`), and how it is used."""

    table: str
    column: str
    use: Use


def sources_of(table: Table) -> dict[str, tuple[Source, ...]]:
    """Column -> its sources, in a stable order; columns whose sources no contract names are left out."""
    if table.aggregates:
        found = _of_features(table, table.aggregates)
    elif table.layer == Layer.BRONZE:
        found = _of_landed(table)
    else:
        found = _of_inputs(table)
    return {name: tuple(dict.fromkeys(parts)) for name, parts in found.items() if parts}


def view_columns(table: Table) -> tuple[Column, ...]:
    """The columns that the view of a gold table serves."""
    return served_columns(table) if table.is_of_instants else table.columns


def sources_of_view(table: Table) -> dict[str, tuple[Source, ...]]:
    """Column of a gold table's view -> its sources in the table."""
    declared = table.aggregates
    if declared is None or not declared.is_of_instants:
        return {name: (Source(table.qualified, name, Use.IDENTITY),) for name in table.column_names}
    keys = tuple(Source(table.qualified, column.name, Use.GROUP_BY) for column in declared.key)
    found: dict[str, tuple[Source, ...]] = {
        column.name: (Source(table.qualified, column.name, Use.IDENTITY),) for column in declared.key
    }
    for part in declared.aggregations:
        read = [measure.column.name for measure in declared.measures(part) if measure.column]
        direct = tuple(Source(table.qualified, name, Use.AGGREGATION) for name in read)
        window = Source(table.qualified, EVENT_TIMESTAMP.name, Use.WINDOW)
        found |= {part.feature(length): (*direct, *keys, window) for length in part.windows or (None,)}
    return found


def trace(table: Table, column: str) -> Iterator[tuple[int, str, Source]]:
    """Each step from a column, or a feature that is computed from it, back to the landed fields, depth first: (depth,
    `table.column`, source).

    ContractError for a column that the table does not have. A source is followed once, however often it is used.
    """
    names = dict.fromkeys((*table.column_names, *(served.name for served in view_columns(table))))
    if column not in names:
        raise ContractError(f"{table.qualified} has no column {column}; it has {', '.join(names)}")
    seen: set[tuple[str, str]] = set()

    def follow(current: Table, name: str, depth: int) -> Iterator[tuple[int, str, Source]]:
        known = sources_of(current) if name in current.column_names else sources_of_view(current)
        for source in known.get(name, ()):
            yield depth, f"{current.qualified}.{name}", source
            step = (source.table, source.column)
            if not source.table.startswith(f"{LANDING}.") and step not in seen:
                seen.add(step)
                yield from follow(catalog.table(source.table), source.column, depth + 1)

    yield from follow(table, column, 0)


def names_in(expression: str, columns: Mapping[str, Column]) -> list[str]:
    """The columns that an SQL expression names, in whatever case, in order."""
    return [name for name in identifiers(expression) if name in columns]


def _of_landed(table: Table) -> dict[str, list[Source]]:
    added = {column.name for column in (*AUDIT_COLUMNS, *STREAM_COLUMNS, *CHANGE_COLUMNS)}
    return {
        column.name: [Source(f"{LANDING}.{table.name}", column.source_name, Use.IDENTITY)]
        for column in table.columns
        if column.name not in added
    }


def _of_inputs(table: Table) -> dict[str, list[Source]]:
    inputs = [catalog.table(name) for name in table.inputs]
    return {column.name: [*_by_name(column, inputs)] for column in table.columns}


def _by_name(column: Column, inputs: list[Table]) -> Iterator[Source]:
    """The column of the first input that has its source, or else one of its own name."""
    for name in dict.fromkeys((column.source_name, column.name)):
        for table in inputs:
            if name in table.column_names:
                same_type = table.column(name).type == column.type
                yield Source(table.qualified, name, Use.IDENTITY if same_type else Use.TRANSFORMATION)
                return


def _of_features(table: Table, declared: Aggregates) -> dict[str, list[Source]]:
    time = declared.time_column
    found = {column.name: _value(declared, column.name, Use.IDENTITY) for column in declared.key}
    found[EVENT_TIMESTAMP.name] = _value(declared, time, Use.TRANSFORMATION)
    if declared.is_of_instants:
        found |= {name: _value(declared, name, Use.IDENTITY) for name in table.key}
        found |= {column.name: [*_of_aggregation(declared, part)] for part, column in declared.measure_columns()}
        return {name: found[name] for name in table.column_names}
    for part, _, column in declared.features():
        direct = [*_of_aggregation(declared, part)]
        keys = [source for key in declared.key for source in _value(declared, key.name, Use.GROUP_BY)]
        found[column.name] = [*direct, *keys, *_value(declared, time, Use.WINDOW)]
    return {name: found[name] for name in table.column_names}


def _of_aggregation(declared: Aggregates, part: Aggregation) -> Iterator[Source]:
    if isinstance(part, Ratio):
        yield from _of_aggregation(declared, part.part)
        yield from _of_aggregation(declared, part.whole)
        return
    columns = declared.columns()
    for name in names_in(part.of or declared.time_column, columns):
        yield from _value(declared, name, Use.AGGREGATION)
    for name in names_in(part.where, columns):
        yield from _value(declared, name, Use.FILTER)


def _value(declared: Aggregates, name: str, use: Use) -> list[Source]:
    """The sources of a column that an expression may name, which is one of the events, a dimension's, or prepared."""
    events = declared.events
    if name in events.column_names:
        return [Source(events.qualified, name, use)]
    for dimension in declared.dimensions:
        if name in dimension.take:
            return [Source(dimension.table.qualified, name, use), *_joined_by(declared, dimension)]
    [prepared] = [column for column in declared.prepared if column.name == name]
    own = [prepared.source] if prepared.source and prepared.source in events.column_names else []
    return [
        *(Source(events.qualified, column, use) for column in own),
        *(source for other in declared.mapped for source in _read_from(declared, other, use)),
    ]


def _read_from(declared: Aggregates, other: MappedInTime, use: Use) -> Iterator[Source]:
    """What the transform reads of a mapped table: columns that the events have, too, join it to them."""
    for column in dict.fromkeys((*other.by, *(other.reads or other.table.column_names))):
        joins = column in declared.events.column_names
        yield Source(other.table.qualified, column, Use.JOIN if joins else use)
        if joins:
            yield Source(declared.events.qualified, column, Use.JOIN)


def _joined_by(declared: Aggregates, dimension: Dimension) -> list[Source]:
    deciding = (*dimension.identity, *(() if dimension.is_unique else dimension.rank))
    return [
        *(Source(declared.events.qualified, here, Use.JOIN) for here in dimension.pairs),
        *(Source(dimension.table.qualified, there, Use.JOIN) for there in dict.fromkeys(deciding)),
    ]

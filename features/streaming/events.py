"""What messages give to tails: bronze rows, cleaned and checked as silver and gold do it, as packed events.

DuckDB computes them. A row that fails a critical check of any of the three tables is left out: the release has it in
quarantine.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

from contracts.aggregations import Aggregation, Count, First, Latest
from contracts.columns import AUDIT_COLUMNS, EVENT_TIMESTAMP, STREAM_COLUMNS
from contracts.model import DOUBLE, LONG, STRING, Check, Column, DecimalType, Severity, Table, Type
from features.instants import state
from features.instants.state import AT, ID
from features.instants.tail import pack
from features.streaming.tail_store import pack_key
from features.streaming.tails import Tail
from lake.sql import identifier

if TYPE_CHECKING:
    import pyarrow as pa

PARTITION, OFFSET = "_partition", "_offset"
ADDED = {column.name for column in (*AUDIT_COLUMNS, *STREAM_COLUMNS)}
"""Columns that loading fills in, whose own checks hold."""
ROWS = "rows"


Entries = dict[int, list[tuple[bytes, int, bytes]]]
"""By partition: the packed key of an entity, the offset of the last of its events, and the events as a Block."""


class Evaluator:
    """Computes the events of tails that have one bronze table."""

    def __init__(self, tails: Sequence[Tail]) -> None:
        import duckdb

        self._connection = duckdb.connect()
        self._connection.execute(
            "SET TimeZone = 'UTC'; SET python_enable_replacements = false; SET enable_progress_bar = false;"
            " SET threads = 1;"
            " PRAGMA disable_optimizer"  # a batch of a few messages is computed sooner than a plan is optimized
        )
        self._tails, self._source = {tail.name: tail for tail in tails}, _Source()

    def entries(self, rows: pa.Table, since: Mapping[tuple[str, int], int]) -> dict[str, Entries]:
        """What each tail, by its name, gets of the bronze table's rows, which have PARTITION and OFFSET.

        `since` has the offset by tail and partition from which on its events are not in it yet.
        """
        if self._source.rows is None:
            self._source.rows = rows
            self._connection.register(ROWS, self._source)
            for number, tail in enumerate(self._tails.values()):
                self._connection.execute(f"PREPARE {_statement(number)} AS {query(tail)}")
        self._source.rows = rows
        return {
            name: self._entries(tail, _statement(number), since)
            for number, (name, tail) in enumerate(self._tails.items())
        }

    def _entries(self, tail: Tail, statement: str, since: Mapping[tuple[str, int], int]) -> Entries:
        width, columns = len(tail.declared.key), state.columns(tail.declared)
        events: dict[tuple[int, tuple[Any, ...]], list[Sequence[Any]]] = defaultdict(list)
        for partition, *row in self._connection.execute(f"EXECUTE {statement}").fetchall():
            if row[0] >= since.get((tail.name, partition), 0):
                offset, at, identity, *values = row
                events[partition, tuple(values[:width])].append((at, identity, offset, *values[width:]))
        entries: Entries = defaultdict(list)
        if not events:
            return entries
        members = [*chain.from_iterable(events.values())]
        blocks = pack(members, columns, [*map(len, events.values())])
        for ((partition, key), of), block in zip(events.items(), blocks, strict=True):
            last = max(member[2] for member in of)
            entries[partition].append((pack_key(key), last, block))
        return entries


class _Source:
    """What prepared statements read: the rows of the batch at hand. To plan a query takes ten times as long as to
    compute it for ten messages.
    """

    rows: pa.Table | None = None

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        return self._table().__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        return self._table().schema.__arrow_c_schema__()

    def _table(self) -> pa.Table:
        if self.rows is None:
            raise ValueError("no batch is at hand")
        return self.rows


def _statement(number: int) -> str:
    return f"events_of_tail_{number}"


def query(of: Tail) -> str:
    """SQL from bronze rows to events: partition, offset, instant, identity, key, cells."""
    declared = of.declared
    position = f"{PARTITION}, {OFFSET}"
    cells = ", ".join(
        f"{cell(column, of.bronze.column(column.source_name))} AS {identifier(column.name)}"
        for column in of.silver.columns
    )
    keys = [identifier(column.name) for column in declared.key]
    time = identifier(declared.time_column)
    own = dict.fromkeys((*keys, *(identifier(name) for name in of.silver.key)))
    measures = [(column, _measure(declared.value_type, part)) for part, column in declared.measure_columns()]
    values = "".join(f", {sql} AS {identifier(column.name)}" for column, sql in measures)
    known = " AND ".join(f"{name} IS NOT NULL" for name in dict.fromkeys((*own, time)))
    stored = "".join(f", {state.stored(column)}" for column, _ in measures)
    # subqueries in each other: without the optimizer, common table expressions are stored one after the other
    bronze = f"SELECT * FROM {ROWS} WHERE {_passes(of.bronze)}"
    silver = f"SELECT {position}, {cells} FROM ({bronze})"
    kept = f"SELECT * FROM ({silver}) WHERE {_passes(of.silver)} AND {known}"
    instant = f"CAST({time} AS TIMESTAMPTZ) AS {EVENT_TIMESTAMP.name}"
    gold = f"SELECT {position}, {', '.join(own)}, {instant}{values} FROM ({kept})"
    return (
        f"SELECT {position}, epoch_us({EVENT_TIMESTAMP.name}) AS {AT}, {state.identity(of.event_key)} AS {ID},"
        f" {', '.join(keys)}{stored} FROM ({gold}) WHERE {_passes(of.gold)}"
    )


WHOLE_NUMBER, NUMBER = r"\s*[+-]?[0-9]+\s*", r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)\s*"
"""Texts that both engines read as a number."""


def cell(column: Column, source: Column) -> str:
    """A silver cell from a bronze one, as `etl.silver.select` makes it; NULL where it does not fit. For the pairs of
    types in `tails.CASTS` only.
    """
    name, target = identifier(source.name), column.type
    if source.type == target:
        return name
    if source.type == DOUBLE and isinstance(target, DecimalType):
        units = f"TRY_CAST(round({name} * {10**target.scale}::DOUBLE) AS DECIMAL({min(target.precision + 2, 38)}, 0))"
        unit = f"CAST(1E-{target.scale} AS DECIMAL({target.scale + 1}, {target.scale}))"
        return f"TRY_CAST(TRY({units} * {unit}) AS {target.duckdb})"
    if target == LONG and source.type != STRING:  # DuckDB rounds, the engines cut off
        return f"TRY_CAST(trunc({name}) AS BIGINT)"
    if source.type == STRING:  # DuckDB reads more as a number, such as 1e3
        pattern = WHOLE_NUMBER if target == LONG else NUMBER
        return f"CASE WHEN regexp_full_match({name}, '{pattern}') THEN TRY_CAST({name} AS {target.duckdb}) END"
    return f"TRY_CAST({name} AS {target.duckdb})"


def _measure(value_type: Callable[[Aggregation], Type], part: Aggregation) -> str:
    """What an event gives to an aggregation, as `etl.gold.instants` makes it."""
    where = f"({part.where})" if part.where else ""
    if isinstance(part, Count) or (isinstance(part, (Latest, First)) and not part.of):
        has_value = f"({part.of}) IS NOT NULL" if part.of else "true"
        return f"TRY({has_value} AND coalesce({where}, false))" if where else f"TRY({has_value})"
    value = f"CAST(({part.of}) AS {value_type(part).duckdb})"
    return f"TRY(CASE WHEN {where} THEN {value} END)" if where else f"TRY({value})"


def _passes(table: Table) -> str:
    """A condition: the row breaks no critical check."""
    checks = [check for check in table.checks() if check.severity == Severity.CRITICAL]
    return " AND ".join(_condition(check) for check in checks if not {*check.columns} & ADDED) or "true"


def _condition(check: Check) -> str:
    if check.is_presence:
        return check.sql
    # the patterns of columns are the one place where DuckDB has another word
    return f"coalesce(TRY({check.sql.replace(' RLIKE ', ' SIMILAR TO ')}), true)"

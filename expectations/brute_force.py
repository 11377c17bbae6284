"""Feature tables against a count from their declaration alone, by DuckDB over the tables that they were made from.

No code that makes the rows is used: a window is the plain filter `t - w <= at < t`, and what the docstrings of
`contracts.aggregations` say of an aggregation is said once more here, in SQL. So an error of the windows, of an
increment or of a release shows as a difference.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from contracts.aggregations import (
    DAY,
    Aggregates,
    Aggregation,
    AsOf,
    Count,
    Decayed,
    Dimension,
    Distinct,
    First,
    Latest,
    Max,
    Mean,
    Min,
    Ratio,
    Recent,
    Sum,
    Window,
)
from contracts.model import Table
from lake import delta, settings, storage
from lake.sql import identifier, parquet

if TYPE_CHECKING:
    import duckdb
    from deltalake import DeltaTable

Prepared = Any
"""`Callable[[DuckDBPyConnection, str], DuckDBPyRelation]`, a `DuckDBPyRelation`, or a `pyarrow.Table`."""
Key = tuple[Any, ...]
Row = dict[str, Any]

NO_ROW = "no row"
"""What is expected of, or found at, a key and instant of which the table says nothing."""
EVENTS = "_brute_force_events"
ASKED = "_brute_force_asked"
AGE = "date_diff('day', CAST(_at AS DATE), CAST(_newest AS DATE))"
"""Whole days from an event's day to that of the key's newest event before the instant."""
LONG_IDLE = 400
"""Days after a key's last event up to which idle days are drawn, beside its longest window."""


class VerifyError(RuntimeError):
    """A table cannot be verified; the message says what is missing."""


@dataclass(frozen=True)
class Difference:
    """A value that is not what a count of the events gives. `expected` and `found` are NO_ROW where there is none."""

    key: Key
    at: datetime
    feature: str
    expected: Any
    found: Any


@dataclass(frozen=True)
class Verification:
    """How many values of how many keys and instants were compared, and those that differ, in order of key, instant and
    feature.
    """

    table: str
    keys: int
    instants: int
    compared: int
    differences: tuple[Difference, ...]


def verify(
    table: Table,
    versions: Mapping[str, int],
    sample: int,
    seed: int,
    prepared: Prepared = None,
    until: date | None = None,
) -> Verification:
    """Count the features of `sample` random keys at a few random midnights each, and compare them with the newest row
    at or before each.

    `versions` has the Delta version of the table and of each of its inputs, as a release pins them. Of each key these
    instants are drawn: any covered midnight, the one before its first event, the one after an event, the last at which
    a window holds it and the first at which it does not, the one after the key's last event, and an idle one long after
    it. Covered are the midnights up to `until`; by default that is the horizon that the table's own commit recorded.

    What a transform prepares (columns of `prepared`, tables that are `MappedInTime`) is PySpark, and cannot be read
    from a declaration. For such a table say by `prepared` what its events are, either way a row per event with the
    columns of the events, of their dimensions and the prepared ones:

    - a callable, which gets the DuckDB connection and the name of a view of the events with their dimensions, and
      returns a relation. The connection knows each input by its own name, such as `silver.promotions`. Written in SQL,
      it is an oracle of the transform as well.
    - rows that are prepared already: an Arrow table, or a DuckDB relation. They are taken as they are: an error of what
      prepared them is not found.

    VerifyError where it is missing, or a table was never published.
    """
    declared = _declared(table)
    with _connection() as connection:
        published = {
            name: _attach(connection, name, versions) for name in dict.fromkeys((*table.inputs, table.qualified))
        }
        events = events_of(connection, declared, {name: identifier(name) for name in table.inputs}, prepared)
        end = until or _horizon(published[table.qualified])
        asked = _drawn(
            connection, declared, events, sample, random.Random(seed), end or _last_midnight(connection, table)
        )
        expected = counted(connection, declared, events, asked)
        found = _rows_at(connection, table, asked)
    return _compared(table, asked, expected, found)


def _declared(table: Table) -> Aggregates:
    if table.aggregates is None:
        raise VerifyError(
            f"{table.qualified} declares no aggregations, so nothing says what its rows should be. Only tables made by"
            " `feature_table` can be verified"
        )
    return table.aggregates


# --- the count


def counted(
    connection: duckdb.DuckDBPyConnection, declared: Aggregates, events: str, asked: Sequence[tuple[Key, datetime]]
) -> dict[tuple[Key, datetime], Row]:
    """The features at these keys and instants, from the relation `events` (see `events_of`); none where no event of the
    key lies before the instant.
    """
    _register_asked(connection, declared, asked)
    columns = {column.name: _sql(declared, part, window) for part, window, column in declared.features()}
    same = " AND ".join(f"e.{identifier(column.name)} = a._k{n}" for n, column in enumerate(declared.key))
    rows = connection.execute(f"""
        WITH met AS (
            SELECT a._asked, a._t, e.*, max(e._at) OVER (PARTITION BY a._asked) AS _newest
            FROM {ASKED} a JOIN {events} e ON {same} AND e._at < a._t
        )
        SELECT _asked, {", ".join(f"{sql} AS {identifier(name)}" for name, sql in columns.items())}
        FROM met GROUP BY _asked
        """).fetchall()
    return {asked[row[0]]: dict(zip(columns, row[1:], strict=True)) for row in rows}


def _sql(declared: Aggregates, part: Aggregation, window: Window | Recent | None) -> str:
    """A feature, over the events before `_t` of one key and instant."""
    inside = _inside(window)
    if isinstance(part, Ratio):
        top, bottom = _amount(part.part, inside), _amount(part.whole, inside)
        empty = "NULL" if part.empty is None else f"CAST({part.empty!r} AS DOUBLE)"
        return f"CASE WHEN {bottom} = 0 THEN {empty} ELSE CAST({top} AS DOUBLE) / CAST({bottom} AS DOUBLE) END"
    if isinstance(part, Mean):
        count = f"count({_value(part)}) FILTER (WHERE {_kept(part, inside)})"
        return f"CASE WHEN {count} > 0 THEN CAST({_amount(part, inside)} AS DOUBLE) / CAST({count} AS DOUBLE) END"
    if isinstance(part, (Sum, Count, Distinct)):
        return _amount(part, inside)
    if isinstance(part, Decayed):
        weight = f"CAST(floor(1048576 * pow(2.0::DOUBLE, -{AGE}::DOUBLE / {part.half_life}) + 0.5) AS BIGINT)"
        there = f" AND ({part.of}) IS NOT NULL" if part.of else ""
        return f"coalesce(sum({weight}) FILTER (WHERE {_kept(part, inside)}{there}), 0)"
    value = _value(part, declared.time_column)
    kept = f"FILTER (WHERE {_kept(part, inside)} AND {value} IS NOT NULL)"
    if isinstance(part, (Min, Max)):
        return f"{'min' if isinstance(part, Min) else 'max'}({value}) {kept}"
    if isinstance(part, (Latest, First)):
        return f"{'last' if isinstance(part, Latest) else 'first'}({value} ORDER BY _at, {value}) {kept}"
    raise VerifyError(f"nothing says here how to count a {type(part).__name__}. Add it to expectations/brute_force.py")


def _amount(part: Aggregation, inside: str) -> str:
    """An exact number, 0 where there is nothing."""
    if isinstance(part, Count):
        return f"count({_value(part) if part.of else '*'}) FILTER (WHERE {_kept(part, inside)})"
    if isinstance(part, Distinct):
        return f"count(DISTINCT {_value(part)}) FILTER (WHERE {_kept(part, inside)})"
    return f"coalesce(sum({_value(part)}) FILTER (WHERE {_kept(part, inside)}), 0)"


def _inside(window: Window | Recent | None) -> str:
    if window is None:
        return "true"
    if isinstance(window, Recent):
        return f"{AGE} < {window.days}"
    return f"_at >= _t - to_seconds({int(window.length.total_seconds())})"


def _kept(part: Aggregation, inside: str) -> str:
    return f"{inside} AND ({part.where})" if part.where else inside


def _value(part: Aggregation, default: str = "") -> str:
    """What `of` is of one event: as it is written, in the type that the declaration gives it."""
    value = f"({part.of or default})"
    return f"CAST({value} AS {part.type.duckdb})" if part.type else value


# --- the events


def events_of(
    connection: duckdb.DuckDBPyConnection, declared: Aggregates, sources: Mapping[str, str], prepared: Prepared = None
) -> str:
    """The name of a relation that has the events, each with its instant `_at` and what its dimensions and the transform
    add.

    `sources` are the names of the relations of the table's inputs. `prepared` as for `verify`.
    """
    rows = _with_dimensions(declared, sources)
    if declared.needs_transform:
        rows = _prepared(connection, rows, prepared)
    connection.execute(
        f"CREATE OR REPLACE TEMP TABLE {EVENTS} AS SELECT *, CAST({identifier(declared.time_column)} AS TIMESTAMP) AS"
        f" _at FROM ({rows})"
    )
    return EVENTS


def _prepared(connection: duckdb.DuckDBPyConnection, rows: str, prepared: Prepared) -> str:
    if prepared is None:
        raise VerifyError(
            "a transform prepares the events of this table. Give them by `prepared`: a callable, or rows (see `verify`)"
        )
    if not callable(prepared):
        connection.register(
            "_brute_force_prepared", prepared.to_arrow_table() if hasattr(prepared, "to_arrow_table") else prepared
        )
        return "FROM _brute_force_prepared"
    connection.execute(f"CREATE OR REPLACE TEMP TABLE _brute_force_joined AS {rows}")
    prepared(connection, "_brute_force_joined").create_view("_brute_force_prepared", replace=True)
    return "FROM _brute_force_prepared"


def _with_dimensions(declared: Aggregates, sources: Mapping[str, str]) -> str:
    """The events, each once, with the columns of their dimensions; NULL where a dimension has no row for them."""
    own = sources[declared.events.qualified]
    joins = [
        _join(declared, other, sources[other.table.qualified], f"d{n}") for n, other in enumerate(declared.dimensions)
    ]
    taken = [f"d{n}.{identifier(name)}" for n, other in enumerate(declared.dimensions) for name in other.take]
    return f"SELECT {', '.join(['e.*', *taken])} FROM {own} e {' '.join(joins)}"


def _join(declared: Aggregates, other: Dimension, source: str, alias: str) -> str:
    """Of the rows with the event's values, the newest: by the table's time, then the rest of its key."""
    same = [f"d.{identifier(there)} = e.{identifier(here)}" for here, there in other.pairs.items()]
    time = [other.table.time_column] if other.table.time_column else []
    newest_first = [
        name for name in (*time, *other.table.key, *other.table.column_names) if name not in other.pairs.values()
    ]
    if other.as_of == AsOf.EVENT and other.valid_from:
        same.append(
            f"CAST(d.{identifier(other.valid_from)} AS TIMESTAMP) <= CAST(e.{identifier(declared.time_column)} AS"
            " TIMESTAMP)"
        )
        newest_first.insert(0, other.valid_from)
    order = ", ".join(f"d.{identifier(name)} DESC NULLS LAST" for name in dict.fromkeys(newest_first)) or "1"
    return (
        f"LEFT JOIN LATERAL (SELECT d.* FROM {source} d WHERE {' AND '.join(same)} ORDER BY {order} LIMIT 1) {alias} ON"
        " true"
    )


# --- keys and instants


def _drawn(
    connection: duckdb.DuckDBPyConnection,
    declared: Aggregates,
    events: str,
    sample: int,
    chance: random.Random,
    end: date | None,
) -> list[tuple[Key, datetime]]:
    names = ", ".join(identifier(column.name) for column in declared.key)
    known = " AND ".join(f"{identifier(column.name)} IS NOT NULL" for column in declared.key)
    first = connection.execute(f"SELECT min(CAST(_at AS DATE)) FROM {events}").fetchall()[0][0]
    if first is None or end is None or end <= first:
        return []
    keys = connection.execute(f"SELECT DISTINCT {names} FROM {events} WHERE {known} ORDER BY {names}").fetchall()
    chosen = chance.sample(keys, min(sample, len(keys)))
    days = _event_days(connection, declared, events, chosen)
    asked = {
        (key, day) for key in chosen for day in _days_of(declared, days[key], chance, first, end) if first <= day <= end
    }
    return [(key, datetime(day.year, day.month, day.day, tzinfo=UTC)) for key, day in sorted(asked)]


def _days_of(declared: Aggregates, days: list[date], chance: random.Random, first: date, end: date) -> Iterator[date]:
    """The days at whose beginning a key is looked at."""
    on, longest = chance.choice(days), max(declared.trailing, default=0)
    yield first + chance.randint(1, (end - first).days) * DAY
    yield days[0]
    yield on + DAY
    if declared.trailing:
        leaves = on + (1 + chance.choice(declared.trailing)) * DAY
        yield from (leaves - DAY, leaves)
    yield days[-1] + DAY
    yield min(days[-1] + (longest + chance.randint(2, LONG_IDLE)) * DAY, end)


def _event_days(
    connection: duckdb.DuckDBPyConnection, declared: Aggregates, events: str, keys: Sequence[Key]
) -> dict[Key, list[date]]:
    """The days on which each of these keys has an event, in order."""
    _register_asked(connection, declared, [(key, datetime.min) for key in keys])
    same = " AND ".join(f"e.{identifier(column.name)} = a._k{n}" for n, column in enumerate(declared.key))
    found = connection.execute(
        f"SELECT _asked, list(DISTINCT CAST(_at AS DATE) ORDER BY CAST(_at AS DATE)) FROM {ASKED} a JOIN {events} e ON"
        f" {same} GROUP BY _asked"
    )
    return {keys[row[0]]: row[1] for row in found.fetchall()}


def _register_asked(
    connection: duckdb.DuckDBPyConnection, declared: Aggregates, asked: Sequence[tuple[Key, datetime]]
) -> None:
    """A relation with a number, the parts of the key and the instant (UTC, without a zone) of each."""
    import pyarrow as pa

    kinds = {"bigint": pa.int64(), "string": pa.string(), "date": pa.date32()}
    columns: dict[str, pa.Array] = {"_asked": pa.array(range(len(asked)), pa.int64())}
    for n, column in enumerate(declared.key):
        columns[f"_k{n}"] = pa.array([key[n] for key, _ in asked], kinds[column.type.spark])
    columns["_t"] = pa.array([at.replace(tzinfo=None) for _, at in asked], pa.timestamp("us"))
    connection.register(ASKED, pa.table(columns))


# --- the table


def _rows_at(
    connection: duckdb.DuckDBPyConnection, table: Table, asked: Sequence[tuple[Key, datetime]]
) -> dict[tuple[Key, datetime], Row]:
    """The newest row of each key at or before each instant."""
    declared = _declared(table)
    _register_asked(connection, declared, asked)
    names = [column.name for _, _, column in declared.features()]
    at = "CAST(g.event_timestamp AS TIMESTAMP)"
    same = " AND ".join(f"g.{identifier(column.name)} = a._k{n}" for n, column in enumerate(declared.key))
    rows = connection.execute(f"""
        SELECT a._asked, {", ".join(f"g.{identifier(name)}" for name in names)}
        FROM {ASKED} a JOIN {identifier(table.qualified)} g ON {same} AND {at} <= a._t
        QUALIFY row_number() OVER (PARTITION BY a._asked ORDER BY {at} DESC) = 1
        """).fetchall()
    return {asked[row[0]]: dict(zip(names, row[1:], strict=True)) for row in rows}


def _last_midnight(connection: duckdb.DuckDBPyConnection, table: Table) -> date | None:
    found = connection.execute(
        f"SELECT max(CAST(event_timestamp AS DATE)) FROM {identifier(table.qualified)}"
    ).fetchall()[0][0]
    return found if found is None else _as_date(found)


def _as_date(found: Any) -> date:
    return found.date() if isinstance(found, datetime) else found


def _horizon(table: DeltaTable) -> date | None:
    """The last midnight that the table's newest commit says it covers; None where it does not say."""
    recorded = delta.last_commit(table)
    return recorded.horizon if recorded else None


# --- comparing


def _compared(
    table: Table,
    asked: Sequence[tuple[Key, datetime]],
    expected: Mapping[tuple[Key, datetime], Row],
    found: Mapping[tuple[Key, datetime], Row],
) -> Verification:
    names = [column.name for _, _, column in _declared(table).features()]
    differences = [
        Difference(*each, name, wanted, got)
        for each in asked
        for name in names
        if not _equal(wanted := _cell(expected, each, name), got := _cell(found, each, name))
    ]
    keys, instants = {key for key, _ in asked}, {at for _, at in asked}
    return Verification(table.qualified, len(keys), len(instants), len(asked) * len(names), tuple(differences))


def _cell(rows: Mapping[tuple[Key, datetime], Row], each: tuple[Key, datetime], name: str) -> Any:
    return rows[each][name] if each in rows else NO_ROW


def _equal(expected: Any, found: Any) -> bool:
    if isinstance(expected, float) and isinstance(found, float) and expected != expected:
        return found != found
    return _without_zone(expected) == _without_zone(found) and (expected is None) == (found is None)


def _without_zone(value: Any) -> Any:
    return value.astimezone(UTC).replace(tzinfo=None) if isinstance(value, datetime) and value.tzinfo else value


# --- reading


def _connection() -> duckdb.DuckDBPyConnection:
    import duckdb

    connection = storage.readable(duckdb.connect(), settings.lake())
    connection.execute("SET TimeZone = 'UTC'; SET python_enable_replacements = false; SET enable_progress_bar = false")
    return connection


def _attach(connection: duckdb.DuckDBPyConnection, qualified: str, versions: Mapping[str, int]) -> DeltaTable:
    """Make the pinned version of a table readable under its own name, quoted or not: its files are those that its log
    names.
    """
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    if qualified not in versions:
        raise VerifyError(f"the version of {qualified} is not given. Known are {', '.join(versions) or 'none'}")
    path = settings.table_path(qualified)
    try:
        opened = DeltaTable(str(path), version=versions[qualified])
    except (TableNotFoundError, DeltaError) as error:
        raise VerifyError(
            f"{qualified} has no version {versions[qualified]} at {path}. Run the pipeline, or name a version that is"
            " there"
        ) from error
    files = opened.file_uris()
    if files and not opened.metadata().partition_columns:
        connection.execute(f"CREATE TEMP VIEW {identifier(qualified)} AS FROM {parquet(files)}")
    # without files there is nothing that says the columns, and a file does not hold what its table is partitioned by
    else:
        connection.register(qualified, opened.to_pyarrow_table())
    layer, name = qualified.split(".")
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {identifier(layer)}")
    connection.execute(f"CREATE VIEW {identifier(layer)}.{identifier(name)} AS FROM {identifier(qualified)}")
    return opened


__all__ = ["NO_ROW", "Difference", "Verification", "VerifyError", "counted", "events_of", "verify"]

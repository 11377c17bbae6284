"""Verify feature tables: compute features from their declaration alone, with DuckDB over the input tables.

This shares no code with the pipeline: a window is the plain filter `t - w <= at < t`, and each aggregation is SQL for
its docstring in `contracts.aggregations`. So errors in windows, increments and releases show as differences.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
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
from contracts.interval import midnight
from contracts.model import Table
from lake import delta, settings, storage
from lake.publishing import arrow_type
from lake.sql import identifier, parquet

if TYPE_CHECKING:
    import duckdb
    from deltalake import DeltaTable

Prepared = Any
"""`Callable[[DuckDBPyConnection, str], DuckDBPyRelation]`, a `DuckDBPyRelation`, or a `pyarrow.Table`."""
Key = tuple[Any, ...]
Row = dict[str, Any]
Values = Callable[[Sequence[tuple[Key, datetime]]], Mapping[tuple[Key, datetime], Row]]
"""The features of keys at instants; no entry for a key without an event before."""
A_MOMENT = timedelta(microseconds=1)

NO_ROW = "no row"
"""Stands for the value at a key and instant without a row."""
EVENTS = "_brute_force_events"
SAMPLES = "_brute_force_samples"
AGE = "date_diff('day', CAST(_at AS DATE), CAST(_newest AS DATE))"
"""Days from an event's day to that of the key's newest event before the instant."""
LONG_IDLE = 400
"""Idle days are sampled up to this many days, plus the longest window, after a key's last event."""


class VerifyError(RuntimeError):
    """A table cannot be verified; the message says what is missing."""


@dataclass(frozen=True)
class Difference:
    """A wrong value: `expected` from the events, `found` in the table. Either is NO_ROW where there is no row."""

    key: Key
    at: datetime
    feature: str
    expected: Any
    found: Any


@dataclass(frozen=True)
class Verification:
    """The number of keys, instants and values that were compared, and the differences, by key, instant and feature."""

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
    values: Values | None = None,
) -> Verification:
    """Compute the features of `sample` random keys at a few midnights each, and compare them with the table's rows.

    `versions` has the Delta version of the table and of each of its inputs, as a release pins them. The midnights of a
    key, up to `until` (by default the horizon in the table's last commit), are: a random one, the one before its first
    event, the one after an event, the last one with that event in a window and the first one without, the one after
    the key's last event, and one long after it.

    A transform (with `prepared` columns or `MappedInTime` tables) is PySpark, which this module cannot run. Pass its
    result as `prepared`, one row per event with the columns of the events, their dimensions and the prepared ones:

    - a callable (connection, name of a view of the events with their dimensions) -> relation. The connection has each
      input under its name, such as `silver.promotions`. Written in SQL, the callable verifies the transform as well.
    - prepared rows: an Arrow table or a DuckDB relation. They are trusted: errors of the transform are not found.

    The instants of a table of instants are others: random ones, those of events and those at which an event leaves a
    window, and a microsecond later. The table holds only the events; `values` computes features from them as the
    offline store does.

    VerifyError where `prepared` or `values` is missing, or a table was never published.
    """
    declared = _declared(table)
    with _connection() as connection:
        published = {
            name: _attach(connection, name, versions) for name in dict.fromkeys((*table.inputs, table.qualified))
        }
        events = events_of(connection, declared, {name: identifier(name) for name in table.inputs}, prepared)
        end = until or _horizon(table.qualified, published[table.qualified].version())
        samples = _draw_samples(
            connection, declared, events, sample, random.Random(seed), end or _last_midnight(connection, table)
        )
        expected = counted(connection, declared, events, samples)
        found = (
            _rows_at(connection, table, samples) if not declared.is_of_instants else _computed(table, samples, values)
        )
    return _compare(table, samples, expected, found)


def _computed(
    table: Table, samples: Sequence[tuple[Key, datetime]], values: Values | None
) -> Mapping[tuple[Key, datetime], Row]:
    if values is None:
        raise VerifyError(f"{table.qualified} has values at instants. Pass `values`, which computes them")
    return values(samples)


def _declared(table: Table) -> Aggregates:
    if table.aggregates is None:
        raise VerifyError(
            f"{table.qualified} declares no aggregations, so nothing says what its rows should be. Only tables made by"
            " `feature_table` can be verified"
        )
    return table.aggregates


# --- the count


def counted(
    connection: duckdb.DuckDBPyConnection, declared: Aggregates, events: str, samples: Sequence[tuple[Key, datetime]]
) -> dict[tuple[Key, datetime], Row]:
    """The features of these keys and instants, computed from the relation `events` (see `events_of`).

    A key without an event before the instant has no entry.
    """
    _register_samples(connection, declared, samples)
    columns = {column.name: _sql(declared, part, window) for part, window, column in declared.features()}
    same = " AND ".join(f"e.{identifier(column.name)} = a._k{n}" for n, column in enumerate(declared.key))
    rows = connection.execute(f"""
        WITH joined AS (
            SELECT a._sample, a._t, e.*, max(e._at) OVER (PARTITION BY a._sample) AS _newest
            FROM {SAMPLES} a JOIN {events} e ON {same} AND e._at < a._t
        )
        SELECT _sample, {", ".join(f"{sql} AS {identifier(name)}" for name, sql in columns.items())}
        FROM joined GROUP BY _sample
        """).fetchall()
    return {samples[row[0]]: dict(zip(columns, row[1:], strict=True)) for row in rows}


def _sql(declared: Aggregates, part: Aggregation, window: Window | Recent | None) -> str:
    """The SQL of a feature over the events of one key before `_t`."""
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
        has_value = f" AND ({part.of}) IS NOT NULL" if part.of else ""
        return f"coalesce(sum({weight}) FILTER (WHERE {_kept(part, inside)}{has_value}), 0)"
    value = _value(part, declared.time_column)
    kept = f"FILTER (WHERE {_kept(part, inside)} AND {value} IS NOT NULL)"
    if isinstance(part, (Min, Max)):
        return f"{'min' if isinstance(part, Min) else 'max'}({value}) {kept}"
    if isinstance(part, (Latest, First)):
        return f"{'last' if isinstance(part, Latest) else 'first'}({value} ORDER BY _at, {value}) {kept}"
    raise VerifyError(f"{type(part).__name__} is not implemented here. Add it to expectations/brute_force.py")


def _amount(part: Aggregation, inside: str) -> str:
    """The SQL of a count or sum, 0 without events."""
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
    """The SQL of `of` for one event, cast to the declared type."""
    value = f"({part.of or default})"
    return f"CAST({value} AS {part.type.duckdb})" if part.type else value


# --- the events


def events_of(
    connection: duckdb.DuckDBPyConnection, declared: Aggregates, sources: Mapping[str, str], prepared: Prepared = None
) -> str:
    """The name of a new relation of the events, with their instant `_at` and the columns of dimensions and transform.

    `sources` maps the table's inputs to names of relations. `prepared` as for `verify`.
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
            "a transform prepares the events of this table. Pass `prepared`, a callable or rows (see `verify`)"
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
    """The SQL of the events with the columns of their dimensions; NULL where a dimension has no row."""
    own = sources[declared.events.qualified]
    joins = [
        _join(declared, dimension, sources[dimension.table.qualified], f"d{n}")
        for n, dimension in enumerate(declared.dimensions)
    ]
    taken = [f"d{n}.{identifier(name)}" for n, dimension in enumerate(declared.dimensions) for name in dimension.take]
    return f"SELECT {', '.join(['e.*', *taken])} FROM {own} e {' '.join(joins)}"


def _join(declared: Aggregates, dimension: Dimension, source: str, alias: str) -> str:
    """A join to the newest row of the dimension with the event's values, by the table's time, then its key."""
    table, pairs = dimension.table, dimension.pairs
    conditions = [f"d.{identifier(name)} = e.{identifier(event_name)}" for event_name, name in pairs.items()]
    time = [table.time_column] if table.time_column else []
    newest_first = [name for name in (*time, *table.key, *table.column_names) if name not in pairs.values()]
    if dimension.as_of == AsOf.EVENT and dimension.valid_from:
        conditions.append(
            f"CAST(d.{identifier(dimension.valid_from)} AS TIMESTAMP) <= CAST(e.{identifier(declared.time_column)} AS"
            " TIMESTAMP)"
        )
        newest_first.insert(0, dimension.valid_from)
    order = ", ".join(f"d.{identifier(name)} DESC NULLS LAST" for name in dict.fromkeys(newest_first)) or "1"
    return (
        f"LEFT JOIN LATERAL (SELECT d.* FROM {source} d WHERE {' AND '.join(conditions)} ORDER BY {order} LIMIT 1)"
        f" {alias} ON true"
    )


# --- keys and instants


def _draw_samples(
    connection: duckdb.DuckDBPyConnection,
    declared: Aggregates,
    events: str,
    sample: int,
    rng: random.Random,
    end: date | None,
) -> list[tuple[Key, datetime]]:
    """Keys and midnights, sorted; see `verify`."""
    names = ", ".join(identifier(column.name) for column in declared.key)
    known = " AND ".join(f"{identifier(column.name)} IS NOT NULL" for column in declared.key)
    first = connection.execute(f"SELECT min(CAST(_at AS DATE)) FROM {events}").fetchall()[0][0]
    if first is None or end is None or end <= first:
        return []
    keys = connection.execute(f"SELECT DISTINCT {names} FROM {events} WHERE {known} ORDER BY {names}").fetchall()
    chosen = rng.sample(keys, min(sample, len(keys)))
    if declared.is_of_instants:
        return _draw_instants(connection, declared, events, chosen, rng, end)
    days = _times_of_events(connection, declared, events, chosen, "CAST(_at AS DATE)")
    samples = {
        (key, day) for key in chosen for day in _days_of(declared, days[key], rng, first, end) if first <= day <= end
    }
    return [(key, midnight(day)) for key, day in sorted(samples)]


def _draw_instants(
    connection: duckdb.DuckDBPyConnection,
    declared: Aggregates,
    events: str,
    keys: Sequence[Key],
    rng: random.Random,
    end: date,
) -> list[tuple[Key, datetime]]:
    """Keys and instants up to `end`, sorted; see `verify`."""
    lengths = {window.length for part in declared.aggregations for window in part.windows if isinstance(window, Window)}
    horizon, samples = midnight(end), set()
    for key, naive in _times_of_events(connection, declared, events, keys, "_at").items():
        instants = [at.replace(tzinfo=UTC) for at in naive]
        first, event = instants[0], rng.choice(instants)
        drawn = [first + rng.random() * (horizon - first), first, event, *(event + length for length in lengths)]
        samples |= {(key, at + shift) for at in drawn for shift in (timedelta(0), A_MOMENT) if at + shift <= horizon}
        samples.add((key, horizon))
    return sorted(samples)


def _days_of(declared: Aggregates, days: list[date], rng: random.Random, first: date, end: date) -> Iterator[date]:
    """The days at whose midnight a key with events on `days` is sampled; see `verify`."""
    event_day, longest = rng.choice(days), max(declared.trailing, default=0)
    yield first + rng.randint(1, (end - first).days) * DAY
    yield days[0]
    yield event_day + DAY
    if declared.trailing:
        leaves = event_day + (1 + rng.choice(declared.trailing)) * DAY
        yield from (leaves - DAY, leaves)
    yield days[-1] + DAY
    yield min(days[-1] + (longest + rng.randint(2, LONG_IDLE)) * DAY, end)


def _times_of_events(
    connection: duckdb.DuckDBPyConnection, declared: Aggregates, events: str, keys: Sequence[Key], time: str
) -> dict[Key, list[Any]]:
    """The sorted values of `time`, SQL of the instant `_at`, of the events of each of these keys."""
    _register_samples(connection, declared, [(key, datetime.min) for key in keys])
    same = " AND ".join(f"e.{identifier(column.name)} = a._k{n}" for n, column in enumerate(declared.key))
    rows = connection.execute(
        f"SELECT _sample, list(DISTINCT {time} ORDER BY {time}) FROM {SAMPLES} a JOIN {events} e ON {same}"
        " GROUP BY _sample"
    )
    return {keys[row[0]]: row[1] for row in rows.fetchall()}


def _register_samples(
    connection: duckdb.DuckDBPyConnection, declared: Aggregates, samples: Sequence[tuple[Key, datetime]]
) -> None:
    """Register the relation SAMPLES: number, key parts, and instant in UTC without a zone."""
    import pyarrow as pa

    columns: dict[str, pa.Array] = {"_sample": pa.array(range(len(samples)), pa.int64())}
    for n, column in enumerate(declared.key):
        columns[f"_k{n}"] = pa.array([key[n] for key, _ in samples], arrow_type(column.type))
    columns["_t"] = pa.array([at.replace(tzinfo=None) for _, at in samples], pa.timestamp("us"))
    connection.register(SAMPLES, pa.table(columns))


# --- the table


def _rows_at(
    connection: duckdb.DuckDBPyConnection, table: Table, samples: Sequence[tuple[Key, datetime]]
) -> dict[tuple[Key, datetime], Row]:
    """The newest row of each key at or before each instant, as in an as-of join."""
    declared = _declared(table)
    _register_samples(connection, declared, samples)
    names = [column.name for _, _, column in declared.features()]
    at = "CAST(g.event_timestamp AS TIMESTAMP)"
    same = " AND ".join(f"g.{identifier(column.name)} = a._k{n}" for n, column in enumerate(declared.key))
    rows = connection.execute(f"""
        SELECT a._sample, {", ".join(f"g.{identifier(name)}" for name in names)}
        FROM {SAMPLES} a JOIN {identifier(table.qualified)} g ON {same} AND {at} <= a._t
        QUALIFY row_number() OVER (PARTITION BY a._sample ORDER BY {at} DESC) = 1
        """).fetchall()
    return {samples[row[0]]: dict(zip(names, row[1:], strict=True)) for row in rows}


def _last_midnight(connection: duckdb.DuckDBPyConnection, table: Table) -> date | None:
    query = f"SELECT max(CAST(event_timestamp AS DATE)) FROM {identifier(table.qualified)}"
    last: date | None = connection.execute(query).fetchall()[0][0]
    return last.date() if isinstance(last, datetime) else last


def _horizon(qualified: str, version: int) -> date | None:
    """The horizon in the commit of that version; None without one."""
    commit = delta.commit_of(qualified, version)
    return commit.horizon if commit else None


# --- comparing


def _compare(
    table: Table,
    samples: Sequence[tuple[Key, datetime]],
    expected: Mapping[tuple[Key, datetime], Row],
    found: Mapping[tuple[Key, datetime], Row],
) -> Verification:
    names = [column.name for _, _, column in _declared(table).features()]
    differences = [
        Difference(*sample, name, expected_value, found_value)
        for sample in samples
        for name in names
        if not _equal(expected_value := _cell(expected, sample, name), found_value := _cell(found, sample, name))
    ]
    keys, instants = {key for key, _ in samples}, {at for _, at in samples}
    return Verification(table.qualified, len(keys), len(instants), len(samples) * len(names), tuple(differences))


def _cell(rows: Mapping[tuple[Key, datetime], Row], sample: tuple[Key, datetime], name: str) -> Any:
    return rows[sample][name] if sample in rows else NO_ROW


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
    """Create a view of the pinned version of a table under its name, quoted or not. Returns the Delta table."""
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    if qualified not in versions:
        raise VerifyError(f"there is no version of {qualified}. Known are {', '.join(versions) or 'none'}")
    path = settings.table_path(qualified)
    try:
        delta_table = DeltaTable(str(path), version=versions[qualified])
    except (TableNotFoundError, DeltaError) as error:
        raise VerifyError(
            f"{qualified} has no version {versions[qualified]} at {path}. Run the pipeline, or name a version that is"
            " there"
        ) from error
    files = delta_table.file_uris()
    if files and not delta_table.metadata().partition_columns:
        connection.execute(f"CREATE TEMP VIEW {identifier(qualified)} AS FROM {parquet(files)}")
    # without files there are no columns to read, and files lack the columns that a table is partitioned by
    else:
        connection.register(qualified, delta_table.to_pyarrow_table())
    layer, name = qualified.split(".")
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {identifier(layer)}")
    connection.execute(f"CREATE VIEW {identifier(layer)}.{identifier(name)} AS FROM {identifier(qualified)}")
    return delta_table


__all__ = ["NO_ROW", "Difference", "Verification", "VerifyError", "counted", "events_of", "verify"]

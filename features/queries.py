"""DuckDB SQL over feature rows: the row in force at each label's instant, and the newest row of each key.

Keys are compared in their own types and instants as microseconds since 1970, so a session's time zone cannot change a
result. Among rows with the same key and event time, the one created last wins; a row without a creation time is older
than all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from feast import FeatureView

from features import type_mapping
from features.source import GoldTable
from lake.sql import identifier

NEVER = -(2**63) + 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc(moment: datetime) -> datetime:
    """The same moment in UTC; a naive one is UTC already."""
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970; a naive moment is UTC."""
    return (utc(moment) - EPOCH) // timedelta(microseconds=1)


def between(column: str, start: datetime | None, end: datetime | None) -> str:
    """Condition that an instant lies in [start, end]; None leaves that side open."""
    sides = [
        f"epoch_us(CAST({identifier(column)} AS TIMESTAMPTZ)) {sign} {microseconds(at)}"
        for sign, at in ((">=", start), ("<=", end))
        if at is not None
    ]
    return " AND ".join(sides) or "true"


def newest(table: str, keys: Sequence[str], values: dict[str, str], event: str, created: str | None, where: str) -> str:
    """The newest row of each key: the keys, then `values`, which maps column names to expressions over the table.

    The newest instant of each key is found first and its row afterwards, which takes two thirds of the time of carrying
    all values through the aggregate.
    """
    names = ", ".join(map(identifier, keys))
    selected = ", ".join(f"{expression} AS {identifier(name)}" for name, expression in values.items())
    rows = f"FROM {table} WHERE {where}"
    instants = f"SELECT {names}, max({_instant(event)}) AS __newest {rows} GROUP BY {names}"
    rank = f" ORDER BY {_creation(created)} DESC" if created else ""
    return (
        f"WITH instants AS ({instants}), rows AS (SELECT *, {_instant(event)} AS __newest {rows}) SELECT {names},"
        f" {selected} FROM rows JOIN instants USING ({names}, __newest) QUALIFY row_number() OVER (PARTITION BY"
        f" {names}{rank}) = 1"
    )


@dataclass(frozen=True)
class NumberedTable:
    """A table in SQL and an expression that numbers its rows; if `is_stable`, every scan gives the same numbers."""

    table: str
    number: str
    is_stable: bool = True


def as_of(rows: NumberedTable, source: GoldTable, view: FeatureView, features: Sequence[str]) -> str:
    """`__row` and the features of each row of `labels` (`__row`, `__at`, join keys) that has a feature row within the
    ttl, in any order.

    Sorting dominates the cost, so only rows that can match are sorted: for each key, the newest row up to its first
    label, and the rows after it. A single feature is carried through the join; with several, only the row number is,
    and the values are looked up afterwards.
    """
    values, parts = [identifier(source.column(name)) for name in features], {}
    several = len(values) > 1
    if several and not rows.is_stable:
        parts["numbered AS MATERIALIZED"] = f"SELECT *, {rows.number} AS __number FROM {rows.table}"
        rows = NumberedTable("numbered", "__number")
    along = rows.number if several else values[0]
    parts["requests AS"] = (
        f"SELECT {_with_commas(_renamed(map(identifier, label_keys(view)), '__k'))}__row, __at FROM labels"
    )
    parts["spans AS MATERIALIZED"] = _spans(view)
    parts["candidates AS MATERIALIZED"] = _candidates(rows, source, view, along)
    parts["newest AS"] = _newest_candidates(bool(source.created_column))
    parts["matches AS"] = _matches(view)
    matches = (
        f"SELECT __row, {', '.join(_renamed(values, '__f'))} FROM matches JOIN {rows.table} ON __along = {along}"
        if several
        else "SELECT __row, __along AS __f0 FROM matches"
    )
    clauses = ", ".join(f"{name} ({query})" for name, query in parts.items())
    return f"WITH {clauses} SELECT __row, {_cast_features(view, features)} FROM ({matches}) f"


def in_order() -> str:
    """The columns of the table `matches` for each row of `labels`, in the order of `__row`."""
    return "SELECT f.* EXCLUDE __row FROM labels l LEFT JOIN matches f ON l.__row = f.__row ORDER BY l.__row"


def _spans(view: FeatureView) -> str:
    """The distinct keys of the labels, each with its first and last instant and an integer `__key`, which sorts faster
    than the key.
    """
    ends = f"SELECT {_with_commas(_keys(view))}min(__at) AS __first, max(__at) AS __last FROM requests GROUP BY ALL"
    return f"SELECT *, CAST(row_number() OVER () AS INTEGER) AS __key FROM ({ends})"


def _candidates(rows: NumberedTable, source: GoldTable, view: FeatureView, along: str) -> str:
    """Feature rows that can match a label: `__key`, `__at`, `__created` if there is one, and the expression `along` as
    `__along`.
    """
    keys = _with_commas(_renamed([identifier(source.column(key.name)) for key in view.entity_columns], "__k"))
    created = f"{_creation(source.created_column)} AS __created, " if source.created_column else ""
    columns = f"{keys}{_instant(source.event_column)} AS __at, {created}{along} AS __along"
    in_span = f"__last - __at >= 0 AND {_within_ttl(view, '__first - __at')}"
    return f"SELECT * FROM (SELECT {columns} FROM {rows.table}) JOIN spans {_join_clause(view)} WHERE {in_span}"


def _newest_candidates(created: bool) -> str:
    """One of the `candidates` for each key and instant; up to the key's first label only the newest. Without creation
    times, any of several at the same instant.
    """
    later = "SELECT __key, __at, __along FROM candidates WHERE __at > __first"
    if created:
        later = (
            "SELECT __key, __at, arg_max_null(__along, __created) AS __along FROM candidates WHERE __at > __first"
            " GROUP BY __key, __at"
        )
    newest = "(__at, __created)" if created else "__at"
    return (
        f"{later} UNION ALL SELECT __key, max(__at), arg_max_null(__along, {newest}) FROM candidates WHERE __at <="
        " __first GROUP BY __key"
    )


def _matches(view: FeatureView) -> str:
    """`__row` and `__along` of the labels that have a feature row."""
    requests = f"SELECT __row, __at, __key FROM requests JOIN spans {_join_clause(view)}"
    return (
        f"SELECT __row, __along FROM ({requests}) l ASOF JOIN newest f ON l.__key = f.__key AND l.__at >= f.__at WHERE"
        f" {_within_ttl(view, 'l.__at - f.__at')}"
    )


def _within_ttl(view: FeatureView, age: str) -> str:
    return f"{age} <= {view.ttl // timedelta(microseconds=1)}" if view.ttl else "true"


def _keys(view: FeatureView) -> list[str]:
    return [f"__k{i}" for i in range(len(view.entity_columns))]


def _join_clause(view: FeatureView) -> str:
    return f"USING ({', '.join(_keys(view))})" if view.entity_columns else "ON true"


def _with_commas(columns: Sequence[str]) -> str:
    """The columns, each followed by a comma."""
    return "".join(f"{column}, " for column in columns)


def history(table: str, source: GoldTable, view: FeatureView, features: Sequence[str]) -> str:
    """All rows of the labels' keys: keys `__k0`, ..., `__at` and `__created` (microseconds), features `__f0`, ... in
    the types of the table.
    """
    keys = [identifier(source.column(key.name)) for key in view.entity_columns]
    created = _instant(source.created_column) if source.created_column else "NULL::BIGINT"
    times = [f"{_instant(source.event_column)} AS __at", f"{created} AS __created"]
    selected = ", ".join(
        [*_renamed(keys, "__k"), *times, *_renamed([identifier(source.column(name)) for name in features], "__f")]
    )
    has_label = (
        f"({', '.join(keys)}) IN (SELECT ({', '.join(map(identifier, label_keys(view)))}) FROM labels)"
        if keys
        else "true"
    )
    return f"SELECT {selected} FROM {table} WHERE {has_label}"


def cast_matches(view: FeatureView, features: Sequence[str]) -> str:
    """The features of each row of the table `matches` (`__row` and `__f0`, ...), cast to their types, in the order of
    `__row`.
    """
    return f"SELECT {_cast_features(view, features)} FROM matches f ORDER BY f.__row"


def label_keys(view: FeatureView) -> list[str]:
    """The labels' names for the view's keys."""
    return [view.projection.join_key_map.get(key.name, key.name) for key in view.entity_columns]


def _cast_features(view: FeatureView, features: Sequence[str]) -> str:
    """`f.__f0`, ... under the names of the features, cast to their types."""
    mappings = {
        field.name: type_mapping.of(field.dtype, f"{view.name}:{field.name}")
        for field in view.features
        if field.name in features
    }
    return ", ".join(
        f"{mappings[name].offline.format(f'f.__f{i}')} AS {identifier(name)}" for i, name in enumerate(features)
    )


def _instant(column: str) -> str:
    return f"epoch_us({identifier(column)})"


def _creation(column: str) -> str:
    return f"coalesce({_instant(column)}, {NEVER})"


def _renamed(columns: Iterable[str], prefix: str) -> list[str]:
    return [f"{column} AS {prefix}{i}" for i, column in enumerate(columns)]

"""The two questions put to feature rows, as DuckDB SQL: what was known at each label's instant, and what is newest at
one instant.

Keys are compared in their own types, and instants as microseconds since 1970, so that no session's time zone can leak
in. Of rows with the same key and event time the one created last counts, and one without a creation time is older than
all others.
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
    """The newest row of each key, as the keys and then `values`, which maps the names of columns to expressions over
    the table.

    The newest instant of each key is found first, and then the row, which costs two thirds of carrying all values
    along.
    """
    names = ", ".join(map(identifier, keys))
    picked = ", ".join(f"{expression} AS {identifier(name)}" for name, expression in values.items())
    rows = f"FROM {table} WHERE {where}"
    instants = f"SELECT {names}, max({_instant(event)}) AS __newest {rows} GROUP BY {names}"
    rank = f" ORDER BY {_creation(created)} DESC" if created else ""
    return (
        f"WITH instants AS ({instants}), rows AS (SELECT *, {_instant(event)} AS __newest {rows}) SELECT {names},"
        f" {picked} FROM rows JOIN instants USING ({names}, __newest) QUALIFY row_number() OVER (PARTITION BY"
        f" {names}{rank}) = 1"
    )


@dataclass(frozen=True)
class Rows:
    """A table as SQL reads it, and an expression over it that numbers its rows: the same at each look if `lasting`."""

    table: str
    number: str
    lasting: bool = True


def as_of(rows: Rows, source: GoldTable, view: FeatureView, features: Sequence[str]) -> str:
    """`__row` and the features of those rows of `labels` (`__row`, `__at`, join keys) for which one is known that has
    not outlived the ttl; in any order.

    Sorting takes longest, so little is sorted: of each key the rows after its first label, and the newest until then. A
    feature that is alone goes along. Several stay where they are until it is known which rows count; their row's number
    goes along.
    """
    values, parts = [identifier(source.column(name)) for name in features], {}
    several = len(values) > 1
    if several and not rows.lasting:
        parts["held AS MATERIALIZED"] = f"SELECT *, {rows.number} AS __number FROM {rows.table}"
        rows = Rows("held", "__number")
    along = rows.number if several else values[0]
    parts["asked AS"] = f"SELECT {_listed(_renamed(map(identifier, labelled(view)), '__k'))}__row, __at FROM labels"
    parts["spans AS MATERIALIZED"] = _spans(view)
    parts["told AS MATERIALIZED"] = _told(rows, source, view, along)
    parts["known AS"] = _known(bool(source.created_column))
    parts["found AS"] = _found(view)
    found = (
        f"SELECT __row, {', '.join(_renamed(values, '__f'))} FROM found JOIN {rows.table} ON __along = {along}"
        if several
        else "SELECT __row, __along AS __f0 FROM found"
    )
    return (
        f"WITH {', '.join(f'{name} ({query})' for name, query in parts.items())} SELECT __row, {_typed(view, features)}"
        f" FROM ({found}) f"
    )


def in_order() -> str:
    """The columns of `found` for each row of `labels`, in the order of `__row`."""
    return "SELECT f.* EXCLUDE __row FROM labels l LEFT JOIN found f ON l.__row = f.__row ORDER BY l.__row"


def _spans(view: FeatureView) -> str:
    """The keys of the labels, each with a small number, which sorts faster, and its first and last instant."""
    ends = f"SELECT {_listed(_keys(view))}min(__at) AS __first, max(__at) AS __last FROM asked GROUP BY ALL"
    return f"SELECT *, CAST(row_number() OVER () AS INTEGER) AS __key FROM ({ends})"


def _told(rows: Rows, source: GoldTable, view: FeatureView, along: str) -> str:
    """Feature rows that a label may get: `__key`, `__at`, perhaps `__created`, and the expression `along` as
    `__along`.
    """
    keys = _listed(_renamed([identifier(source.column(key.name)) for key in view.entity_columns], "__k"))
    created = f"{_creation(source.created_column)} AS __created, " if source.created_column else ""
    told = f"SELECT {keys}{_instant(source.event_column)} AS __at, {created}{along} AS __along FROM {rows.table}"
    return (
        f"SELECT * FROM ({told}) JOIN spans {_same(view)} WHERE __last - __at >= 0 AND {_alive(view, '__first - __at')}"
    )


def _known(created: bool) -> str:
    """One row of each key and instant from `told`, and of those until the key's first label only the newest. Without
    creation times nothing says which of several.
    """
    later = "SELECT __key, __at, __along FROM told WHERE __at > __first"
    if created:
        later = (
            "SELECT __key, __at, arg_max_null(__along, __created) AS __along FROM told WHERE __at > __first GROUP BY"
            " __key, __at"
        )
    newest = "(__at, __created)" if created else "__at"
    return (
        f"{later} UNION ALL SELECT __key, max(__at), arg_max_null(__along, {newest}) FROM told WHERE __at <= __first"
        " GROUP BY __key"
    )


def _found(view: FeatureView) -> str:
    """`__row` and `__along` of the labels."""
    asked = f"SELECT __row, __at, __key FROM asked JOIN spans {_same(view)}"
    return (
        f"SELECT __row, __along FROM ({asked}) l ASOF JOIN known f ON l.__key = f.__key AND l.__at >= f.__at WHERE"
        f" {_alive(view, 'l.__at - f.__at')}"
    )


def _alive(view: FeatureView, age: str) -> str:
    return f"{age} <= {view.ttl // timedelta(microseconds=1)}" if view.ttl else "true"


def _keys(view: FeatureView) -> list[str]:
    return [f"__k{i}" for i in range(len(view.entity_columns))]


def _same(view: FeatureView) -> str:
    return f"USING ({', '.join(_keys(view))})" if view.entity_columns else "ON true"


def _listed(columns: Sequence[str]) -> str:
    """Columns before others."""
    return "".join(f"{column}, " for column in columns)


def known(table: str, source: GoldTable, view: FeatureView, features: Sequence[str]) -> str:
    """The rows of the keys that `labels` name: keys `__k0`, ..., `__at` and `__created` (microseconds), features
    `__f0`, ... as the table has them.
    """
    keys = [identifier(source.column(key.name)) for key in view.entity_columns]
    created = _instant(source.created_column) if source.created_column else "NULL::BIGINT"
    times = [f"{_instant(source.event_column)} AS __at", f"{created} AS __created"]
    picked = ", ".join(
        [*_renamed(keys, "__k"), *times, *_renamed([identifier(source.column(name)) for name in features], "__f")]
    )
    asked = (
        f"({', '.join(keys)}) IN (SELECT ({', '.join(map(identifier, labelled(view)))}) FROM labels)"
        if keys
        else "true"
    )
    return f"SELECT {picked} FROM {table} WHERE {asked}"


def taken(view: FeatureView, features: Sequence[str]) -> str:
    """The features of each row of `taken` (`__row` and `__f0`, ...), in the order of `__row`, as a training set has
    them.
    """
    return f"SELECT {_typed(view, features)} FROM taken f ORDER BY f.__row"


def labelled(view: FeatureView) -> list[str]:
    """What the labels call the view's keys."""
    return [view.projection.join_key_map.get(key.name, key.name) for key in view.entity_columns]


def _typed(view: FeatureView, features: Sequence[str]) -> str:
    """`f.__f0`, ... under the names of the features, cast to their types."""
    kind = {
        field.name: type_mapping.of(field.dtype, f"{view.name}:{field.name}")
        for field in view.features
        if field.name in features
    }
    return ", ".join(
        f"{kind[name].offline.format(f'f.__f{i}')} AS {identifier(name)}" for i, name in enumerate(features)
    )


def _instant(column: str) -> str:
    return f"epoch_us({identifier(column)})"


def _creation(column: str) -> str:
    return f"coalesce({_instant(column)}, {NEVER})"


def _renamed(columns: Iterable[str], prefix: str) -> list[str]:
    return [f"{column} AS {prefix}{i}" for i, column in enumerate(columns)]

"""The two questions put to feature rows, as DuckDB SQL: what was known at each label's instant, and what is newest at one instant.

Keys are compared in their own types, and instants as microseconds since 1970, so that no session's time zone can leak in. Of rows with the same key
and event time the one created last counts, and one without a creation time is older than all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from feast import FeatureView

from features import kinds
from features.source import GoldTable

NEVER = -(2**63) + 1
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def identifier(name: str) -> str:
    """`name` as SQL quotes it, for DuckDB and sqlite alike."""
    return '"' + name.replace('"', '""') + '"'


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970; a naive moment is UTC."""
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (aware - EPOCH) // timedelta(microseconds=1)


def between(column: str, start: datetime | None, end: datetime | None) -> str:
    """Condition that an instant lies in [start, end]; None leaves that side open."""
    sides = [f"epoch_us(CAST({identifier(column)} AS TIMESTAMPTZ)) {sign} {microseconds(at)}" for sign, at in ((">=", start), ("<=", end)) if at is not None]
    return " AND ".join(sides) or "true"


def newest(table: str, keys: Sequence[str], values: dict[str, str], event: str, created: str | None, where: str) -> str:
    """The newest row of each key, as the keys and then `values`, which maps the names of columns to expressions over the table.

    The newest instant of each key is found first, and then the row, which costs two thirds of carrying all values along.
    """
    names = ", ".join(map(identifier, keys))
    picked = ", ".join(f"{expression} AS {identifier(name)}" for name, expression in values.items())
    rows = f"FROM {table} WHERE {where}"
    instants = f"SELECT {names}, max({_instant(event)}) AS __newest {rows} GROUP BY {names}"
    rank = f" ORDER BY {_creation(created)} DESC" if created else ""
    return (
        f"WITH instants AS ({instants}), rows AS (SELECT *, {_instant(event)} AS __newest {rows})"
        f" SELECT {names}, {picked} FROM rows JOIN instants USING ({names}, __newest) QUALIFY row_number() OVER (PARTITION BY {names}{rank}) = 1"
    )


def as_of(table: str, source: GoldTable, view: FeatureView, features: Sequence[str]) -> str:
    """The features of each row of `labels` (`__row`, `__at`, join keys), in the order of `__row`; NULL where nothing was known or it had outlived the ttl.

    Only rows of keys that have a label are sorted for the join.
    """
    rows = known(table, source, view, features)
    if source.created_column:
        keys = "".join(f"__k{i}, " for i in range(len(view.entity_columns)))
        rows += f" QUALIFY row_number() OVER (PARTITION BY {keys}__at ORDER BY coalesce(__created, {NEVER}) DESC) = 1"
    on = "".join(f"l.{identifier(label)} = f.__k{i} AND " for i, label in enumerate(labelled(view)))
    alive = f"f.__at >= l.__at - {view.ttl // timedelta(microseconds=1)}" if view.ttl else "true"
    picked = _typed(view, features, f"CASE WHEN {alive} THEN {{}} END")
    return f"WITH f AS ({rows}) SELECT {picked} FROM labels l ASOF LEFT JOIN f ON {on}l.__at >= f.__at ORDER BY l.__row"


def known(table: str, source: GoldTable, view: FeatureView, features: Sequence[str]) -> str:
    """The rows of the keys that `labels` name: keys `__k0`, ..., `__at` and `__created` (microseconds), features `__f0`, ... as the table has them."""
    keys = [identifier(source.column(key.name)) for key in view.entity_columns]
    created = _instant(source.created_column) if source.created_column else "NULL::BIGINT"
    times = [f"{_instant(source.event_column)} AS __at", f"{created} AS __created"]
    picked = ", ".join([*_renamed(keys, "__k"), *times, *_renamed([identifier(source.column(name)) for name in features], "__f")])
    asked = f"({', '.join(keys)}) IN (SELECT ({', '.join(map(identifier, labelled(view)))}) FROM labels)" if keys else "true"
    return f"SELECT {picked} FROM {table} WHERE {asked}"


def taken(view: FeatureView, features: Sequence[str]) -> str:
    """The features of each row of `taken` (`__row` and `__f0`, ...), in the order of `__row`, as a training set has them."""
    return f"SELECT {_typed(view, features, '{}')} FROM taken f ORDER BY f.__row"


def labelled(view: FeatureView) -> list[str]:
    """What the labels call the view's keys."""
    return [view.projection.join_key_map.get(key.name, key.name) for key in view.entity_columns]


def _typed(view: FeatureView, features: Sequence[str], given: str) -> str:
    """`f.__f0`, ... under the names of the features, cast to their types after `given`, an expression over `{}`."""
    kind = {field.name: kinds.of(field.dtype, f"{view.name}:{field.name}") for field in view.features if field.name in features}
    return ", ".join(f"{kind[name].offline.format(given.format(f'f.__f{i}'))} AS {identifier(name)}" for i, name in enumerate(features))


def _instant(column: str) -> str:
    return f"epoch_us({identifier(column)})"


def _creation(column: str) -> str:
    return f"coalesce({_instant(column)}, {NEVER})"


def _renamed(columns: Sequence[str], prefix: str) -> list[str]:
    return [f"{column} AS {prefix}{i}" for i, column in enumerate(columns)]

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
    sides = [f"epoch_us({identifier(column)}) {sign} {microseconds(at)}" for sign, at in ((">=", start), ("<=", end)) if at is not None]
    return " AND ".join(sides) or "true"


def newest(table: str, keys: Sequence[str], values: dict[str, str], event: str, created: str | None, where: str) -> str:
    """The newest row of each key, as the keys and then `values`, which maps the names of columns to expressions over the table."""
    rank = f"({_instant(event)}, {_creation(created)})" if created else _instant(event)
    names = ", ".join(map(identifier, keys))
    picked = ", ".join(f"arg_max_null({expression}, {rank}) AS {identifier(name)}" for name, expression in values.items())
    return f"SELECT {names}, {picked} FROM {table} WHERE {where} GROUP BY {names}"


def as_of(table: str, source: GoldTable, view: FeatureView, features: Sequence[str]) -> str:
    """The features of each row of `labels` (`__row`, `__at`, join keys), in the order of `__row`; NULL where nothing was known or it had outlived the ttl.

    Only rows of keys that have a label are sorted for the join.
    """
    keys = [identifier(source.column(key.name)) for key in view.entity_columns]
    labelled = [identifier(view.projection.join_key_map.get(key.name, key.name)) for key in view.entity_columns]
    known = f"SELECT {_renamed(keys, 'k')}, {_instant(source.event_column)} AS moment, {_renamed([identifier(source.column(name)) for name in features], 'f')}"
    known += f" FROM {table} WHERE ({', '.join(keys)}) IN (SELECT ({', '.join(labelled)}) FROM labels)"
    if source.created_column:
        known += (
            f" QUALIFY row_number() OVER (PARTITION BY {', '.join(keys)}, {_instant(source.event_column)} ORDER BY {_creation(source.created_column)} DESC) = 1"
        )
    on = " AND ".join(f"l.{label} = f.k{i}" for i, label in enumerate(labelled))
    alive = f"f.moment >= l.__at - {view.ttl // timedelta(microseconds=1)}" if view.ttl else "true"
    kind = {field.name: kinds.of(field.dtype, f"{view.name}:{field.name}") for field in view.features}
    picked = ", ".join(f"CASE WHEN {alive} THEN {kind[name].offline.format(f'f.f{i}')} END AS {identifier(name)}" for i, name in enumerate(features))
    return f"WITH f AS ({known}) SELECT {picked} FROM labels l ASOF LEFT JOIN f ON {on} AND l.__at >= f.moment ORDER BY l.__row"


def _instant(column: str) -> str:
    return f"epoch_us({identifier(column)})"


def _creation(column: str) -> str:
    return f"coalesce({_instant(column)}, {NEVER})"


def _renamed(columns: Sequence[str], prefix: str) -> str:
    return ", ".join(f"{column} AS {prefix}{i}" for i, column in enumerate(columns))

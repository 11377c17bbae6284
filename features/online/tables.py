"""Generations as tables: the SQL that sqlite and PostgreSQL share. A view is a table whose primary key is the join
keys; then both times, then a column for each feature.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from features.online.generation import CREATED, EVENT, RowSchema
from lake.sql import identifier


def columns(layout: RowSchema, database: str) -> list[str]:
    """Definitions of all columns, in the types of `sqlite` or `postgres`."""
    keys = [f"{identifier(name)} {getattr(kind, database)} NOT NULL" for name, kind in layout.keys.items()]
    features = [f"{identifier(name)} {getattr(kind, database)}" for name, kind in layout.features.items()]
    return [*keys, f"{EVENT} BIGINT NOT NULL", f"{CREATED} BIGINT", *features]


def names(layout: RowSchema) -> list[str]:
    """In the order in which rows are stored."""
    return [identifier(name) for name in (*layout.keys, EVENT, CREATED, *layout.features)]


def primary(layout: RowSchema) -> str:
    """The join keys, as a list in SQL."""
    return ", ".join(map(identifier, layout.keys))


def insert(table: str, layout: RowSchema, parameter: str) -> str:
    """One row, all of whose values are parameters."""
    return (
        f"INSERT INTO {table} AS old ({', '.join(names(layout))}) VALUES"
        f" ({', '.join([parameter] * len(names(layout)))})"
    )


def upsert(table: str, layout: RowSchema, parameter: str) -> str:
    """`insert`, but an older event never replaces a newer one; at the same event time the row created or written later
    counts.
    """
    updates = ", ".join(f"{name} = excluded.{name}" for name in names(layout)[len(layout.keys) :])
    later = (
        f"excluded.{EVENT} > old.{EVENT} OR (excluded.{EVENT} = old.{EVENT} AND coalesce(excluded.{CREATED} >="
        f" old.{CREATED}, true))"
    )
    return f"{insert(table, layout, parameter)} ON CONFLICT ({primary(layout)}) DO UPDATE SET {updates} WHERE {later}"


def picked(features: Sequence[str], present: Container[str]) -> str:
    """Event time and features of a table `t`, as a list in SQL; NULL for a feature that the table does not have."""
    return ", ".join([f"t.{EVENT}", *(f"t.{identifier(name)}" if name in present else "NULL" for name in features)])

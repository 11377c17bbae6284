"""Generations as tables: the SQL that sqlite and PostgreSQL share.

A view is a table: the join keys as primary key, event and creation time, then a column per feature.
"""

from __future__ import annotations

from collections.abc import Container, Sequence

from features.online.generation import CREATED, EVENT, RowSchema
from lake.sql import identifier


def columns(row_schema: RowSchema, database: str) -> list[str]:
    """Definitions of all columns, in the types of `sqlite` or `postgres`."""
    keys = [f"{identifier(name)} {getattr(mapping, database)} NOT NULL" for name, mapping in row_schema.keys.items()]
    features = [f"{identifier(name)} {getattr(mapping, database)}" for name, mapping in row_schema.features.items()]
    return [*keys, f"{EVENT} BIGINT NOT NULL", f"{CREATED} BIGINT", *features]


def names(row_schema: RowSchema) -> list[str]:
    """Column names in the order of StoredRow."""
    return [identifier(name) for name in (*row_schema.keys, EVENT, CREATED, *row_schema.features)]


def primary(row_schema: RowSchema) -> str:
    """The join keys, as a list in SQL."""
    return ", ".join(map(identifier, row_schema.keys))


def insert(table: str, row_schema: RowSchema, parameter: str) -> str:
    """One row, all of whose values are parameters."""
    return (
        f"INSERT INTO {table} AS old ({', '.join(names(row_schema))}) VALUES"
        f" ({', '.join([parameter] * len(names(row_schema)))})"
    )


def upsert(table: str, row_schema: RowSchema, parameter: str) -> str:
    """`insert` that never replaces a newer event with an older one; at the same event time, the row created or written
    later wins.
    """
    updates = ", ".join(f"{name} = excluded.{name}" for name in names(row_schema)[len(row_schema.keys) :])
    later = (
        f"excluded.{EVENT} > old.{EVENT} OR (excluded.{EVENT} = old.{EVENT} AND coalesce(excluded.{CREATED} >="
        f" old.{CREATED}, true))"
    )
    inserted = insert(table, row_schema, parameter)
    return f"{inserted} ON CONFLICT ({primary(row_schema)}) DO UPDATE SET {updates} WHERE {later}"


def selected(features: Sequence[str], present: Container[str]) -> str:
    """Event time and features of a table `t`, as a list in SQL; NULL for a feature that the table does not have."""
    return ", ".join([f"t.{EVENT}", *(f"t.{identifier(name)}" if name in present else "NULL" for name in features)])

"""The online store: one packed sqlite row per entity and view, read from the generation in use.

A row is found by its primary key and its features have native types, so a read is one index lookup per view and a load takes microseconds a row. Bulk
loads go through `features.materialize`; what Feast itself writes (`store.materialize`, `write_to_online_store`, `push`) is merged into the generation in
use, and is replaced when the next one is published.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from typing import Any, Literal

from feast import Entity, FeatureView
from feast.infra.online_stores.online_store import OnlineStore
from feast.online_response import OnlineResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig

from features import generation, kinds
from features.generation import EVENT, Layout
from features.kinds import Kind
from features.queries import EPOCH, identifier, microseconds
from features.views import REQUEST_TIME

Row = tuple[datetime | None, dict[str, Value] | None]
ABSENT: Row = (None, None)


class PackedSqliteOnlineStoreConfig(FeastConfigBaseModel):
    """No options: the place follows `MILLRACE_HOME`."""

    type: Literal["features.online_store.PackedSqliteOnlineStore"] = "features.online_store.PackedSqliteOnlineStore"


def layout_of(view: FeatureView) -> Layout:
    """How a view's rows are stored."""
    keys = {column.name: kinds.of(column.dtype, f"key {column.name} of {view.name}") for column in view.entity_columns}
    return Layout(view.name, keys, {feature.name: kinds.of(feature.dtype, f"{view.name}:{feature.name}") for feature in view.features})


class Reader:
    """An open generation and the queries that were compiled for it."""

    def __init__(self) -> None:
        self.connection = generation.open_current()
        self._compiled: dict[tuple[str, tuple[str, ...], timedelta | None], Query | None] = {}

    @cached_property
    def _columns(self) -> dict[str, set[str]]:
        names = [row[0] for row in self.connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: {row[1] for row in self.connection.execute(f"PRAGMA table_info({identifier(name)})")} for name in names}

    def query(self, view: FeatureView, features: tuple[str, ...]) -> Query | None:
        """None while the generation does not have the view."""
        key = (view.name, features, view.ttl)
        if self._compiled.get(key) is None:
            layout, present = layout_of(view), self._columns.get(view.name)
            picked = {name: kind for name, kind in layout.features.items() if name in features and name in (present or ())}
            self._compiled[key] = Query(self.connection, layout, picked, view.ttl) if present else None
            self.__dict__.pop("_columns", None)  # what a push adds is found at the next look
        return self._compiled[key]


class Query:
    """Reads some features of one view."""

    def __init__(self, connection: sqlite3.Connection, layout: Layout, features: dict[str, Kind], ttl: timedelta | None) -> None:
        columns = ", ".join(map(identifier, [EVENT, *features]))
        where = " AND ".join(f"{identifier(key)} = ?" for key in layout.keys)
        self._sql = f"SELECT {columns} FROM {identifier(layout.view)} WHERE {where}"
        self._keys = tuple(layout.keys)
        self._fields = [(name, kind.proto) for name, kind in features.items()]
        self._connection = connection
        self._ttl = ttl

    def read(self, entity_keys: list[EntityKey]) -> list[Row]:
        """Event time and features of each entity; none of one that has outlived its view's ttl."""
        oldest = microseconds(generation.now()) - self._ttl // timedelta(microseconds=1) if self._ttl else None
        return [self._read(key, oldest) for key in entity_keys]

    def _read(self, entity_key: EntityKey, oldest: int | None) -> Row:
        values = dict(zip(entity_key.join_keys, map(_python, entity_key.entity_values), strict=True))
        row = self._connection.execute(self._sql, [values[key] for key in self._keys]).fetchone()
        if row is None or (oldest is not None and row[0] < oldest):
            return ABSENT
        features = {name: Value() if value is None else Value(**{proto: value}) for (name, proto), value in zip(self._fields, row[1:], strict=True)}
        return EPOCH + timedelta(microseconds=row[0]), features


class PackedSqliteOnlineStore(OnlineStore):
    """Feast's interface to the generation in use."""

    def __init__(self) -> None:
        self._local = threading.local()

    def online_read(self, config: RepoConfig, table: FeatureView, entity_keys: list[EntityKey], requested_features: list[str] | None = None) -> list[Row]:  # noqa: ARG002
        """One row per key: event time and features, or (None, None)."""
        wanted = requested_features if requested_features is not None else [feature.name for feature in table.features]
        query = self._reader().query(table, tuple(wanted))
        return query.read(entity_keys) if query else [ABSENT] * len(entity_keys)

    def online_write_batch(
        self,
        config: RepoConfig,  # noqa: ARG002 (Feast's signature)
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Merge rows into the generation in use, all or none of them."""
        layout = layout_of(table)
        with generation.writing() as connection:
            layout.prepare(connection)
            connection.executemany(layout.upsert, [_stored(layout, *row) for row in data])
        if progress:
            progress(len(data))

    def get_online_features(
        self,
        config: RepoConfig,
        features: Any,
        entity_rows: list[dict[str, Any]] | Mapping[str, Sequence[Any]],
        registry: Any,
        project: str,
        full_feature_names: bool = False,
        include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:
        """Feast's own, except that the request's time is now unless the caller gives `request_time`."""
        rows = _with_request_time(entity_rows)
        return super().get_online_features(config, features, rows, registry, project, full_feature_names, include_feature_view_version_metadata)

    def update(
        self,
        config: RepoConfig,  # noqa: ARG002 (Feast's signature)
        tables_to_delete: Sequence[FeatureView],
        tables_to_keep: Sequence[FeatureView],  # noqa: ARG002 (made when written)
        entities_to_delete: Sequence[Entity],  # noqa: ARG002 (not stored)
        entities_to_keep: Sequence[Entity],  # noqa: ARG002 (not stored)
        partial: bool,  # noqa: ARG002 (no infrastructure but tables)
    ) -> None:
        """Drop the rows of views that are no longer defined."""
        generation.drop([view.name for view in tables_to_delete])

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:  # noqa: ARG002 (all of it goes)
        """Take everything offline."""
        generation.remove_all()

    def _reader(self) -> Reader:
        """This thread's reader of the generation in use, or previewed. Costs one stat while the generation stays the same."""
        sign: Any = generation.previewed.get()
        if sign is None:
            with suppress(FileNotFoundError):
                seen = os.stat(_pointer(os.environ.get("MILLRACE_HOME")))  # noqa: PTH116 (a third of the time of Path.stat)
                sign = (seen.st_ino, seen.st_mtime_ns, os.getpid())
        if sign is None or getattr(self._local, "sign", None) != sign:
            self._local.reader, self._local.sign = Reader(), sign
        reader: Reader = self._local.reader
        return reader


@cache
def _pointer(home: str | None) -> str:  # noqa: ARG001 (the key: another home is another pointer)
    return str(generation.pointer())


def _python(value: Value) -> Any:
    field = value.WhichOneof("val")
    return getattr(value, field) if field else None


def _stored(layout: Layout, key: EntityKey, values: dict[str, Value], event: datetime, created: datetime | None) -> list[Any]:
    keys = dict(zip(key.join_keys, map(_python, key.entity_values), strict=True))
    features = [_python(values[name]) if name in values else None for name in layout.features]
    return [*(keys[name] for name in layout.keys), microseconds(event), None if created is None else microseconds(created), *features]


def _with_request_time(rows: Any) -> Any:
    """Entity rows in which `request_time` is now where it was absent; views that do not use it do not see it."""
    if isinstance(rows, list):
        return rows if rows and REQUEST_TIME in rows[0] else [{**row, REQUEST_TIME: datetime.now(UTC)} for row in rows]
    if REQUEST_TIME in rows:
        return rows
    first: Any = next(iter(rows.values()), [])
    return {**rows, REQUEST_TIME: [datetime.now(UTC)] * len(first if isinstance(first, Sequence) else first.val)}

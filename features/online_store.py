"""The online store: one packed sqlite row per entity and view, read from the generation in use.

A row is found by its primary key and its features have native types, so a read is one index lookup per view and a load takes microseconds a row. Bulk
loads go through `features.materialize`; what Feast itself writes (`store.materialize`, `write_to_online_store`, `push`) is merged into the generation in
use, and is replaced when the next one is published.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from itertools import chain
from typing import Any, Literal

from feast import Entity, FeatureView
from feast.infra.online_stores.online_store import OnlineStore
from feast.online_response import OnlineResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig

from features import generation, kinds
from features.generation import EVENT, Layout
from features.plans import Key, Plain, Plans
from features.queries import EPOCH, identifier, microseconds
from features.views import REQUEST_TIME

Row = tuple[datetime | None, dict[str, Value] | None]
ABSENT: Row = (None, None)
LARGEST_PIECE = 64
"""Keys that one statement looks up."""
MAPPED_BYTES = 1 << 40
"""A generation is read where the operating system has it in memory; sqlite maps 2 GB of it at most."""


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
        self.connection.execute(f"PRAGMA mmap_size={MAPPED_BYTES}")
        self._compiled: dict[tuple[str, tuple[str, ...], timedelta | None], Query | None] = {}

    def begin(self) -> None:
        """Read as of one moment from here on; the file is locked once, and not once a query."""
        self.connection.execute("BEGIN")

    def end(self) -> None:
        """The end of that."""
        if self.connection.in_transaction:
            self.connection.execute("COMMIT")

    @cached_property
    def _columns(self) -> dict[str, dict[str, str]]:
        """The type of each column of each table."""
        names = [row[0] for row in self.connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: {row[1]: row[2] for row in self.connection.execute(f"PRAGMA table_info({identifier(name)})")} for name in names}

    def query(self, view: FeatureView, features: tuple[str, ...]) -> Query | None:
        """None while the generation does not have the view."""
        key = (view.name, features, view.ttl)
        if self._compiled.get(key) is None:
            present = self._columns.get(view.name)
            self._compiled[key] = Query(self.connection, layout_of(view), present, features, view.ttl) if present else None
            self.__dict__.pop("_columns", None)  # what a push adds is found at the next look
        return self._compiled[key]


class Query:
    """Reads `features` of one view: those of the asked ones that its table has, in the order asked."""

    def __init__(self, connection: sqlite3.Connection, layout: Layout, present: dict[str, str], asked: tuple[str, ...], ttl: timedelta | None) -> None:
        read = {name: layout.features[name] for name in asked if name in layout.features and name in present}
        self.features = tuple(read)
        self._protos = tuple(kind.proto for kind in read.values())
        self._retyped = [name for name, kind in read.items() if kind.proto == "bool_val" or present[name] != kind.sqlite]
        self._keys = tuple(layout.keys)
        columns = ", ".join(f"t.{identifier(name)}" for name in (EVENT, *read))
        table, keys = f"{identifier(layout.view)} t", [f"t.{identifier(name)}" for name in layout.keys]
        self._one = f"SELECT {columns} FROM {table} WHERE {' AND '.join(f'{key} = ?' for key in keys)}"
        asked_for = " AND ".join(f"{key} = asked.k{i}" for i, key in enumerate(keys))
        self._many = f"SELECT {columns} FROM asked LEFT JOIN {table} ON {asked_for} ORDER BY asked.place"
        self._pieces: dict[int, str] = {}
        self._connection = connection
        self._ttl = ttl

    def rows(self, keys: Sequence[Key]) -> list[Plain | None]:
        """For each key (its values in the order of the layout) the event time, in microseconds since 1970, and the `features`, as the protobuf would give them.

        None where there is no row, or one that has outlived its view's ttl.
        """
        if len(keys) == 1:
            found = [self._connection.execute(self._one, keys[0]).fetchone()]
        else:
            found = [row if row[0] is not None else None for row in self._found(keys)]
        if self._ttl:
            oldest = microseconds(generation.now()) - self._ttl // timedelta(microseconds=1)
            found = [row if row and row[0] >= oldest else None for row in found]
        return [row and self._typed(row) for row in found] if self._retyped else found

    def read(self, entity_keys: list[EntityKey]) -> list[Row]:
        """`rows` as Feast takes them."""
        given = [dict(zip(key.join_keys, map(_python, key.entity_values), strict=True)) for key in entity_keys]
        rows = self.rows([tuple(values[name] for name in self._keys) for values in given])
        return [ABSENT if row is None else (EPOCH + timedelta(microseconds=row[0]), self._values(row)) for row in rows]

    def _found(self, keys: Sequence[Key]) -> Iterator[Plain]:
        """A row for each key, of NULLs where there is none, in pieces of a few sizes, so that few statements are compiled."""
        size, start = LARGEST_PIECE, 0
        while start < len(keys):
            while size > len(keys) - start:
                size //= 2
            yield from self._connection.execute(self._piece(size), list(chain.from_iterable(keys[start : start + size])))
            start += size

    def _piece(self, size: int) -> str:
        """The statement for so many keys."""
        if size not in self._pieces:
            names = "".join(f", k{i}" for i in range(len(self._keys)))
            values = ", ".join(f"({place}{', ?' * len(self._keys)})" for place in range(size))
            self._pieces[size] = f"WITH asked (place{names}) AS (VALUES {values}) {self._many}"
        return self._pieces[size]

    def _values(self, row: Plain) -> dict[str, Value]:
        return {name: _proto(proto, value) for name, proto, value in zip(self.features, self._protos, row[1:], strict=True)}

    def _typed(self, row: Plain) -> Plain:
        """The row with the types of the definitions; sqlite has no booleans, and the table may be older than the definitions."""
        return (row[0], *map(_python, self._values(row).values()))


class PackedSqliteOnlineStore(OnlineStore):
    """Feast's interface to the generation in use."""

    def __init__(self) -> None:
        self._local = _Thread()
        self._plans = Plans()

    def online_read(self, config: RepoConfig, table: FeatureView, entity_keys: list[EntityKey], requested_features: list[str] | None = None) -> list[Row]:  # noqa: ARG002
        """One row per key: event time and features, or (None, None)."""
        wanted = requested_features if requested_features is not None else [feature.name for feature in table.features]
        query = self._query(table, tuple(wanted))
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
        """What Feast's own gives, by a shorter way where there is one (`features.plans`). The request's time is now unless the caller gives `request_time`."""
        with self._one_generation():
            if not include_feature_view_version_metadata:
                answer = self._plans.answer(features, entity_rows, registry, project, full_feature_names, self._query)
                if answer is not None:
                    return answer
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

    @contextmanager
    def _one_generation(self) -> Iterator[None]:
        """What this thread reads in the block, of whichever view, is of the generation and the moment of its first read."""
        local = self._local
        if local.pinning:
            yield
            return
        local.pinning = True
        try:
            yield
        finally:
            pinned, local.pinning, local.pinned = local.pinned, False, None
            if pinned:
                pinned.end()

    def _query(self, view: FeatureView, features: tuple[str, ...]) -> Query | None:
        return self._reader().query(view, features)

    def _reader(self) -> Reader:
        """The reader of this request, which is the newest one where none has begun."""
        local = self._local
        if local.pinned:
            return local.pinned
        reader = self._newest_reader()
        if local.pinning:
            reader.begin()
            local.pinned = reader
        return reader

    def _newest_reader(self) -> Reader:
        """This thread's reader of the generation in use, or previewed. Costs one stat while the generation stays the same."""
        sign: Any = generation.previewed.get()
        if sign is None:
            with suppress(FileNotFoundError):
                seen = os.stat(_pointer(os.environ.get("MILLRACE_HOME")))  # noqa: PTH116 (a third of the time of Path.stat)
                sign = (seen.st_ino, seen.st_mtime_ns, os.getpid())
        if self._local.reader is None or sign is None or self._local.sign != sign:
            self._local.reader, self._local.sign = Reader(), sign
        return self._local.reader


class _Thread(threading.local):
    """What a thread reads with: the newest reader and what it is of, and the one to which a request that is being answered keeps."""

    reader: Reader | None = None
    sign: Any = None
    pinning = False
    pinned: Reader | None = None


@cache
def _pointer(home: str | None) -> str:  # noqa: ARG001 (the key: another home is another pointer)
    return str(generation.pointer())


def _proto(field: str, value: Any) -> Value:
    return Value() if value is None else Value(**{field: value})


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

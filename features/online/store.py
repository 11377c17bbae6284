"""The online store: Feast's interface to the generation in use, in sqlite, Redis or PostgreSQL (`MILLRACE_ONLINE`).

A row is packed: found by its keys, with features in native types, so a read is one lookup per view and a load takes
microseconds a row. Bulk loads go through `features.online.materialize`; what Feast itself writes (`store.materialize`,
`write_to_online_store`, `push`) is merged into the generation in use, and is replaced when the next one is published.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar

from feast import Entity, FeatureView
from feast.infra.online_stores.online_store import OnlineStore
from feast.online_response import OnlineResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig

from features import type_mapping
from features.online import backends, generation
from features.online.generation import (
    Found,
    GenerationGoneError,
    Key,
    OnlineStoreDamagedError,
    Reader,
    RowSchema,
    Session,
)
from features.queries import EPOCH, microseconds
from features.serving.request_plan import Plans, ensure_keys
from features.views import REQUEST_TIME

Row = tuple[datetime | None, dict[str, Value] | None]
ABSENT: Row = (None, None)
T = TypeVar("T")


class PackedOnlineStoreConfig(FeastConfigBaseModel):
    """No options: the place follows `MILLRACE_ONLINE` and `MILLRACE_HOME`."""

    type: Literal["features.online.store.PackedOnlineStore"] = "features.online.store.PackedOnlineStore"


def layout_of(view: FeatureView) -> RowSchema:
    """How a view's rows are stored."""
    keys = {
        column.name: type_mapping.of(column.dtype, f"key {column.name} of {view.name}")
        for column in view.entity_columns
    }
    return RowSchema(
        view.name,
        keys,
        {feature.name: type_mapping.of(feature.dtype, f"{view.name}:{feature.name}") for feature in view.features},
    )


class Query:
    """Reads `features` of one view of a generation, in the order asked."""

    def __init__(self, reader: Reader, view: FeatureView, asked: tuple[str, ...]) -> None:
        self._reader, self._layout = reader, layout_of(view)
        self.features = tuple(name for name in asked if name in self._layout.features)
        self._protos = [self._layout.features[name].proto for name in self.features]
        self._key_protos = [kind.proto for kind in self._layout.keys.values()]
        self._ttl = view.ttl // timedelta(microseconds=1) if view.ttl else None

    def rows(self, keys: Sequence[Key]) -> list[Found | None]:
        """For each key (its values in the order of the layout) the event time, in microseconds since 1970, and the
        `features`, as the protobuf would give them.

        None where there is no row, or one that has outlived its view's ttl.
        """
        found = self._reader.rows(
            self._layout, self.features, [tuple(map(type_mapping.key, key, self._key_protos)) for key in keys]
        )
        if self._ttl is None:
            return found
        oldest = microseconds(generation.now()) - self._ttl
        return [row if row and row[0] >= oldest else None for row in found]

    def read(self, entity_keys: list[EntityKey]) -> list[Row]:
        """`rows` as Feast takes them."""
        given = [dict(zip(key.join_keys, map(_python, key.entity_values), strict=True)) for key in entity_keys]
        rows = self.rows([tuple(values[name] for name in self._layout.keys) for values in given])
        return [ABSENT if row is None else (EPOCH + timedelta(microseconds=row[0]), self._values(row)) for row in rows]

    def _values(self, row: Found) -> dict[str, Value]:
        return {
            name: _proto(proto, value) for name, proto, value in zip(self.features, self._protos, row[1:], strict=True)
        }


class PackedOnlineStore(OnlineStore):
    """Feast's interface to the generation in use."""

    def __init__(self) -> None:
        self._local = _Thread()
        self._plans = Plans()

    def online_read(
        self,
        config: RepoConfig,  # noqa: ARG002 (Feast's signature)
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Row]:
        """One row per key: event time and features, or (None, None)."""
        wanted = tuple(
            requested_features if requested_features is not None else [feature.name for feature in table.features]
        )
        return self._again(lambda: self._query(table, wanted).read(entity_keys))

    def online_write_batch(
        self,
        config: RepoConfig,  # noqa: ARG002 (Feast's signature)
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Merge rows into the generation in use, all or none of them. No rows are no push: they do not take an empty
        store online.
        """
        layout = layout_of(table)
        if data:
            backends.configured().merge(layout, [_stored(layout, *row) for row in data])
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
        """What Feast's own gives, by a shorter way where there is one (`features.serving.request_plan`). The request's
        time is now unless the caller gives `request_time`.

        KeyTypeError where a key is not given in its own type, which Feast would convert.
        """

        def answer() -> OnlineResponse:
            with self._one_generation():
                if not include_feature_view_version_metadata:
                    found = self._plans.answer(
                        features, entity_rows, registry, project, full_feature_names, self._query
                    )
                    if found is not None:
                        return found
                ensure_keys(features, entity_rows, registry, project, full_feature_names)
                rows = _with_request_time(entity_rows)
                return OnlineStore.get_online_features(
                    self,
                    config,
                    features,
                    rows,
                    registry,
                    project,
                    full_feature_names,
                    include_feature_view_version_metadata,
                )

        return self._again(answer)

    async def get_online_features_async(self, *arguments: Any, **named: Any) -> OnlineResponse:
        """`get_online_features`, in a thread: all of the request in one, so that it reads one generation.

        `async_supported` stays false on purpose: a feature server then uses its own, larger pool of threads.
        """
        return await asyncio.to_thread(self.get_online_features, *arguments, **named)

    async def online_read_async(self, *arguments: Any, **named: Any) -> list[Row]:
        """`online_read`, in a thread."""
        return await asyncio.to_thread(self.online_read, *arguments, **named)

    async def online_write_batch_async(self, *arguments: Any, **named: Any) -> None:
        """`online_write_batch`, in a thread."""
        await asyncio.to_thread(self.online_write_batch, *arguments, **named)

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
        with suppress(OnlineStoreDamagedError):  # it serves nothing, and the materialization that follows replaces it
            backends.configured().drop([view.name for view in tables_to_delete])

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:  # noqa: ARG002 (all of it goes)
        """Take everything offline."""
        backends.configured().remove_all()

    @contextmanager
    def _one_generation(self) -> Iterator[None]:
        """What this thread reads in the block, of whichever view, is of the generation and the moment of its first
        read.
        """
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

    def _again(self, read: Callable[[], T]) -> T:
        """What `read` gives; once more when the generation that it read was replaced twice meanwhile."""
        try:
            return read()
        except GenerationGoneError:
            if self._local.pinning:  # the whole request has to be read again
                raise
            return read()

    def _query(self, view: FeatureView, features: tuple[str, ...]) -> Query:
        reader, local = self._reader(), self._local
        if local.of is not reader:
            local.of, local.queries = reader, {}
        key = (view.name, features, view.ttl, view.last_updated_timestamp)
        if key not in local.queries:
            local.queries[key] = Query(reader, view, features)
        return local.queries[key]

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
        """This thread's reader of the generation in use, or previewed."""
        place, preview, local = backends.configured(), generation.previewed.get(), self._local
        sign = (id(place), os.getpid(), preview)
        if local.sign != sign:
            local.sign, local.session = sign, OneReader(place.open(preview.name)) if preview else place.session()
        return local.session.reader()


class OneReader:
    """A session of a generation that is previewed."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def reader(self) -> Reader:
        """Always the same."""
        return self._reader


class _Thread(threading.local):
    """What a thread reads with: its session and what that is of, queries of its newest reader, and the reader to which
    a request that is being answered keeps.
    """

    session: Session
    sign: Any = None
    of: Reader | None = None
    queries: dict[Any, Query]
    pinning = False
    pinned: Reader | None = None


def _proto(field: str, value: Any) -> Value:
    return Value() if value is None else Value(**{field: value})


def _python(value: Value) -> Any:
    field = value.WhichOneof("val")
    return getattr(value, field) if field else None


def _stored(
    layout: RowSchema, key: EntityKey, values: dict[str, Value], event: datetime, created: datetime | None
) -> list[Any]:
    keys = dict(zip(key.join_keys, map(_python, key.entity_values), strict=True))
    features = [_python(values[name]) if name in values else None for name in layout.features]
    return [
        *(type_mapping.key(keys[name], kind.proto) for name, kind in layout.keys.items()),
        microseconds(event),
        None if created is None else microseconds(created),
        *features,
    ]


def _with_request_time(rows: Any) -> Any:
    """Entity rows in which `request_time` is now where it was absent; views that do not use it do not see it."""
    if isinstance(rows, list):
        return rows if rows and REQUEST_TIME in rows[0] else [{**row, REQUEST_TIME: datetime.now(UTC)} for row in rows]
    if REQUEST_TIME in rows:
        return rows
    first: Any = next(iter(rows.values()), [])
    return {**rows, REQUEST_TIME: [datetime.now(UTC)] * len(first if isinstance(first, Sequence) else first.val)}

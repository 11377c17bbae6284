"""Feast's online store over the generation in use, in sqlite, Redis or PostgreSQL (`MILLRACE_ONLINE`).

Rows are packed by key with features in native types, so a read is one lookup per view and a load takes microseconds a
row. Bulk loads go through `features.online.materialize`; what Feast itself writes (`write_to_online_store`, `push`) is
merged into the generation in use until the next one replaces it.
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
from feast.types import Bytes

from features import type_mapping
from features.instants import declaration, request
from features.instants.fold import Fold, OtherDeclarationError, TooOldError
from features.instants.tail import NO_EVENTS
from features.online import backends, generation
from features.online.generation import (
    GenerationGoneError,
    Key,
    OnlineStoreDamagedError,
    Reader,
    ReadRow,
    RowSchema,
    Session,
)
from features.queries import EPOCH, microseconds
from features.serving.request_plan import Plans, ensure_keys
from features.streaming.live import LiveTail
from features.views import REQUEST_TIME

Row = tuple[datetime | None, dict[str, Value] | None]
STATE = "state"
"""The column of a view of instants, from which its features are computed."""
ABSENT: Row = (None, None)
T = TypeVar("T")


class PackedOnlineStoreConfig(FeastConfigBaseModel):
    """No options: `MILLRACE_ONLINE` and `MILLRACE_HOME` select the backend."""

    type: Literal["features.online.store.PackedOnlineStore"] = "features.online.store.PackedOnlineStore"


def row_schema_of(view: FeatureView) -> RowSchema:
    """How a view's rows are stored."""
    keys = {
        column.name: type_mapping.of(column.dtype, f"key {column.name} of {view.name}")
        for column in view.entity_columns
    }
    if declaration.is_of_instants(view):
        return RowSchema(view.name, keys, {STATE: type_mapping.of(Bytes, STATE)})
    return RowSchema(
        view.name,
        keys,
        {feature.name: type_mapping.of(feature.dtype, f"{view.name}:{feature.name}") for feature in view.features},
    )


class Query:
    """Reads `features` of one view of a generation, in the requested order."""

    def __init__(self, reader: Reader, view: FeatureView, requested: tuple[str, ...]) -> None:
        self._reader, self._row_schema, self._view = reader, row_schema_of(view), view.name
        mappings = {field.name: type_mapping.of(field.dtype, field.name) for field in view.features}
        self.features = tuple(name for name in requested if name in mappings)
        self._protos = [mappings[name].proto for name in self.features]
        self._fold = Fold(view, self.features) if declaration.is_of_instants(view) else None
        self._tail = LiveTail.of(reader, view) if self._fold else None
        self._key_protos = [mapping.proto for mapping in self._row_schema.keys.values()]
        self._ttl = view.ttl // timedelta(microseconds=1) if view.ttl else None

    def rows(self, keys: Sequence[Key], times: Sequence[int] | None = None) -> list[ReadRow | None]:
        """For each key (values in the order of the RowSchema) the event time, in microseconds since 1970, and the
        `features` as the protobuf would return them; None where there is no row within the view's ttl.

        A view of instants is computed at `times`, one for each key, or now.
        """
        stored_keys = [tuple(map(type_mapping.key, key, self._key_protos)) for key in keys]
        if self._fold:
            return self._folded(self._fold, stored_keys, times or [request.now()] * len(keys))
        rows = self._reader.rows(self._row_schema, self.features, stored_keys)
        if self._ttl is None:
            return rows
        oldest = microseconds(generation.now()) - self._ttl
        return [row if row and row[0] >= oldest else None for row in rows]

    def _folded(self, fold: Fold, keys: Sequence[Key], times: Sequence[int]) -> list[ReadRow | None]:
        rows = self._reader.rows(self._row_schema, (STATE,), keys)
        tail = self._tail.events(keys, fold.columns, fold.needed) if self._tail else [NO_EVENTS] * len(keys)
        folded: list[ReadRow | None] = []
        for row, at, came in zip(rows, times, tail, strict=True):
            try:
                folded.append(fold.values(row[1] if row else None, at, came))
            except TooOldError:
                raise request.too_old(self._view, at) from None
            except OtherDeclarationError:
                raise generation.OnlineStoreError(
                    f"{self._view}: its declaration has changed since it was loaded. Run the interval again, then"
                    " millrace serve"
                ) from None
        return folded

    def read(self, entity_keys: list[EntityKey]) -> list[Row]:
        """`rows` as Feast expects them."""
        entities = [dict(zip(key.join_keys, map(_python, key.entity_values), strict=True)) for key in entity_keys]
        rows = self.rows([tuple(values[name] for name in self._row_schema.keys) for values in entities])
        return [ABSENT if row is None else (EPOCH + timedelta(microseconds=row[0]), self._values(row)) for row in rows]

    def _values(self, row: ReadRow) -> dict[str, Value]:
        return {
            name: _proto(proto, value) for name, proto, value in zip(self.features, self._protos, row[1:], strict=True)
        }


class PackedOnlineStore(OnlineStore):
    """Feast's interface to the generation in use."""

    def __init__(self) -> None:
        self._local = _ThreadState()
        self._plans = Plans()

    def online_read(
        self,
        config: RepoConfig,  # noqa: ARG002 (Feast's signature)
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[Row]:
        """One row per key: event time and features, or (None, None)."""
        requested = tuple(
            requested_features if requested_features is not None else [feature.name for feature in table.features]
        )
        return self._retry_once(lambda: self._query(table, requested).read(entity_keys))

    def online_write_batch(
        self,
        config: RepoConfig,  # noqa: ARG002 (Feast's signature)
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Merge rows into the generation in use, all or none. An empty batch is no push: it does not create a
        generation.
        """
        row_schema = row_schema_of(table)
        if declaration.is_of_instants(table):
            raise generation.OnlineStoreError(
                f"{table.name} is computed from events, so no values can be written to it. Land the events"
            )
        if data:
            backends.configured().merge(row_schema, [_stored(row_schema, *row) for row in data])
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
        """The same response as Feast's own method, by a request plan where there is one
        (`features.serving.request_plan`).

        `request_time` defaults to now. KeyTypeError for a key of the wrong type, which Feast would convert.
        """

        def answer() -> OnlineResponse:
            with self._pinned_generation():
                if not include_feature_view_version_metadata:
                    response = self._plans.answer(
                        features, entity_rows, registry, project, full_feature_names, self._query
                    )
                    if response is not None:
                        return response
                ensure_keys(features, entity_rows, registry, project, full_feature_names)
                rows = _with_request_time(entity_rows)
                with request.at_common_instant(rows):
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

        return self._retry_once(answer)

    async def get_online_features_async(self, *arguments: Any, **keywords: Any) -> OnlineResponse:
        """`get_online_features` in a thread; the whole request in one, so that it reads one generation.

        `async_supported` stays false on purpose: a feature server then uses its own, larger thread pool.
        """
        return await asyncio.to_thread(self.get_online_features, *arguments, **keywords)

    async def online_read_async(self, *arguments: Any, **keywords: Any) -> list[Row]:
        """`online_read`, in a thread."""
        return await asyncio.to_thread(self.online_read, *arguments, **keywords)

    async def online_write_batch_async(self, *arguments: Any, **keywords: Any) -> None:
        """`online_write_batch`, in a thread."""
        await asyncio.to_thread(self.online_write_batch, *arguments, **keywords)

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
    def _pinned_generation(self) -> Iterator[None]:
        """All reads of this thread in the block see the generation and snapshot of its first read."""
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

    def _retry_once(self, read: Callable[[], T]) -> T:
        """The result of `read`, retried once if its generation was replaced twice meanwhile."""
        try:
            return read()
        except GenerationGoneError:
            if self._local.pinning:  # the whole request has to be read again
                raise
            return read()

    def _query(self, view: FeatureView, features: tuple[str, ...]) -> Query:
        reader, local = self._reader(), self._local
        if local.queries_of is not reader:
            local.queries_of, local.queries = reader, {}
        key = (view.name, features, view.ttl, view.last_updated_timestamp)
        if key not in local.queries:
            local.queries[key] = Query(reader, view, features)
        return local.queries[key]

    def _reader(self) -> Reader:
        """This request's pinned reader, or the newest one outside of a request."""
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
        backend, preview, local = backends.configured(), generation.previewed.get(), self._local
        session_key = (id(backend), os.getpid(), preview)
        if local.session_key != session_key:
            local.session_key, local.session = (
                session_key,
                PreviewSession(backend.open(preview.name)) if preview else backend.session(),
            )
        return local.session.reader()


class PreviewSession:
    """A session for a previewed generation."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def reader(self) -> Reader:
        """Always the same."""
        return self._reader


class _ThreadState(threading.local):
    """A thread's state: its session and the key it belongs to, the queries of its newest reader, and the reader that
    the current request is pinned to.
    """

    session: Session
    session_key: Any = None
    queries_of: Reader | None = None
    queries: dict[Any, Query]
    pinning = False
    pinned: Reader | None = None


def _proto(field: str, value: Any) -> Value:
    return Value() if value is None else Value(**{field: value})


def _python(value: Value) -> Any:
    field = value.WhichOneof("val")
    return getattr(value, field) if field else None


def _stored(
    row_schema: RowSchema, key: EntityKey, values: dict[str, Value], event: datetime, created: datetime | None
) -> list[Any]:
    keys = dict(zip(key.join_keys, map(_python, key.entity_values), strict=True))
    features = [_python(values[name]) if name in values else None for name in row_schema.features]
    return [
        *(type_mapping.key(keys[name], mapping.proto) for name, mapping in row_schema.keys.items()),
        microseconds(event),
        None if created is None else microseconds(created),
        *features,
    ]


def _with_request_time(rows: Any) -> Any:
    """Entity rows with `request_time` set to now where it is absent; views that do not use it do not see it."""
    if isinstance(rows, list):
        now = datetime.now(UTC)
        return [row if REQUEST_TIME in row else {**row, REQUEST_TIME: now} for row in rows]
    if REQUEST_TIME in rows:
        return rows
    first: Any = next(iter(rows.values()), [])
    return {**rows, REQUEST_TIME: [datetime.now(UTC)] * len(first if isinstance(first, Sequence) else first.val)}

"""The online store: Feast's interface to the generation in use, in sqlite, Redis or PostgreSQL (`MILLRACE_ONLINE`).

A row is packed: found by its keys, with features in native types, so a read is one lookup per view and a load takes microseconds a row. Bulk loads go through `features.materialize`; what
Feast itself writes (`store.materialize`, `write_to_online_store`, `push`) is merged into the generation in use, and is replaced when the next one is published.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar

from feast import Entity, FeatureView
from feast.infra.online_stores.online_store import OnlineStore
from feast.online_response import OnlineResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.repo_config import FeastConfigBaseModel, RepoConfig

from features import generation, kinds
from features.generation import Found, GenerationGoneError, Key, Layout, Reader
from features.queries import EPOCH, microseconds
from features.views import REQUEST_TIME

Row = tuple[datetime | None, dict[str, Value] | None]
ABSENT: Row = (None, None)
T = TypeVar("T")


class PackedOnlineStoreConfig(FeastConfigBaseModel):
    """No options: the place follows `MILLRACE_ONLINE` and `MILLRACE_HOME`."""

    type: Literal["features.online_store.PackedOnlineStore"] = "features.online_store.PackedOnlineStore"


def layout_of(view: FeatureView) -> Layout:
    """How a view's rows are stored."""
    keys = {column.name: kinds.of(column.dtype, f"key {column.name} of {view.name}") for column in view.entity_columns}
    return Layout(view.name, keys, {feature.name: kinds.of(feature.dtype, f"{view.name}:{feature.name}") for feature in view.features})


class Query:
    """Reads some features of one view of a generation."""

    def __init__(self, view: FeatureView, features: tuple[str, ...]) -> None:
        self.layout = layout_of(view)
        self.features = tuple(name for name in self.layout.features if name in features)
        self._fields = [(name, self.layout.features[name].proto) for name in self.features]
        self._ttl = view.ttl // timedelta(microseconds=1) if view.ttl else None

    def rows(self, reader: Reader, keys: Sequence[Key]) -> list[Found | None]:
        """Event time and plain features of each key, in the order of `features`; None where nothing is known or it has outlived its view's ttl."""
        found = reader.rows(self.layout, self.features, keys)
        if self._ttl is None:
            return found
        oldest = microseconds(generation.now()) - self._ttl
        return [None if row is None or row[0] < oldest else row for row in found]

    def read(self, reader: Reader, entity_keys: list[EntityKey]) -> list[Row]:
        """The same for Feast: its keys, and its values."""
        return [self._told(row) for row in self.rows(reader, [self._key(key) for key in entity_keys])]

    def _key(self, entity_key: EntityKey) -> Key:
        values = dict(zip(entity_key.join_keys, map(_python, entity_key.entity_values), strict=True))
        return tuple(values[name] for name in self.layout.keys)

    def _told(self, row: Found | None) -> Row:
        if row is None:
            return ABSENT
        features = {name: Value() if value is None else Value(**{proto: value}) for (name, proto), value in zip(self._fields, row[1:], strict=True)}
        return EPOCH + timedelta(microseconds=row[0]), features


class PackedOnlineStore(OnlineStore):
    """Feast's interface to the generation in use."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._queries: dict[Any, Query] = {}

    def online_read(self, config: RepoConfig, table: FeatureView, entity_keys: list[EntityKey], requested_features: list[str] | None = None) -> list[Row]:  # noqa: ARG002
        """One row per key: event time and features, or (None, None)."""
        wanted = tuple(requested_features if requested_features is not None else [feature.name for feature in table.features])
        query = self._query(table, wanted)
        return self.reading(lambda reader: query.read(reader, entity_keys))

    def online_write_batch(
        self,
        config: RepoConfig,  # noqa: ARG002 (Feast's signature)
        table: FeatureView,
        data: list[tuple[EntityKey, dict[str, Value], datetime, datetime | None]],
        progress: Callable[[int], Any] | None,
    ) -> None:
        """Merge rows into the generation in use, all or none of them."""
        layout = layout_of(table)
        generation.place().merge(layout, [_stored(layout, *row) for row in data])
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
        generation.place().drop([view.name for view in tables_to_delete])

    def teardown(self, config: RepoConfig, tables: Sequence[FeatureView], entities: Sequence[Entity]) -> None:  # noqa: ARG002 (all of it goes)
        """Take everything offline."""
        generation.place().remove_all()

    def reading(self, read: Callable[[Reader], T]) -> T:
        """What `read` finds in the generation in use, or previewed, with this thread's reader; asked anew when that generation was removed meanwhile."""
        try:
            return read(self._reader())
        except GenerationGoneError:
            return read(self._reader())

    def _reader(self) -> Reader:
        place, preview = generation.place(), generation.previewed.get()
        sign = (id(place), os.getpid(), preview)
        if getattr(self._local, "sign", None) != sign:
            self._local.session, self._local.sign = (place.open(preview.name) if preview else place.session()), sign
        session: Any = self._local.session
        reader: Reader = session if preview else session.reader()
        return reader

    def _query(self, view: FeatureView, features: tuple[str, ...]) -> Query:
        key = (view.name, features, view.ttl, view.last_updated_timestamp)
        if key not in self._queries:
            self._queries[key] = Query(view, features)
        return self._queries[key]


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

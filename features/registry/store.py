"""Storage of the Feast registry, a file in the home or a row in PostgreSQL, and the rules for its content.

Feast reads and writes it as a whole through one of the two stores here; `MILLRACE_REGISTRY` selects one. Definitions
and their application are in `features.registry`.
"""

from __future__ import annotations

import hashlib
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feast import FeatureStore, FeatureViewState
from feast.infra.registry.file import FileRegistryStore
from feast.infra.registry.registry_store import RegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

from features.registry.database import RegistryDatabase, RegistryNewerError
from features.registry.servable import DefinitionError, ensure_servable
from lake import settings
from lake.files import locked, write_whole

SCHEMA_VERSION = "1"
"""Version of the registry's content in Feast 0.67."""
REFUSED = "+"
"""Separator in the version of a changed copy, between the version that was read and a unique mark."""
OUTAGE_SECONDS = 0.2
"""A refresh that takes longer continues in the background, where the registry read before may be used."""
REMAKE = "To make it again from the definitions: millrace serve"
LAST_READ_SERVED = " The definitions read last are served"

_VIEWS = ("feature_views", "stream_feature_views", "on_demand_feature_views", "label_views")
"""Registry fields whose entries have a lifecycle state."""
_SET_BY_FEAST = {FeatureViewState.MATERIALIZING.to_proto(), FeatureViewState.AVAILABLE_ONLINE.to_proto()}
"""States that Feast itself sets during materialization."""
_creating: ContextVar[bool] = ContextVar("creating", default=False)
log = logging.getLogger("millrace.features")


class RegistryMissingError(LookupError):
    """No definitions were applied here."""


class RegistryDamagedError(ValueError):
    """The registry's content cannot be parsed."""


class RegistryOwnedError(RuntimeError):
    """The registry holds the definitions of another project."""


class RegistryConflictError(RuntimeError):
    """Another process wrote the registry after this one read it. Nothing was written, and it was read again."""


class LifecycleStateError(ValueError):
    """A lifecycle state was set by hand; Millrace keeps none."""


def path() -> Path:
    """`$MILLRACE_HOME/feast/registry.db`."""
    return settings.home() / "feast" / "registry.db"


def database() -> RegistryDatabase | None:
    """The database that `MILLRACE_REGISTRY` names, or None where the registry is the file at `path()`."""
    url = settings.registry()
    return RegistryDatabase(url) if url else None


def where() -> str:
    """The path of the registry, or its URL without user and password."""
    configured = database()
    return configured.where if configured else str(path())


class WholeRegistryStore(RegistryStore):
    """A registry that is written atomically, and never created by a reader.

    It holds no lifecycle state. Feast marks a view MATERIALIZING while it loads and refuses to read it meanwhile; a
    killed loader leaves the mark for good. Here no loader touches the generation that is served, so there is nothing to
    mark: readers and writers of this registry see STATE_UNSPECIFIED, which Feast serves.
    """

    where: str

    def get_registry_proto(self) -> RegistryProto:
        """The registry; RegistryMissingError where there is none, and Feast's own stores would create an empty one."""
        content = self._read()
        if content is None:
            if _creating.get():
                return RegistryProto(registry_schema_version=SCHEMA_VERSION)
            remedy = "Run the DAG `millrace` (or `make demo`), or features.registry.apply()"
            raise RegistryMissingError(f"there is no feature registry at {self.where}. {remedy}")
        registry_proto = parsed(content, self.where)
        _clear_states(registry_proto)
        return registry_proto

    def update_registry_proto(self, registry_proto: RegistryProto) -> None:
        """Write the registry. DefinitionError, RegistryConflictError and LifecycleStateError leave it unchanged."""
        base, version = _base(registry_proto.version_id), hashlib.sha256(os.urandom(16)).hexdigest()[:16]
        # Feast keeps the objects that it made, refused ones too, for as long as this id is the same.
        registry_proto.version_id = f"{base}{REFUSED}{version}"
        states = _clear_states(registry_proto)  # also in the caller's own copy, which it keeps reading from
        if by_hand := {view: state for view, state in states.items() if state not in _SET_BY_FEAST}:
            view, state = next(iter(by_hand.items()))
            raise LifecycleStateError(
                f"feature view {view} was not set to {FeatureViewState.from_proto(state).name}:"
                " Millrace serves a view in every lifecycle state, and keeps none."
                f" To stop serving the view: feast feature-views disable {view}"
            )
        written = RegistryProto()
        written.CopyFrom(registry_proto)
        written.version_id = version
        written.last_updated.GetCurrentTime()
        try:
            ensure_servable(written)
            self._write(written.SerializeToString(), version, base)
        except (DefinitionError, RegistryConflictError):
            registry_proto.CopyFrom(self.get_registry_proto())  # else the caller's copy would fail later changes too
            raise
        registry_proto.CopyFrom(written)

    def _read(self) -> bytes | None:
        raise NotImplementedError

    def _write(self, content: bytes, version: str, base: str) -> None:
        raise NotImplementedError


class FileStore(WholeRegistryStore, FileRegistryStore):
    """The file at `path()`. Feast checks its time with each read, so definitions take effect as soon as they are
    applied.
    """

    def __init__(self) -> None:
        self._filepath = path()
        self.where = str(self._filepath)

    def _read(self) -> bytes | None:
        try:
            return self._filepath.read_bytes()
        except FileNotFoundError:
            return None

    def _write(self, content: bytes, version: str, base: str) -> None:  # noqa: ARG002 (one machine)
        write_whole(self._filepath, content)


class DatabaseStore(WholeRegistryStore):
    """The row in PostgreSQL, which only a writer that read its current version may replace."""

    set_project_metadata: Any = FileRegistryStore.set_project_metadata
    get_project_metadata: Any = FileRegistryStore.get_project_metadata

    def __init__(self, database: RegistryDatabase) -> None:
        self._database, self.where = database, database.where
        self._known: bytes | None = None
        self._lock = threading.Lock()
        self._reading: threading.Thread | None = None
        self.answers_through_outages = False
        self.outage: str | None = None
        """The problem and its start, while definitions read earlier are served."""

    def teardown(self) -> None:
        """Remove the row."""
        self._database.remove()

    def _read(self) -> bytes | None:
        if self.answers_through_outages:
            return self._newest_known()
        self._known = self._database.read()
        return self._known

    def _write(self, content: bytes, version: str, base: str) -> None:
        if not self._database.replace(content, version, base):
            raise RegistryConflictError(
                f"another process wrote the feature registry at {self.where} after this one had read it,"
                " so nothing was written. It has been read again: run the same command once more"
            )
        self._known = content

    def _newest_known(self) -> bytes | None:
        """The current content, or the last known one while the server does not answer.

        Feast holds a lock while it reads, which every request waits for, so a thread reads from the server.
        """
        with self._lock:
            if self._reading is None or not self._reading.is_alive():
                self._reading = threading.Thread(target=self._look, name="feature registry", daemon=True)
                self._reading.start()
        self._reading.join(OUTAGE_SECONDS)
        return self._known

    def _look(self) -> None:
        try:
            content = self._database.read()
            if content is None:
                raise RegistryMissingError(f"there is no feature registry at {self.where} any more. {REMAKE}")
            parsed(content, self.where)
        except Exception as error:
            if self.outage is None:
                self.outage = f"{error}.{LAST_READ_SERVED} since {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
                log.warning("%s", self.outage)
            return
        if self.outage is not None:
            log.warning("The feature registry at %s answers again", self.where)
        self._known, self.outage = content, None


class ConfiguredRegistryStore(RegistryStore):
    """The class named in `feature_store.yaml`: creates the store that `MILLRACE_REGISTRY` selects."""

    def __new__(cls, *_: Any) -> Any:
        """A FileStore or a DatabaseStore."""
        configured = database()
        return DatabaseStore(configured) if configured else FileStore()


def parsed(content: bytes, where: str) -> RegistryProto:
    """The registry in these bytes; RegistryDamagedError for torn ones, RegistryNewerError for a newer schema."""
    registry_proto = RegistryProto()
    try:
        registry_proto.ParseFromString(content)
    except DecodeError:
        content = b""
    if not content:
        raise RegistryDamagedError(f"the feature registry at {where} is torn. {REMAKE}")
    if (version := registry_proto.registry_schema_version) not in ("", SCHEMA_VERSION):
        raise RegistryNewerError(
            f"the feature registry at {where} has Feast's schema version {version!r}, and this Millrace reads"
            f" {SCHEMA_VERSION!r}. Update Millrace. Nothing was written"
        )
    return registry_proto


@contextmanager
def creating() -> Iterator[None]:
    """Inside, a missing registry reads as an empty one, and a torn one is removed; for applying definitions.

    For a registry in a file, a lock admits one process of this machine at a time.
    """
    configured, file = database(), path()
    with nullcontext() if configured else locked(file.parent / ".registry.lock"):
        # for saved datasets, which no definition recreates
        if configured and file.exists() and configured.read() is None:
            with suppress(RegistryDamagedError):
                copy_file(configured, file)
        content = configured.read() if configured else _file_content(file)
        if content is not None:
            try:
                parsed(content, where())
            except RegistryDamagedError:
                if configured:
                    configured.remove(content)
                else:
                    file.unlink(missing_ok=True)
        token = _creating.set(True)
        try:
            yield
        finally:
            _creating.reset(token)


def _file_content(file: Path) -> bytes | None:
    return file.read_bytes() if file.exists() else None


def copy_file(database: RegistryDatabase, file: Path) -> bool:
    """Copy a registry file into a database that has none; False, without writing, if it has one."""
    content = file.read_bytes()
    version = parsed(content, str(file)).version_id
    return database.replace(content, version, "")


def keep_answering(store: FeatureStore) -> None:
    """Let this store serve the definitions it read last while the registry's server is away. Writes still fail."""
    inner = store.registry._registry_store
    if isinstance(inner, DatabaseStore):
        inner.answers_through_outages = True


def outage(store: FeatureStore) -> str | None:
    """The registry's problem while the store serves definitions read earlier, or None."""
    return getattr(store.registry._registry_store, "outage", None)


def _base(version: str) -> str:
    """The version that a changed copy was made from."""
    return version.partition(REFUSED)[0]


def _clear_states(registry_proto: RegistryProto) -> dict[str, int]:
    """Clear the lifecycle states; returns the former ones by view."""
    states = {}
    for view in (view for views in _VIEWS for view in getattr(registry_proto, views)):
        if state := getattr(view.meta, "state", 0):
            states[view.spec.name] = state
            view.meta.ClearField("state")
    return states

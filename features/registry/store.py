"""Where the Feast registry lies (a file in the home, or a row in PostgreSQL), and the rules of its content.

Feast reads and writes it as a whole through one of the two stores here; `MILLRACE_REGISTRY` says which. What is
defined, and when it is applied, is in `features.registry`.
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
"""Of the registry's content, by Feast 0.67."""
REFUSED = "+"
"""Stands in the version of a changed copy, between the version that was read and a mark of its own."""
OUTAGE_SECONDS = 0.2
"""A refresh that takes longer is finished in the background, where what was read before may be answered from."""
AGAIN = "To make it again from the definitions: millrace serve"
CONTINUED = " The last definitions that were read are served"

_VIEWS = ("feature_views", "stream_feature_views", "on_demand_feature_views", "label_views")
"""Fields of the registry whose entries have a lifecycle state."""
_SET_BY_FEAST = {FeatureViewState.MATERIALIZING.to_proto(), FeatureViewState.AVAILABLE_ONLINE.to_proto()}
"""States that Feast sets by itself while it materializes."""
_creating: ContextVar[bool] = ContextVar("creating", default=False)
log = logging.getLogger("millrace.features")


class RegistryMissingError(LookupError):
    """No definitions were applied here."""


class RegistryDamagedError(ValueError):
    """The registry is torn, or something else."""


class RegistryConflictError(RuntimeError):
    """Another process wrote the registry after this one had read it. Nothing was written, and it was read again."""


class LifecycleStateError(ValueError):
    """Somebody set a lifecycle state by hand; Millrace keeps none."""


def path() -> Path:
    """`$MILLRACE_HOME/feast/registry.db`."""
    return settings.home() / "feast" / "registry.db"


def database() -> RegistryDatabase | None:
    """The database that `MILLRACE_REGISTRY` names, or None where the registry is the file at `path()`."""
    url = settings.registry()
    return RegistryDatabase(url) if url else None


def where() -> str:
    """The path of the registry, or its URL without user and password."""
    named = database()
    return named.where if named else str(path())


class WholeRegistryStore(RegistryStore):
    """A registry that is written whole or not at all, and never invented by a reader.

    It holds no lifecycle state. Feast marks a view MATERIALIZING while it loads, refuses every read of it meanwhile,
    and a loader that is killed leaves the mark for good. Here what is served is a whole generation, which no loader
    touches, so there is nothing to mark: readers and writers of this registry see STATE_UNSPECIFIED, which Feast
    serves.
    """

    where: str

    def get_registry_proto(self) -> RegistryProto:
        """The registry; Feast's own stores would write an empty one where there is none."""
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
        """Write it. DefinitionError, RegistryConflictError and LifecycleStateError leave what is there as it is."""
        base, version = _base(registry_proto.version_id), hashlib.sha256(os.urandom(16)).hexdigest()[:16]
        # Feast keeps the objects that it made, refused ones too, for as long as this id is the same.
        registry_proto.version_id = f"{base}{REFUSED}{version}"
        states = _clear_states(registry_proto)  # also in the caller's own copy, which it goes on reading from
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
            registry_proto.CopyFrom(self.get_registry_proto())  # else the caller's copy would refuse later changes too
            raise
        registry_proto.CopyFrom(written)

    def _read(self) -> bytes | None:
        raise NotImplementedError

    def _write(self, content: bytes, version: str, base: str) -> None:
        raise NotImplementedError


class FileStore(WholeRegistryStore, FileRegistryStore):
    """The file at `path()`. Feast looks at its time with each read: definitions count as soon as they are applied."""

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
    """The row in PostgreSQL. A writer that read another version than the present one is refused."""

    set_project_metadata: Any = FileRegistryStore.set_project_metadata
    get_project_metadata: Any = FileRegistryStore.get_project_metadata

    def __init__(self, database: RegistryDatabase) -> None:
        self._database, self.where = database, database.where
        self._known: bytes | None = None
        self._lock = threading.Lock()
        self._reading: threading.Thread | None = None
        self.answers_through_outages = False
        self.outage: str | None = None
        """What is wrong since when, while what was read before is answered from."""

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
        """What is there now, or, while the server is silent, what was there last.

        Feast holds a lock while it asks, for which every request waits: so the server is asked in a thread.
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
                raise RegistryMissingError(f"there is no feature registry at {self.where} any more. {AGAIN}")
            parsed(content, self.where)
        except Exception as error:
            if self.outage is None:
                self.outage = f"{error}.{CONTINUED} since {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
                log.warning("%s", self.outage)
            return
        if self.outage is not None:
            log.warning("The feature registry at %s answers again", self.where)
        self._known, self.outage = content, None


class ConfiguredRegistryStore(RegistryStore):
    """What `feature_store.yaml` names: makes the store that `MILLRACE_REGISTRY` says."""

    def __new__(cls, *_: Any) -> Any:
        """A FileStore or a DatabaseStore."""
        named = database()
        return DatabaseStore(named) if named else FileStore()


def parsed(content: bytes, where: str) -> RegistryProto:
    """The registry that these bytes are; RegistryDamagedError for torn ones, RegistryNewerError for a later schema."""
    registry_proto = RegistryProto()
    try:
        registry_proto.ParseFromString(content)
    except DecodeError:
        content = b""
    if not content:
        raise RegistryDamagedError(f"the feature registry at {where} is torn. {AGAIN}")
    if (found := registry_proto.registry_schema_version) not in ("", SCHEMA_VERSION):
        raise RegistryNewerError(
            f"the feature registry at {where} has Feast's schema version {found!r}, and this Millrace reads"
            f" {SCHEMA_VERSION!r}. Update Millrace. Nothing was written"
        )
    return registry_proto


@contextmanager
def creating() -> Iterator[None]:
    """Apply definitions inside: a missing registry reads as an empty one, a torn one is removed.

    Of a registry in a file, nobody else on this machine is inside.
    """
    named, file = database(), path()
    with nullcontext() if named else locked(file.parent / ".registry.lock"):
        if named and file.exists() and named.read() is None:  # saved data sets, which no definition brings back
            with suppress(RegistryDamagedError):
                copy_file(named, file)
        content = named.read() if named else _file_content(file)
        if content is not None:
            try:
                parsed(content, where())
            except RegistryDamagedError:
                if named:
                    named.remove(content)
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
    """Put the registry of a file into a database that has none; False, and nothing is written, if it has one."""
    content = file.read_bytes()
    version = parsed(content, str(file)).version_id
    return database.replace(content, version, "")


def keep_answering(store: FeatureStore) -> None:
    """From now on this store goes by what it read last while the registry's server is away. Writes still fail."""
    inner = store.registry._registry_store
    if isinstance(inner, DatabaseStore):
        inner.answers_through_outages = True


def outage(store: FeatureStore) -> str | None:
    """What is wrong with the registry while the store answers from what it read before."""
    return getattr(store.registry._registry_store, "outage", None)


def _base(version: str) -> str:
    """The version that was read, from which a copy with changes was made."""
    return version.partition(REFUSED)[0]


def _clear_states(registry_proto: RegistryProto) -> dict[str, int]:
    """Forget the lifecycle states; returns those that there were, by view."""
    found = {}
    for view in (view for views in _VIEWS for view in getattr(registry_proto, views)):
        if state := getattr(view.meta, "state", 0):
            found[view.spec.name] = state
            view.meta.ClearField("state")
    return found

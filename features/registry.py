"""The Feast registry under `MILLRACE_HOME`: where it is, what it may hold, how it is written, and `apply()`."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from feast import Entity, FeatureService, FeatureStore, FeatureView, FeatureViewState, OnDemandFeatureView, Project
from feast.data_source import DataSource
from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.FeatureService_pb2 import LoggingConfig as LoggingConfigProto
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from feast.repo_config import RegistryConfig
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped,unused-ignore]
from google.protobuf.message import DecodeError  # type: ignore[import-untyped,unused-ignore]

from contracts import settings, storage
from contracts.files import locked, write_whole
from contracts.release import Release
from features.source import GoldTable

REPO = Path(__file__).parent / "feast_repo"
FINGERPRINT = "definitions"
"""Tag of the project that holds the fingerprint of the definitions that were applied last."""

_KINDS = (Entity, DataSource, FeatureView, OnDemandFeatureView, FeatureService)
_VOLATILE = frozenset({"meta", "createdTimestamp", "lastUpdatedTimestamp", "body", "entityColumns"})
"""What differs between processes, or is filled in by Feast while it applies (key columns repeat what the entities say)."""


_VIEWS = ("feature_views", "stream_feature_views", "on_demand_feature_views", "label_views")
"""Fields of the registry whose entries have a lifecycle state."""
_SET_BY_FEAST = {FeatureViewState.MATERIALIZING.to_proto(), FeatureViewState.AVAILABLE_ONLINE.to_proto()}
"""States that Feast sets by itself while it materializes."""


class RegistryMissingError(LookupError):
    """No definitions were applied below this `MILLRACE_HOME`."""


class RegistryDamagedError(ValueError):
    """The registry's file is torn, or holds something else."""


class DefinitionError(ValueError):
    """A definition that our stores cannot carry out; the message says which one, and what to use. Nothing was applied."""


class LifecycleStateError(ValueError):
    """Somebody set a lifecycle state by hand; Millrace keeps none."""


def path() -> Path:
    """`$MILLRACE_HOME/feast/registry.db`."""
    return settings.home() / "feast" / "registry.db"


class HomeRegistryStore(FileRegistryStore):
    """Feast's file registry at `path()`, written whole or not at all, and never invented by a reader.

    It holds no lifecycle state. Feast marks a view MATERIALIZING while it loads, refuses every read of it meanwhile, and a
    loader that is killed leaves the mark for good. Here what is served is a whole generation, which no loader touches, so
    there is nothing to mark: readers and writers of this registry see STATE_UNSPECIFIED, which Feast serves.
    """

    def __init__(self, registry_config: RegistryConfig, repo_path: Path | None) -> None:  # noqa: ARG002 (Feast's signature)
        self._filepath = path()

    def get_registry_proto(self) -> RegistryProto:
        """The registry; Feast's own store would write an empty one where there is none."""
        if not self._filepath.exists():
            raise RegistryMissingError(
                f"there is no feature registry at {self._filepath}. Run the DAG `millrace` (or `make demo`), or features.registry.apply()"
            )
        registry_proto = _parsed(self._filepath)
        _clear_states(registry_proto)
        return registry_proto

    def _write_registry(self, registry_proto: RegistryProto) -> None:
        # Feast keeps the objects that it made, refused ones too, for as long as this id is the same.
        registry_proto.version_id = hashlib.sha256(os.urandom(16)).hexdigest()[:16]
        states = _clear_states(registry_proto)  # also in the caller's own copy, which it goes on reading from
        if by_hand := {view: state for view, state in states.items() if state not in _SET_BY_FEAST}:
            view, state = next(iter(by_hand.items()))
            raise LifecycleStateError(
                f"feature view {view} was not set to {FeatureViewState.from_proto(state).name}:"
                " Millrace serves a view in every lifecycle state, and keeps none."
                f" To stop serving the view: feast feature-views disable {view}"
            )
        try:
            ensure_servable(registry_proto)
        except DefinitionError:
            registry_proto.CopyFrom(self.get_registry_proto())  # else the caller's copy would refuse later changes too
            raise
        registry_proto.last_updated.GetCurrentTime()
        write_whole(self._filepath, registry_proto.SerializeToString())


def _parsed(file: Path) -> RegistryProto:
    registry_proto, content = RegistryProto(), file.read_bytes()
    try:
        registry_proto.ParseFromString(content)
    except DecodeError:
        content = b""
    if not content:
        raise RegistryDamagedError(f"the feature registry at {file} is torn. To make it again from the definitions: millrace serve")
    return registry_proto


def _is_whole(file: Path) -> bool:
    try:
        _parsed(file)
    except (FileNotFoundError, RegistryDamagedError):
        return False
    return True


def open_store(release: int | Release | None = None, *, allow_beyond_horizon: bool | None = None) -> FeatureStore:
    """The feature store of this checkout, from any working directory; training sets read `release`, or the newest one. A `Release` need not be in the lake any more.

    `allow_beyond_horizon` lets labels lie after the release's horizon; without it `MILLRACE_BEYOND_HORIZON` counts.
    """
    store = FeatureStore(str(REPO))
    if allow_beyond_horizon is not None:
        store.config.offline_store.beyond_horizon = settings.ALLOW if allow_beyond_horizon else settings.REFUSE
    if release is not None:
        store.config.offline_store.release = release
    return store


def online_views(store: FeatureStore) -> list[FeatureView]:
    """The views that are loaded from gold tables and served."""
    return [view for view in store.list_batch_feature_views() if view.online]


def definitions() -> list[Any]:
    """Every Feast object that `feast_repo/definitions.py` declares, sources included; the project is not among them."""
    return _with_sources(vars(_repo()).values())


def project(name: str, declared: Iterable[Any]) -> Project:
    """The Feast project of what is declared; its tag says which definitions `feast apply` or `apply()` applied last."""
    tags = {FINGERPRINT: fingerprint(_with_sources(declared))}
    return Project(name=name, description="Features of the Millrace lake", tags=tags)


def fingerprint(objects: Iterable[Any] | None = None) -> str:
    """A digest of these definitions, or of all, that is the same in every process and on every machine."""
    chosen = definitions() if objects is None else objects
    texts = sorted(json.dumps([type(one).__name__, _stable(MessageToDict(one.to_proto()))], sort_keys=True) for one in chosen)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def apply() -> bool:
    """Bring the registry up to the definitions; True if it had to be written. What is no longer defined is removed, and a torn registry replaced."""
    with locked(path().parent / ".registry.lock"):
        if not _is_whole(path()):
            write_whole(path(), RegistryProto(registry_schema_version="1").SerializeToString())
        store = open_store()
        wanted = fingerprint()
        if _applied(store) == wanted:
            return False
        objects = definitions()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "On demand feature view is an experimental feature", RuntimeWarning)
            store.apply([project(store.project, objects), *objects], objects_to_delete=_obsolete(store, objects), partial=False)
        return True


def ensure_servable(registry_proto: RegistryProto) -> None:
    """Raise DefinitionError where a view cannot be both trained on and served, or a service not be logged."""
    for view in (*registry_proto.feature_views, *registry_proto.stream_feature_views):
        source = DataSource.from_proto(view.spec.batch_source) if view.spec.HasField("batch_source") else None
        ensure_gold(view.spec.name, source)
    for service in registry_proto.feature_services:
        if service.spec.HasField("logging_config"):
            _ensure_loggable(service.spec.name, service.spec.logging_config)


def _ensure_loggable(service: str, logging: LoggingConfigProto) -> None:
    kind, file = logging.WhichOneof("destination"), logging.file_destination
    problem = ""
    if kind != "file_destination":
        problem = f"a {kind}"
    elif storage.is_remote(file.path) or not Path(file.path).is_absolute():
        problem = f"{file.path!r}, which is not an absolute path of this machine"
    elif file.partition_by:
        problem = f"files in partitions ({', '.join(file.partition_by)})"
    elif _is_in_lake(Path(file.path)):
        problem = f"{file.path}, which is in the lake, where only audited tables are"
    if problem:
        raise DefinitionError(
            f"feature service {service} logs what was served to {problem}."
            " Served features are logged to parquet files in a folder outside of the lake:"
            " LoggingConfig(destination=FileLoggingDestination(path='/an/absolute/path')), without partition_by"
        )


def _is_in_lake(path: Path) -> bool:
    lake = settings.lake()
    return not storage.is_remote(lake) and path.resolve().is_relative_to(Path(str(lake)).resolve())


def ensure_gold(view: str, source: DataSource | None) -> None:
    """Raise DefinitionError unless a view's source is a gold table."""
    if not isinstance(source, GoldTable):
        raise DefinitionError(
            f"feature view {view} reads {f'a {type(source).__name__}' if source else 'no table'}."
            " Training sets and the online store read the gold tables of a release:"
            " publish its rows as one (CONTRIBUTING.md, Add a table),"
            " and use GoldTable(table='gold.<name>') as its source,"
            " or as the batch_source of its push or stream source"
        )


def _repo() -> ModuleType:
    return importlib.import_module("features.feast_repo.definitions")


def _with_sources(declared: Iterable[Any]) -> list[Any]:
    found = [definition for definition in declared if isinstance(definition, _KINDS)]
    sources = [view.batch_source for view in found if isinstance(view, FeatureView)]
    requests = {source.name: source for view in found if isinstance(view, OnDemandFeatureView) for source in view.source_request_sources.values()}
    known = {id(definition) for definition in found}
    return [*(source for source in [*sources, *requests.values()] if id(source) not in known), *found]


def _clear_states(registry_proto: RegistryProto) -> dict[str, int]:
    """Forget the lifecycle states; returns those that there were, by view."""
    found = {}
    for view in (view for views in _VIEWS for view in getattr(registry_proto, views)):
        if state := getattr(view.meta, "state", 0):
            found[view.spec.name] = state
            view.meta.ClearField("state")
    return found


def _applied(store: FeatureStore) -> str | None:
    tags = [project.tags for project in store.registry.list_projects() if project.name == store.project]
    return tags[0].get(FINGERPRINT) if tags else None


def _obsolete(store: FeatureStore, objects: list[Any]) -> list[Any]:
    wanted = {(type(one), one.name) for one in objects}
    registry, project = store.registry, store.project
    present = [
        *registry.list_feature_services(project),
        *registry.list_on_demand_feature_views(project),
        *registry.list_feature_views(project),
        *registry.list_data_sources(project),
        *(one for one in registry.list_entities(project) if not one.name.startswith("__")),
    ]
    return [one for one in present if (type(one), one.name) not in wanted]


def _stable(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {key: _stable(value) for key, value in plain.items() if key not in _VOLATILE}
    return [_stable(one) for one in plain] if isinstance(plain, list) else plain

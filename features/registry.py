"""The Feast registry under `MILLRACE_HOME`: where it is, how it is written, and `apply()`, which brings it up to the definitions."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureStore, FeatureView, OnDemandFeatureView, Project
from feast.data_source import DataSource
from feast.infra.registry.file import FileRegistryStore
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from feast.repo_config import RegistryConfig
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped,unused-ignore]

from contracts import settings
from contracts.files import locked, write_whole
from contracts.release import Release

REPO = Path(__file__).parent / "feast_repo"
FINGERPRINT = "definitions"
"""Tag of the project that holds the fingerprint of the definitions that were applied last."""

_KINDS = (Entity, DataSource, FeatureView, OnDemandFeatureView, FeatureService)
_VOLATILE = frozenset({"meta", "createdTimestamp", "lastUpdatedTimestamp", "body", "entityColumns"})
"""What differs between processes, or is filled in by Feast while it applies (key columns repeat what the entities say)."""


class RegistryMissingError(LookupError):
    """No definitions were applied below this `MILLRACE_HOME`."""


def path() -> Path:
    """`$MILLRACE_HOME/feast/registry.db`."""
    return settings.home() / "feast" / "registry.db"


class HomeRegistryStore(FileRegistryStore):
    """Feast's file registry at `path()`, written whole or not at all, and never invented by a reader."""

    def __init__(self, registry_config: RegistryConfig, repo_path: Path | None) -> None:  # noqa: ARG002 (Feast's signature)
        self._filepath = path()

    def get_registry_proto(self) -> RegistryProto:
        """The registry; Feast's own store would write an empty one where there is none."""
        if not self._filepath.exists():
            raise RegistryMissingError(
                f"there is no feature registry at {self._filepath}. Run the DAG `millrace` (or `make demo`), or features.registry.apply()"
            )
        registry_proto = RegistryProto()
        registry_proto.ParseFromString(self._filepath.read_bytes())
        return registry_proto

    def _write_registry(self, registry_proto: RegistryProto) -> None:
        registry_proto.version_id = hashlib.sha256(os.urandom(16)).hexdigest()[:16]
        registry_proto.last_updated.GetCurrentTime()
        write_whole(self._filepath, registry_proto.SerializeToString())


def open_store(release: int | Release | None = None) -> FeatureStore:
    """The feature store of this checkout, from any working directory; training sets read `release`, or the newest one. A `Release` need not be in the lake any more."""
    store = FeatureStore(str(REPO))
    if release is not None:
        store.config.offline_store.release = release
    return store


def online_views(store: FeatureStore) -> list[FeatureView]:
    """The views that are loaded from gold tables and served."""
    return [view for view in store.list_batch_feature_views() if view.online]


def definitions() -> list[Any]:
    """Every Feast object that `feast_repo/definitions.py` declares, sources included."""
    declared = vars(importlib.import_module("features.feast_repo.definitions")).values()
    found = [one for one in declared if isinstance(one, _KINDS)]
    sources = [one.batch_source for one in found if isinstance(one, FeatureView)]
    requests = {source.name: source for one in found if isinstance(one, OnDemandFeatureView) for source in one.source_request_sources.values()}
    return [*sources, *requests.values(), *found]


def fingerprint(objects: Iterable[Any] | None = None) -> str:
    """A digest of these definitions, or of all, that is the same in every process and on every machine."""
    chosen = definitions() if objects is None else objects
    texts = sorted(json.dumps([type(one).__name__, _stable(MessageToDict(one.to_proto()))], sort_keys=True) for one in chosen)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:16]


def apply() -> bool:
    """Bring the registry up to the definitions; True if it had to be written. What is no longer defined is removed."""
    with locked(path().parent / ".registry.lock"):
        if not path().exists():
            write_whole(path(), RegistryProto(registry_schema_version="1").SerializeToString())
        store = open_store()
        wanted = fingerprint()
        if _applied(store) == wanted:
            return False
        objects = definitions()
        project = Project(name=store.project, description="Features of the Millrace lake", tags={FINGERPRINT: wanted})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "On demand feature view is an experimental feature", RuntimeWarning)
            store.apply([project, *objects], objects_to_delete=_obsolete(store, objects), partial=False)
        return True


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

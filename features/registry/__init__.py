"""The Feast registry: opened, compared with the definitions of this checkout, and brought up to them by `apply()`.

Where it lies is in `features.registry.store`.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import random
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from feast import Entity, FeatureService, FeatureStore, FeatureView, OnDemandFeatureView, Project
from feast.data_source import DataSource
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped,unused-ignore]

from contracts.project import module as project_module
from features.registry.servable import DefinitionError, ensure_gold, ensure_servable
from features.registry.store import (
    LifecycleStateError,
    RegistryConflictError,
    RegistryDamagedError,
    RegistryMissingError,
    creating,
    path,
    where,
)
from lake import settings
from lake.release import Release

__all__ = [
    "DefinitionError",
    "LifecycleStateError",
    "RegistryConflictError",
    "RegistryDamagedError",
    "RegistryMissingError",
    "ensure_gold",
    "ensure_servable",
    "path",
    "where",
]

REPO = Path(__file__).parent.parent / "feast_repo"
FINGERPRINT = "definitions"
"""Tag of the project that holds the fingerprint of the definitions that were applied last."""

FORMER_MODULES = {"features.on_demand": "features.recency"}
"""Modules that the text of on-demand functions imports, as they were called when manifests first kept digests of it."""

_KINDS = (Entity, DataSource, FeatureView, OnDemandFeatureView, FeatureService)
ATTEMPTS = 10
TURN_SECONDS = 0.3
_VOLATILE = frozenset({"meta", "createdTimestamp", "lastUpdatedTimestamp", "body", "entityColumns"})
"""What differs between processes, or is filled in by Feast while it applies (key columns repeat what the entities
say).
"""


def open_store(release: int | Release | None = None, *, allow_beyond_horizon: bool | None = None) -> FeatureStore:
    """The feature store of this checkout, from any working directory; training sets read `release`, or the newest one.
    A `Release` need not be in the lake any more.

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
    return _digest(definitions() if objects is None else objects)


def definition_digest(definition: Any) -> str:
    """A digest of what is defined, which a manifest keeps for years: it stays the same when a module that a function
    imports is moved: ours by FORMER_MODULES, a project's own by the FORMER_TEXTS of its `services.py`.
    """
    own = project_module("services")
    former: Mapping[str, str] = getattr(own, "FORMER_TEXTS", {})
    modules = {f"from {module} import ": f"from {name} import " for module, name in FORMER_MODULES.items()}
    return _digest([definition], modules | {_quoted(text): _quoted(before) for text, before in former.items()})


def _quoted(text: str) -> str:
    """As it stands in JSON."""
    return json.dumps(text)[1:-1]


def _digest(objects: Iterable[Any], replaced: Mapping[str, str] = {}) -> str:
    text = "\n".join(
        sorted(
            json.dumps([type(one).__name__, _stable(MessageToDict(one.to_proto()))], sort_keys=True) for one in objects
        )
    )
    for present, former in replaced.items():
        text = text.replace(present, former)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def apply() -> bool:
    """Bring the registry up to the definitions; True if it had to be written.

    What is no longer defined is removed, and a torn registry replaced. Any number of processes on any machines may do
    it at once: the definitions of one of them are there in the end, whole.
    """
    for _ in range(ATTEMPTS):
        try:
            return _apply()
        except RegistryConflictError:  # of another process, which in most cases has applied the same
            time.sleep(random.uniform(0, TURN_SECONDS))
    return _apply()


def _apply() -> bool:
    with creating():
        store = open_store()
        current = fingerprint()
        if _applied(store) == current:
            return False
        objects = definitions()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "On demand feature view is an experimental feature", RuntimeWarning)
            store.apply(
                [project(store.project, objects), *objects], objects_to_delete=_obsolete(store, objects), partial=False
            )
        return True


def is_applied() -> bool:
    """Whether the registry holds the definitions of this checkout; RegistryMissingError where there is none."""
    return _applied(open_store()) == fingerprint()


def _repo() -> ModuleType:
    return importlib.import_module("features.feast_repo.definitions")


def _with_sources(declared: Iterable[Any]) -> list[Any]:
    found = [definition for definition in declared if isinstance(definition, _KINDS)]
    sources = [view.batch_source for view in found if isinstance(view, FeatureView)]
    requests = {
        source.name: source
        for view in found
        if isinstance(view, OnDemandFeatureView)
        for source in view.source_request_sources.values()
    }
    known = {id(definition) for definition in found}
    return [*(source for source in [*sources, *requests.values()] if id(source) not in known), *found]


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

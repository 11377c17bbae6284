"""The Feast registry: open it, compare it with this project's definitions, and apply them. Storage is in
`features.registry.store`.
"""

from __future__ import annotations

import hashlib
import json
import random
import time
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureStore, FeatureView, OnDemandFeatureView, Project
from feast.data_source import DataSource
from google.protobuf.json_format import MessageToDict  # type: ignore[import-untyped,unused-ignore]

from contracts.project import current as current_project
from contracts.project import module as project_module
from features import views
from features.registry.servable import DefinitionError, ensure_gold, ensure_servable
from features.registry.store import (
    LifecycleStateError,
    RegistryConflictError,
    RegistryDamagedError,
    RegistryMissingError,
    RegistryOwnedError,
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
    "RegistryOwnedError",
    "ensure_gold",
    "ensure_servable",
    "path",
    "where",
]

REPO = Path(__file__).parent.parent / "feast_repo"
FINGERPRINT = "definitions"
"""Tag of the Feast project with the fingerprint of the definitions applied last."""

OWNER = "project"
"""Tag of the Feast project with the name of the Millrace project that applied them."""

FORMER_MODULES = {"features.on_demand": "features.recency"}
"""Modules imported by on-demand functions -> their names when manifests first recorded digests."""

_FEAST_TYPES = (Entity, DataSource, FeatureView, OnDemandFeatureView, FeatureService)
ATTEMPTS = 10
RETRY_SECONDS = 0.3
_VOLATILE = frozenset({"meta", "createdTimestamp", "lastUpdatedTimestamp", "body", "entityColumns"})
"""Fields that differ between processes or that Feast fills in while it applies (key columns repeat the entities)."""


def open_store(release: int | Release | None = None, *, allow_beyond_horizon: bool | None = None) -> FeatureStore:
    """The feature store, from any working directory; training sets read `release`, by default the newest one. A
    `Release` need not exist in the lake any more.

    `allow_beyond_horizon` allows labels after the release's horizon; the default is `MILLRACE_BEYOND_HORIZON`.
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
    """Every Feast object of the current project, with sources: what `feast_repo/definitions.py` declares, without the
    Feast project itself.
    """
    return _with_sources(views.declared().values())


def project(name: str, declared: Iterable[Any]) -> Project:
    """The Feast project of the declared objects; its tags have their fingerprint and the Millrace project."""
    tags = {FINGERPRINT: fingerprint(_with_sources(declared)), OWNER: current_project().name}
    return Project(name=name, description="Features of the Millrace lake", tags=tags)


def fingerprint(objects: Iterable[Any] | None = None) -> str:
    """A digest of these definitions (default: all), the same in every process and on every machine."""
    return _digest(definitions() if objects is None else objects)


def definition_digest(definition: Any) -> str:
    """A digest of a definition for manifests, which keep it for years.

    It survives the move of a module that an on-demand function imports: FORMER_MODULES maps the engine's, and
    FORMER_TEXTS in a project's `services.py` its own.
    """
    own = project_module("services")
    former: Mapping[str, str] = getattr(own, "FORMER_TEXTS", {})
    modules = {f"from {module} import ": f"from {name} import " for module, name in FORMER_MODULES.items()}
    return _digest([definition], modules | {_quoted(text): _quoted(before) for text, before in former.items()})


def _quoted(text: str) -> str:
    """The text as JSON escapes it."""
    return json.dumps(text)[1:-1]


def _digest(objects: Iterable[Any], replacements: Mapping[str, str] = {}) -> str:
    text = "\n".join(
        sorted(
            json.dumps([type(definition).__name__, _stable(MessageToDict(definition.to_proto()))], sort_keys=True)
            for definition in objects
        )
    )
    for present, former in replacements.items():
        text = text.replace(present, former)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def apply() -> bool:
    """Apply the definitions to the registry; True if it was written.

    Removes what is no longer defined and replaces a torn registry. Safe for concurrent processes on any machines: the
    complete definitions of one of them win.
    """
    for _ in range(ATTEMPTS):
        try:
            return _apply()
        except RegistryConflictError:  # another process wrote, in most cases the same
            time.sleep(random.uniform(0, RETRY_SECONDS))
    return _apply()


def _apply() -> bool:
    with creating():
        store = open_store()
        current = fingerprint()
        tags = _tags(store)
        _ensure_own(tags)
        if tags.get(FINGERPRINT) == current and OWNER in tags:
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


def _with_sources(declared: Iterable[Any]) -> list[Any]:
    feast_objects = [definition for definition in declared if isinstance(definition, _FEAST_TYPES)]
    sources = [view.batch_source for view in feast_objects if isinstance(view, FeatureView)]
    requests = {
        source.name: source
        for view in feast_objects
        if isinstance(view, OnDemandFeatureView)
        for source in view.source_request_sources.values()
    }
    known_ids = {id(definition) for definition in feast_objects}
    return [*(source for source in [*sources, *requests.values()] if id(source) not in known_ids), *feast_objects]


def _applied(store: FeatureStore) -> str | None:
    return _tags(store).get(FINGERPRINT)


def _tags(store: FeatureStore) -> Mapping[str, str]:
    """The tags of the Feast project; empty for a registry without it."""
    tags = [project.tags for project in store.registry.list_projects() if project.name == store.project]
    return tags[0] if tags else {}


def _ensure_own(tags: Mapping[str, str]) -> None:
    """Raise RegistryOwnedError if another project applied its definitions here: two would remove each other's."""
    owner, name = tags.get(OWNER), current_project().name
    if owner not in (None, name):
        raise RegistryOwnedError(
            f"the feature registry at {where()} belongs to the project {owner}, and this is {name}. Nothing was"
            " changed. Set MILLRACE_REGISTRY to a database of this project's own"
        )


def _obsolete(store: FeatureStore, objects: list[Any]) -> list[Any]:
    declared = {(type(definition), definition.name) for definition in objects}
    registry, project = store.registry, store.project
    present = [
        *registry.list_feature_services(project),
        *registry.list_on_demand_feature_views(project),
        *registry.list_feature_views(project),
        *registry.list_data_sources(project),
        *(entity for entity in registry.list_entities(project) if not entity.name.startswith("__")),
    ]
    return [definition for definition in present if (type(definition), definition.name) not in declared]


def _stable(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {key: _stable(value) for key, value in plain.items() if key not in _VOLATILE}
    return [_stable(item) for item in plain] if isinstance(plain, list) else plain

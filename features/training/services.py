"""A feature service as training sets need it: which columns it gives, out of which tables, and digests of what defines
them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
from feast import Entity, FeatureService, FeatureStore, FeatureView, OnDemandFeatureView
from feast.errors import FeatureServiceNotFoundException

from features import registry, type_mapping
from features.offline import as_of
from features.offline.labels import JoinKey
from features.source import GoldTable
from lake.release import Release

SourceColumn = tuple[str, str]
"""Table and column."""


class ServiceError(LookupError):
    """There is no such feature service."""


@dataclass(frozen=True)
class Column:
    """A feature: its reference, its type in a training set, and the places from which it is read or computed."""

    ref: str
    type: pa.DataType
    places: tuple[SourceColumn, ...]


@dataclass(frozen=True)
class Service:
    """`columns` are the features by name, in order; `views` those with a table, also the ones that only feed an
    on-demand view.
    """

    name: str
    columns: dict[str, Column]
    views: tuple[FeatureView, ...]
    request: tuple[str, ...]
    """What on-demand views want to find in the labels."""
    on_demand: frozenset[str]
    """Columns that are computed from the labels, too."""
    definitions: dict[str, str]

    @property
    def join_keys(self) -> dict[str, JoinKey]:
        """What labels must have besides the instant."""
        return as_of.join_keys(self.views)

    def of(self, release: Release) -> Release:
        """The release, cut down to the tables that these features need."""
        needed = {_source(view).table for view in self.views} & {*release.tables}
        return replace(release, tables=_only(release.tables, needed), ids=_only(release.ids, needed))


def named(name: str) -> Service:
    """The service of that name, as it is defined now; the registry is brought up to the definitions first."""
    registry.apply()
    store = registry.open_store()
    try:
        service = store.get_feature_service(name)
    except FeatureServiceNotFoundException:
        known = sorted(one.name for one in store.list_feature_services())
        near = difflib.get_close_matches(name, known, 1)
        hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(known)}"
        raise ServiceError(f"there is no feature service {name}. {hint}") from None
    return _resolved(store, service)


def _resolved(store: FeatureStore, service: FeatureService) -> Service:
    computed = {one.name: one for one in store.list_on_demand_feature_views()}
    columns: dict[str, Column] = {}
    views: dict[str, FeatureView] = {}
    for projection in service.feature_view_projections:
        view = computed.get(projection.name)
        if view is None:
            views[projection.name_to_use()] = store.get_feature_view(projection.name).with_projection(projection)
            read: dict[str, tuple[SourceColumn, ...]] = {
                one.name: (_place(views[projection.name_to_use()], one.name),) for one in projection.features
            }
        else:
            fed = {one.name: store.get_feature_view(one.name) for one in view.source_feature_view_projections.values()}
            views = {**fed, **views}
            places = tuple(
                _place(fed[one.name], field.name)
                for one in view.source_feature_view_projections.values()
                for field in one.features
            )
            read = {one.name: places for one in projection.features}
        for field in projection.features:
            columns[field.name] = Column(
                f"{projection.name_to_use()}:{field.name}",
                type_mapping.of(field.dtype, field.name).arrow,
                read[field.name],
            )
    asked = [computed[one.name] for one in service.feature_view_projections if one.name in computed]
    return Service(
        name=service.name,
        columns=columns,
        views=tuple(views.values()),
        request=tuple(dict.fromkeys(name for view in asked for name in view.get_request_data_schema())),
        on_demand=frozenset(
            field.name for one in service.feature_view_projections if one.name in computed for field in one.features
        ),
        definitions=_definitions(service.name, [*views.values(), *asked]),
    )


def _only(found: Mapping[str, Any], wanted: set[str]) -> dict[str, Any]:
    return {table: found[table] for table in sorted(wanted & {*found})}


def _source(view: FeatureView) -> GoldTable:
    source: GoldTable = view.batch_source
    return source


def _place(view: FeatureView, feature: str) -> SourceColumn:
    return _source(view).table, _source(view).column(feature)


def _definitions(service: str, views: list[Any]) -> dict[str, str]:
    """Digests of the definitions in the code: of the service, its views, and their entities."""
    names = {one.name for one in views}
    entities = {name for one in views if isinstance(one, FeatureView) for name in one.entities}
    wanted = {
        (FeatureService, service),
        *((Entity, name) for name in entities),
        *((kind, name) for kind in (FeatureView, OnDemandFeatureView) for name in names),
    }
    kept = {FeatureService: "service", Entity: "entity", FeatureView: "view", OnDemandFeatureView: "view"}
    found = {
        f"{kept[type(one)]} {one.name}": registry.definition_digest(one)
        for one in registry.definitions()
        if (type(one), one.name) in wanted
    }
    return dict(sorted(found.items()))


def differing(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What was redefined, removed or added."""
    return sorted(name for name in {*then, *now} if then.get(name) != now.get(name))

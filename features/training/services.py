"""A feature service resolved for training sets: its columns, the tables they come from, and digests of their
definitions.
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
from features.instants import declaration
from features.offline import as_of
from features.offline.labels import JoinKey
from features.source import GoldTable
from lake.release import Release

SourceColumn = tuple[str, str]
"""Table and column."""


class ServiceError(LookupError):
    """There is no such feature service."""


@dataclass(frozen=True)
class FeatureColumn:
    """A feature: its reference, its type in a training set, and the source columns that it is read or computed from."""

    ref: str
    type: pa.DataType
    sources: tuple[SourceColumn, ...]


@dataclass(frozen=True)
class Service:
    """`columns` are the features by name, in order; `views` are those with a table, including inputs of on-demand
    views.
    """

    name: str
    columns: dict[str, FeatureColumn]
    views: tuple[FeatureView, ...]
    request: tuple[str, ...]
    """Columns that on-demand views read from the labels."""
    on_demand: frozenset[str]
    """Features that on-demand views compute."""
    definitions: dict[str, str]

    @property
    def join_keys(self) -> dict[str, JoinKey]:
        """The join keys that labels must have besides the instant."""
        return as_of.join_keys(self.views)

    def of(self, release: Release) -> Release:
        """The release, limited to the tables that these features need."""
        needed = {_source(view).table for view in self.views} & {*release.tables}
        return replace(release, tables=_restricted(release.tables, needed), ids=_restricted(release.ids, needed))


def load(name: str) -> Service:
    """The service of that name as it is defined now, after applying the definitions to the registry; ServiceError for
    an unknown name.
    """
    registry.apply()
    store = registry.open_store()
    try:
        service = store.get_feature_service(name)
    except FeatureServiceNotFoundException:
        names = sorted(service.name for service in store.list_feature_services())
        near = difflib.get_close_matches(name, names, 1)
        hint = f"Did you mean {near[0]}?" if near else f"There are: {', '.join(names)}"
        raise ServiceError(f"there is no feature service {name}. {hint}") from None
    return _resolved(store, service)


def _resolved(store: FeatureStore, service: FeatureService) -> Service:
    on_demand = {view.name: view for view in store.list_on_demand_feature_views()}
    columns: dict[str, FeatureColumn] = {}
    views: dict[str, FeatureView] = {}
    for projection in service.feature_view_projections:
        view = on_demand.get(projection.name)
        if view is None:
            views[projection.name_to_use()] = store.get_feature_view(projection.name).with_projection(projection)
            read: dict[str, tuple[SourceColumn, ...]] = {
                field.name: _source_columns(views[projection.name_to_use()], field.name)
                for field in projection.features
            }
        else:
            fed = {
                source.name: store.get_feature_view(source.name)
                for source in view.source_feature_view_projections.values()
            }
            views = {**fed, **views}
            sources = tuple(
                column
                for source in view.source_feature_view_projections.values()
                for field in source.features
                for column in _source_columns(fed[source.name], field.name)
            )
            read = {field.name: sources for field in projection.features}
        for field in projection.features:
            columns[field.name] = FeatureColumn(
                f"{projection.name_to_use()}:{field.name}",
                type_mapping.of(field.dtype, field.name).arrow,
                read[field.name],
            )
    used = [
        on_demand[projection.name] for projection in service.feature_view_projections if projection.name in on_demand
    ]
    return Service(
        name=service.name,
        columns=columns,
        views=tuple(views.values()),
        request=tuple(dict.fromkeys(name for view in used for name in view.get_request_data_schema())),
        on_demand=frozenset(
            field.name
            for projection in service.feature_view_projections
            if projection.name in on_demand
            for field in projection.features
        ),
        definitions=_definitions(service.name, [*views.values(), *used]),
    )


def _restricted(values: Mapping[str, Any], tables: set[str]) -> dict[str, Any]:
    return {table: values[table] for table in sorted(tables & {*values})}


def _source(view: FeatureView) -> GoldTable:
    source: GoldTable = view.batch_source
    return source


def _source_columns(view: FeatureView, feature: str) -> tuple[SourceColumn, ...]:
    """The column of a feature, or those that it is computed from."""
    source = _source(view)
    names = declaration.columns_of(view, [feature]) if declaration.is_of_instants(view) else [source.column(feature)]
    return tuple((source.table, name) for name in names or [source.event_column])


def _definitions(service: str, views: list[Any]) -> dict[str, str]:
    """Digests of the definitions in the code: of the service, its views, and their entities."""
    names = {view.name for view in views}
    entities = {name for view in views if isinstance(view, FeatureView) for name in view.entities}
    requested = {
        (FeatureService, service),
        *((Entity, name) for name in entities),
        *((type_, name) for type_ in (FeatureView, OnDemandFeatureView) for name in names),
    }
    labels = {FeatureService: "service", Entity: "entity", FeatureView: "view", OnDemandFeatureView: "view"}
    digests = {
        f"{labels[type(definition)]} {definition.name}": registry.definition_digest(definition)
        for definition in registry.definitions()
        if (type(definition), definition.name) in requested
    }
    return dict(sorted(digests.items()))


def differing(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Names of definitions that were changed, removed or added."""
    return sorted(name for name in {*then, *now} if then.get(name) != now.get(name))

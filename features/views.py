"""Contract -> Feast objects: the entity, source, view and fields that a gold table promises."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from functools import cache
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, OnDemandFeatureView, RequestSource
from feast.types import Float64, UnixTimestamp

from contracts import catalog, project
from contracts.aggregations import entity_columns, served_columns
from contracts.model import Column, Layer, Pii, Table
from contracts.project import Project
from features import type_mapping
from features.instants import declaration
from features.source import GoldTable

REQUEST_TIME = "request_time"

request = RequestSource(
    name="request",
    schema=[Field(name=REQUEST_TIME, dtype=UnixTimestamp)],
    # part of the digests that manifests keep: a changed text would make training sets impossible to rebuild
    description="What only the caller knows: the moment for which features are asked. Online it is now, unless given",
)


DECLARABLE = (FeatureView, OnDemandFeatureView, FeatureService)
"""What a project's `services.py` may declare. Entities come from the keys of its gold tables."""


def declared() -> dict[str, Any]:
    """Every Feast object of the current project by name: entities, views, then the declarations of its
    `services.py`.
    """
    of = project.current()
    return {
        **{name: _entity(of, name) for name in _entities()},
        **{table.name: view(table.name) for table in catalog.tables(Layer.GOLD)},
        **_project_objects(),
    }


def problems() -> Iterator[str]:
    """Problems of the current project's views and services, each with its remedy."""
    try:
        _project_objects()
    except Exception as error:  # whatever the project's module does
        yield f"it cannot be imported: {type(error).__name__}: {error}"
        return
    yield from _collisions()
    objects = declared().values()
    services = [service for service in objects if isinstance(service, FeatureService)]
    served = {projection.name for service in services for projection in service.feature_view_projections}
    for name in sorted({view.name for view in objects if isinstance(view, FeatureView)} - served):
        yield (
            f"no feature service has the view {name}, so no model can ask for it by a name that stays. Add"
            f" views.view({name!r}) to a FeatureService"
        )
    for service in services:
        names = [field.name for projection in service.feature_view_projections for field in projection.features]
        for duplicate in sorted({name for name in names if names.count(name) > 1}):
            yield f"the service {service.name} has two features called {duplicate}. Rename one of them in its contract"


def _collisions() -> Iterator[str]:
    """Feast finds each object by a variable's name in one module, so entities, views and variables of `services.py`
    cannot share names.
    """
    entities, names = set(_entities()), {table.name for table in catalog.tables(Layer.GOLD)}
    others = {name for name, value in _project_objects().items() if not isinstance(value, FeatureView)}
    views = {name: value for name, value in _project_objects().items() if isinstance(value, FeatureView)}
    for name in sorted(name for name, value in views.items() if value.name in names and name != value.name):
        yield (
            f"{name} is a second variable with the view {views[name].name}, which Feast would find twice. Use"
            f" views.view({views[name].name!r}) where it is needed, or name the variable {views[name].name}"
        )
    for duplicate in sorted(entities & names | others & (entities | names)):
        yield (
            f"{duplicate} is the name of two things: an entity (a key), a gold table's view, or a variable of"
            " services.py. Rename one of them"
        )
    for hidden in sorted((entities | names | others) & {"declared", "project", "registry", "views"}):
        yield f"{hidden} is a name that Millrace's Feast repository uses itself. Call it otherwise"


def _entities() -> list[str]:
    """The keys of all gold tables, sorted."""
    return sorted({key for table in catalog.tables(Layer.GOLD) for key in _keys(table)})


def _project_objects() -> dict[str, Any]:
    """The Feast objects that `services.py` declares."""
    module = project.module("services")
    return {name: value for name, value in vars(module).items() if isinstance(value, DECLARABLE)} if module else {}


def view(name: str) -> FeatureView:
    """The view of `gold.<name>`, the same object at each call."""
    return _view(project.current(), name)


@cache
def _view(of: Project, name: str) -> FeatureView:
    table = catalog.table(f"{Layer.GOLD}.{name}")
    return feature_view(table, [_entity(of, key) for key in _keys(table)])


@cache
def _entity(_: Project, name: str) -> Entity:
    """The entity of a key, as the first gold table with that key describes it."""
    return entity(next(table.column(name) for table in catalog.tables(Layer.GOLD) if name in _keys(table)))


def _keys(table: Table) -> list[str]:
    return [column.name for column in entity_columns(table)]


def entity(column: Column) -> Entity:
    """The entity whose join key is a contract's key column, under the same name."""
    return Entity(
        name=column.name,
        join_keys=[column.name],
        value_type=type_mapping.dtype_of(column).to_value_type(),
        description=column.doc,
        tags=_tags(column),
    )


def feature_view(table: Table, entities: Sequence[Entity]) -> FeatureView:
    """The view of a gold table: every column but `event_timestamp` is a field, and a row is valid until the next one
    (no ttl).
    """
    source = GoldTable(
        table=table.qualified, timestamp_field="event_timestamp", description=table.grain, owner=table.owner
    )
    return FeatureView(
        name=table.name,
        entities=list(entities),
        schema=[_field(column) for column in served_columns(table)],
        source=source,
        ttl=timedelta(0),
        online=True,
        description=table.doc,
        owner=table.owner,
        tags={
            "table": table.qualified,
            "freshness_hours": f"{table.freshness.total_seconds() / 3600:g}",
            **declaration.tags(table),
        },
    )


def on_demand_view(
    name: str,
    udf: Callable[[dict[str, list]], dict[str, list]],
    source: FeatureView,
    doc: str,
    requests: Sequence[RequestSource] = (request,),
) -> OnDemandFeatureView:
    """A view with one Float64 feature, named after the function that computes it from `source` and the request:
    `request_time`, or what `requests` declare instead.

    With full feature names, Feast drops a Python-mode result unless the function returns it under both names. Its
    inference rejects a field with a description. The registry gets the function's source text; pickled by Feast's
    decorator, the code would contain this machine's paths.
    """
    return OnDemandFeatureView(
        name=name,
        sources=[source, *requests],
        schema=[Field(name=udf.__name__, dtype=Float64)],
        mode="python",
        udf=udf,
        udf_string=inspect.getsource(udf),
        description=doc,
        owner=source.owner,
    )


def _field(column: Column) -> Field:
    return Field(name=column.name, dtype=type_mapping.dtype_of(column), description=column.doc, tags=_tags(column))


def _tags(column: Column) -> dict[str, str]:
    tags = {"pii": str(column.pii)} if column.pii is not Pii.NONE else {}
    return tags | ({"unit": column.unit} if column.unit else {})

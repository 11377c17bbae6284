"""Contract -> Feast objects: the entity, source, view and fields that a gold table promises. Which ones exist is said in `feast_repo/definitions.py`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from datetime import timedelta

from feast import Entity, FeatureView, Field, OnDemandFeatureView, RequestSource
from feast.types import Float64, UnixTimestamp

from contracts.model import Column, Pii, Table
from features import type_mapping
from features.source import GoldTable

REQUEST_TIME = "request_time"

request = RequestSource(
    name="request",
    schema=[Field(name=REQUEST_TIME, dtype=UnixTimestamp)],
    description="What only the caller knows: the moment for which features are asked. Online it is now, unless given",
)


def entity(column: Column) -> Entity:
    """The entity whose join key is a contract's key column, under the same name."""
    return Entity(
        name=column.name, join_keys=[column.name], value_type=type_mapping.dtype_of(column).to_value_type(), description=column.doc, tags=_tags(column)
    )


def feature_view(table: Table, entities: Sequence[Entity]) -> FeatureView:
    """The view of a gold table: every column but `event_timestamp` is a field, and a row holds until the next one (no ttl)."""
    source = GoldTable(table=table.qualified, timestamp_field="event_timestamp", description=table.grain, owner=table.owner)
    return FeatureView(
        name=table.name,
        entities=list(entities),
        schema=[_field(column) for column in table.columns if column.name != "event_timestamp"],
        source=source,
        ttl=timedelta(0),
        online=True,
        description=table.doc,
        owner=table.owner,
        tags={"table": table.qualified, "freshness_hours": f"{table.freshness.total_seconds() / 3600:g}"},
    )


def on_demand_view(name: str, udf: Callable[[dict[str, list]], dict[str, list]], source: FeatureView, doc: str) -> OnDemandFeatureView:
    """A view with one Float64 feature, named as the function that computes it from `source` and the request.

    Feast drops a Python-mode result when full feature names are asked for, unless the function returns it under both names. Its inference
    refuses a field with a description. The function's text goes to the registry; pickled by decorator, its code would bring along this machine's paths.
    """
    return OnDemandFeatureView(
        name=name,
        sources=[source, request],
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

"""Request plans: an online request is resolved once by Feast, then executed on plain values while Feast's cache is
valid.

Functions return None for what a plan does not cover, which is left to Feast: views without an entity or with mapped
keys, on-demand views that are not functions of Python lists or would see a name twice, entities with other names or
types than their keys, and Feast's metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import NoneType
from typing import Any, Protocol

from feast import FeatureService, FeatureView, OnDemandFeatureView, metrics
from feast.infra.online_stores.online_store import OnlineStore
from feast.type_map import python_values_to_proto_values
from feast.utils import _get_cached_request_context, _parse_feature_ref
from feast.value_type import ValueType

from features import type_mapping
from features.instants import declaration
from features.instants import request as instants_of_request
from features.online.generation import Key, ReadRow
from features.serving.response import TIMESTAMP, Answer, Columns, Events, columns, python
from features.views import REQUEST_TIME

MAX_PLANS = 1024
"""Plans kept at a time, so that callers with ever new features do not fill the memory."""
LONG, TEXT, DOUBLE = "int64_val", "string_val", "double_val"
LOWEST, HIGHEST = -(2**63), 2**63 - 1
SCALARS = frozenset(mapping.proto for mapping in type_mapping.TYPE_MAPPINGS.values())
EntityColumns = dict[str, list[Any]]


class Rows(Protocol):
    """Features of one view in a store."""

    def rows(self, keys: Sequence[Key], times: Sequence[int] | None = None) -> list[ReadRow | None]:
        """For each key, with values in the order of the view's key columns, the event time (microseconds since 1970)
        and the features; None without a row. `times` are the instants that a view of instants is computed at.
        """


Read = Callable[[FeatureView, tuple[str, ...]], Rows]


@dataclass(frozen=True)
class Source:
    """What is read from one view: keys, features, and the features' names in the response and fields of `Value`."""

    view: FeatureView
    keys: tuple[str, ...]
    features: tuple[str, ...]
    names: tuple[str, ...]
    fields: tuple[str, ...]
    is_of_instants: bool = False

    def columns(
        self, entities: Mapping[str, tuple[str, Sequence[Any]]], read: Read, times: Sequence[int] | None
    ) -> Columns:
        """A row for each entity."""
        keys = list(zip(*[entities[name][1] for name in self.keys], strict=True))
        blank = (None,) * (1 + len(self.features))
        reader = read(self.view, self.features)
        rows = reader.rows(keys, times) if self.is_of_instants else _read_rows(reader, keys)
        events, *values = zip(*(row or blank for row in rows), strict=True)
        return Columns(self.names, self.fields, values, events)


@dataclass(frozen=True)
class Computation:
    """An on-demand view to compute: its `outputs` with their declared types.

    Its function sees keys, request data, and the sources at `source_indexes`, with declared inputs under both of their
    names. It does not see `hidden` names, which belong to other views.
    """

    view: OnDemandFeatureView
    outputs: dict[str, ValueType]
    source_indexes: tuple[int, ...]
    hidden: frozenset[str]
    both_names: tuple[tuple[str, str], ...]

    def columns(self, entity_columns: Sequence[Columns], sources: Sequence[Columns], events: Events) -> Columns | None:
        """The outputs that the function returned; None if one has another length or values of several types."""
        parts = [*entity_columns, *(sources[index] for index in self.source_indexes)]
        seen = {name: python(field, values) for part in parts for name, field, values in part}
        seen |= {other: seen[name] for name, other in self.both_names if name in seen}
        results = self.view.feature_transformation.transform(seen)
        returned = {name: _returned(results[name], self.outputs[name]) for name in results if name in self.outputs}
        complete = [(name, *column) for name, column in returned.items() if column and len(column[1]) == len(events)]
        return columns(complete, events) if len(complete) == len(returned) else None


@dataclass(frozen=True)
class Plan:
    """A resolved request, for any entities.

    The response contains the caller's `keys`, but not the `request` data or the `inputs_only` features, which only
    on-demand views read. `needed` are the keys by which views are read, with their fields of `Value`.
    """

    sources: tuple[Source, ...]
    computations: tuple[Computation, ...]
    keys: dict[str, ValueType]
    needed: dict[str, str]
    request: frozenset[str]
    refused: frozenset[str]
    inputs_only: frozenset[str]
    types: dict[str, ValueType]

    def answer(self, entities: EntityColumns, read: Read) -> Answer | None:
        """Feast's response; None where only Feast can answer or report the error."""
        columns_of = self._entity_columns(entities)
        if columns_of is None:
            return None
        count = len(next(iter(columns_of.values()))[1])
        is_timed = any(source.is_of_instants for source in self.sources)
        times = instants_of_request.times(entities, count) if is_timed else None
        read_columns = [source.columns(columns_of, read, times) for source in self.sources]
        events = (0,) * count
        keys, request = (
            columns([(name, *column) for name, column in columns_of.items() if name in names], events)
            for names in (self.keys, self.request)
        )
        results = [computation.columns((keys, request), read_columns, events) for computation in self.computations]
        complete = [part for part in results if part]
        if len(complete) < len(results):
            return None
        return Answer(
            [
                keys,
                *(
                    part if self.inputs_only.isdisjoint(part.names) else part.without(self.inputs_only)
                    for part in read_columns
                ),
                *complete,
            ],
            self.types,
        )

    def _entity_columns(self, entities: EntityColumns) -> dict[str, tuple[str, Sequence[Any]]] | None:
        """Column -> field of `Value` and values, for all of the caller's columns; Feast checks all of them too."""
        count = len(next(iter(entities.values()), []))
        if REQUEST_TIME in self.request and REQUEST_TIME not in entities:
            entities = {**entities, REQUEST_TIME: [datetime.now(UTC)] * count}
        if not count or not self.request <= entities.keys() or not self.refused.isdisjoint(entities):
            return None
        columns_of = {}
        for name, values in entities.items():
            if len(values) != count:
                return None
            column = _plain_column(values, self.keys.get(name, ValueType.UNKNOWN)) or self._converted_by_feast(
                name, values
            )
            if column is None:
                return None
            columns_of[name] = column
        return (
            columns_of
            if all(name in columns_of and columns_of[name][0] == field for name, field in self.needed.items())
            else None
        )

    def _converted_by_feast(self, name: str, values: list[Any]) -> tuple[str, Sequence[Any]] | None:
        """Unusual values as Feast converts them; KeyTypeError for a key of the wrong type."""
        if name in self.keys:
            view = next((source.view.name for source in self.sources if name in source.keys), "none")
            type_mapping.ensure_key(values, self.keys[name], name, view)
        field, plain = _converted(values, self.keys.get(name, ValueType.UNKNOWN)) or ("", [None])
        return None if None in plain else (field, plain)


class Plans:
    """The plans of a store, cached like Feast's own resolution until the registry is read again."""

    def __init__(self) -> None:
        self._kept: tuple[Any, dict[Any, Plan | None]] = (None, {})

    def answer(
        self, features: Any, rows: Any, registry: Any, project: str, full_names: bool, read: Read
    ) -> Answer | None:
        """The response to `get_online_features`, or None where it is left to Feast."""
        if metrics._config.online_features or getattr(features, "precompute_online", False):
            return None
        plan, entities = self._plan(features, registry, project, full_names), _by_column(rows)
        return None if plan is None or entities is None else plan.answer(entities, read)

    def _plan(self, features: Any, registry: Any, project: str, full_names: bool) -> Plan | None:
        key = (features.name if isinstance(features, FeatureService) else tuple(features), project, full_names)
        made_at = getattr(registry, "cached_registry_proto_created", None)
        kept_at, plans = self._kept
        if made_at is None or not registry.is_cache_valid():
            return resolve(features, registry, project, full_names)
        if kept_at != made_at:
            plans = {}
            self._kept = (made_at, plans)
        if key not in plans:
            plan = resolve(features, registry, project, full_names)
            if registry.cached_registry_proto_created != made_at:  # another thread read the registry again meanwhile
                return plan
            if len(plans) >= MAX_PLANS:
                plans.clear()
            plans[key] = plan
            return plan
        return plans[key]


def resolve(features: Any, registry: Any, project: str, full_names: bool) -> Plan | None:
    """The plan of a request, or None where it is left to Feast; errors are Feast's."""
    refs, on_demand, join_key_of, key_types, join_keys, grouped, requested, request, entityless = (
        _get_cached_request_context(registry, project, features, full_names)
    )
    if entityless or not all(_is_plain(view, names) for view, names in grouped) or not all(map(_is_python, on_demand)):
        return None
    sources = tuple(_source(view, tuple(names), full_names) for view, names in grouped)
    computations = tuple(_computed(view, sources, on_demand, refs, full_names) for view in on_demand)
    all_names = [name for source in sources for name in source.names] + [
        name for computation in computations for name in computation.outputs
    ]
    needed = {
        key.name: type_mapping.TYPE_MAPPINGS[key.dtype].proto for view, _ in grouped for key in view.entity_columns
    }
    inputs = {name for name in join_keys | request if isinstance(name, str)}  # Feast has an Entity among them
    visible = [
        inputs.union(*(sources[index].names for index in computation.source_indexes)) for computation in computations
    ]
    if not all(computation.hidden.isdisjoint(names) for computation, names in zip(computations, visible, strict=True)):
        return None
    return Plan(
        sources=sources,
        computations=computations,
        keys={name: key_types.get(name, ValueType.UNKNOWN) for name in inputs - request},
        needed=needed,
        request=frozenset(request),
        refused=frozenset(join_key_of.keys() - join_keys),
        inputs_only=frozenset(all_names) - requested,
        types=OnlineStore._build_feature_types(grouped),
    )


def ensure_keys(features: Any, rows: Any, registry: Any, project: str, full_names: bool) -> None:
    """Raise KeyTypeError where a request that is left to Feast has a key of the wrong type; Feast reports all other
    errors.
    """
    try:
        context = _get_cached_request_context(registry, project, features, full_names)
    except Exception:
        return
    join_key_of, types, grouped = context[2], context[3], context[5]
    readers = {
        view.projection.join_key_map.get(key.name, key.name): view.projection.name_to_use()
        for view, _ in reversed(grouped)
        for key in view.entity_columns
    }
    for name, values in _columns_of(rows):
        key = name if name in types else join_key_of.get(name)
        if key in types:
            type_mapping.ensure_key(values, types[key], name, readers.get(key, "none"))


def _columns_of(rows: Any) -> Iterator[tuple[str, Iterable[Any]]]:
    """The columns of entities in any form that Feast accepts."""
    if isinstance(rows, Mapping):
        for name, values in rows.items():
            yield name, values if isinstance(values, Sequence) else getattr(values, "val", [])
    elif isinstance(rows, list):
        for row in (row for row in rows if isinstance(row, Mapping)):
            yield from ((name, [value]) for name, value in row.items())


def _is_plain(view: Any, features: Sequence[str]) -> bool:
    """Whether a view is read by its own keys and has these features."""
    if not isinstance(view, FeatureView) or view.projection.join_key_map or view.projection.version_tag is not None:
        return False
    dtypes = {field.name: field.dtype for field in view.features}
    return dtypes.keys() >= set(features) and all(
        dtype in type_mapping.TYPE_MAPPINGS for dtype in [*dtypes.values(), *(key.dtype for key in view.entity_columns)]
    )


def _is_python(view: OnDemandFeatureView) -> bool:
    """Whether a view is computed from lists at each request."""
    return view.mode == "python" and not view.singleton and not view.aggregations


def _source(view: FeatureView, features: tuple[str, ...], full_names: bool) -> Source:
    fields = {field.name: type_mapping.TYPE_MAPPINGS[field.dtype].proto for field in view.features}
    prefix = f"{view.projection.name_to_use()}__" if full_names else ""
    return Source(
        view,
        tuple(key.name for key in view.entity_columns),
        features,
        tuple(prefix + name for name in features),
        tuple(fields[name] for name in features),
        declaration.is_of_instants(view),
    )


def _computed(
    view: OnDemandFeatureView,
    sources: Sequence[Source],
    on_demand: Sequence[OnDemandFeatureView],
    refs: Sequence[str],
    full_names: bool,
) -> Computation:
    """The computation of a view by Feast's rules: it does not see features of views that it does not declare."""
    parsed = [(name, feature) for name, _, feature in map(_parse_feature_ref, refs)]
    on_demand_names, declared = (
        {_projected_name(other) for other in on_demand},
        list(view.source_feature_view_projections.values()),
    )
    others = [(name, feature) for name, feature in parsed if name not in on_demand_names]
    others += [
        (source.name, field.name)
        for other in on_demand
        for source in other.source_feature_view_projections.values()
        for field in source.features
    ]
    hidden = frozenset(
        hidden
        for name, feature in others
        if name not in {source.name for source in declared}
        for hidden in (feature, f"{name}__{feature}")
    )
    both = [(f"{source.name}__{field.name}", field.name) for source in declared for field in source.features]
    prefix = f"{view.projection.name_to_use()}__" if full_names else ""
    types = {field.name: field.dtype.to_value_type() for field in view.schema}
    return Computation(
        view=view,
        outputs={
            prefix + feature: types.get(prefix + feature, ValueType.UNKNOWN)
            for name, feature in parsed
            if name == _projected_name(view)
        },
        source_indexes=tuple(index for index, source in enumerate(sources) if not hidden.issuperset(source.names)),
        hidden=hidden,
        both_names=tuple(both if full_names else [(name, full) for full, name in both]),
    )


def _projected_name(view: OnDemandFeatureView) -> str:
    return str((view.projection.name_alias if view.projection else None) or view.name)


def _by_column(rows: Any) -> EntityColumns | None:
    """The entities by column, in new lists; None where Feast must convert or refuse them."""
    if not isinstance(rows, list):
        return (
            {name: list(values) for name, values in rows.items()}
            if all(type(values) in (list, tuple) for values in rows.values())
            else None
        )
    if not rows or any(row.keys() != rows[0].keys() for row in rows):
        return None
    return {name: [row[name] for row in rows] for name in rows[0]}


def _read_rows(rows_of: Rows, keys: list[Key]) -> list[ReadRow | None]:
    """The row of each key; duplicate keys are read once."""
    distinct = dict.fromkeys(keys)
    if len(distinct) == len(keys):
        return rows_of.rows(keys)
    rows = dict(zip(distinct, rows_of.rows(list(distinct)), strict=True))
    return [rows[key] for key in keys]


def _plain_column(values: list[Any], value_type: ValueType) -> tuple[str, Sequence[Any]] | None:
    """The field of `Value` and the values, as Feast converts them, of a column of a usual type; None for anything
    else.
    """
    types = set(map(type, values))
    if (
        types == {int}
        and value_type in (ValueType.INT64, ValueType.UNKNOWN)
        and min(values) >= LOWEST
        and max(values) <= HIGHEST
    ):
        return LONG, values
    if types == {str} and value_type in (ValueType.STRING, ValueType.UNKNOWN) and all(map(str.isascii, values)):
        return TEXT, values
    if types == {datetime} and value_type in (ValueType.UNIX_TIMESTAMP, ValueType.UNKNOWN):
        return TIMESTAMP, [_seconds(values[0])] * len(values) if values.count(values[0]) == len(values) else list(
            map(_seconds, values)
        )
    return None


def _returned(values: Any, value_type: ValueType) -> tuple[str, Sequence[Any]] | None:
    """The same for a column that an on-demand view returned, which may have missing values; Feast reads NaN as
    missing.
    """
    if (
        type(values) is list
        and value_type in (ValueType.DOUBLE, ValueType.UNKNOWN)
        and {float, NoneType}.issuperset(map(type, values))
    ):
        return DOUBLE, [value if value == value else None for value in values]
    return _converted(values if isinstance(values, list) else [values], value_type)


def _converted(values: list[Any], value_type: ValueType) -> tuple[str, list[Any]] | None:
    """The same, converted by Feast; None unless all present values have one scalar type."""
    protos = python_values_to_proto_values(values, value_type)
    fields = [proto.WhichOneof("val") for proto in protos]
    used_fields = set(fields) - {None}
    if len(used_fields) > 1 or not used_fields <= SCALARS:
        return None
    return "".join(used_fields) or DOUBLE, [
        getattr(proto, field) if field else None for proto, field in zip(protos, fields, strict=True)
    ]


def _seconds(moment: datetime) -> int:
    return int((moment if moment.utcoffset() is not None else moment.replace(tzinfo=UTC)).timestamp())

"""How an online request is answered: resolved once by Feast, then carried out on plain values for as long as Feast
itself keeps what it resolved.

What a plan does not cover is None here, and goes Feast's own way: views without an entity or under other keys,
on-demand views that are not functions of Python lists or would see a name twice, entities that are not given by their
keys' names and types, and Feast's metrics.
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
from features.online.generation import Found, Key
from features.serving.response import MOMENT, Answer, Columns, Events, columns, python
from features.views import REQUEST_TIME

MOST_PLANS = 1024
"""Kept at a time: callers who ask for other features each time fill no memory."""
LONG, TEXT, DOUBLE = "int64_val", "string_val", "double_val"
LOWEST, HIGHEST = -(2**63), 2**63 - 1
SCALARS = frozenset(kind.proto for kind in type_mapping.KINDS.values())
Given = dict[str, list[Any]]


class Rows(Protocol):
    """Features of one view in a store."""

    def rows(self, keys: Sequence[Key]) -> list[Found | None]:
        """For each key, whose values are in the order of the view's key columns, the event time in microseconds since
        1970 and the features; or None.
        """


Read = Callable[[FeatureView, tuple[str, ...]], Rows]


@dataclass(frozen=True)
class Source:
    """What is read of one view: by which keys, which features, and their names in the answer and fields of `Value`."""

    view: FeatureView
    keys: tuple[str, ...]
    features: tuple[str, ...]
    names: tuple[str, ...]
    fields: tuple[str, ...]

    def columns(self, given: Mapping[str, tuple[str, Sequence[Any]]], read: Read) -> Columns:
        """A row for each entity."""
        keys = list(zip(*[given[name][1] for name in self.keys], strict=True))
        blank = (None,) * (1 + len(self.features))
        events, *values = zip(*(row or blank for row in _each(read(self.view, self.features), keys)), strict=True)
        return Columns(self.names, self.fields, values, events)


@dataclass(frozen=True)
class Computed:
    """What an on-demand view computes: `wanted` names, with the types that were promised.

    Its function sees keys, the request, and the sources at `places`, with what it declares by both its names. It does
    not see `hidden` names, those of other views.
    """

    view: OnDemandFeatureView
    wanted: dict[str, ValueType]
    places: tuple[int, ...]
    hidden: frozenset[str]
    both_names: tuple[tuple[str, str], ...]

    def columns(self, given: Sequence[Columns], sources: Sequence[Columns], events: Events) -> Columns | None:
        """The wanted ones that its function returned; None if one has other rows, or values of several types."""
        parts = [*given, *(sources[place] for place in self.places)]
        seen = {name: python(field, values) for part in parts for name, field, values in part}
        seen |= {other: seen[name] for name, other in self.both_names if name in seen}
        told = self.view.feature_transformation.transform(seen)
        found = {name: _returned(told[name], self.wanted[name]) for name in told if name in self.wanted}
        whole = [(name, *one) for name, one in found.items() if one and len(one[1]) == len(events)]
        return columns(whole, events) if len(whole) == len(found) else None


@dataclass(frozen=True)
class Plan:
    """A resolved request, for whichever entities.

    The `keys` that the caller gives are in the answer. What is for the `request` is not, nor are `unwanted` features,
    which were read for on-demand views. `needed` are the keys by which views are read, with their fields of `Value`.
    """

    sources: tuple[Source, ...]
    computed: tuple[Computed, ...]
    keys: dict[str, ValueType]
    needed: dict[str, str]
    request: frozenset[str]
    refused: frozenset[str]
    unwanted: frozenset[str]
    types: dict[str, ValueType]

    def answer(self, given: Given, read: Read) -> Answer | None:
        """What Feast would answer, or None where only Feast can, or can say what is wrong."""
        known = self._known(given)
        if known is None:
            return None
        found = [source.columns(known, read) for source in self.sources]
        events = (0,) * len(next(iter(known.values()))[1])
        keys, request = (
            columns([(name, *one) for name, one in known.items() if name in kind], events)
            for kind in (self.keys, self.request)
        )
        computed = [one.columns((keys, request), found, events) for one in self.computed]
        told = [part for part in computed if part]
        if len(told) < len(computed):
            return None
        return Answer(
            [
                keys,
                *(part if self.unwanted.isdisjoint(part.names) else part.without(self.unwanted) for part in found),
                *told,
            ],
            self.types,
        )

    def _known(self, given: Given) -> dict[str, tuple[str, Sequence[Any]]] | None:
        """The field and the values of each column that was given; all of them are looked at, as Feast does."""
        count = len(next(iter(given.values()), []))
        if REQUEST_TIME in self.request and REQUEST_TIME not in given:
            given = {**given, REQUEST_TIME: [datetime.now(UTC)] * count}
        if not count or not self.request <= given.keys() or not self.refused.isdisjoint(given):
            return None
        known = {}
        for name, values in given.items():
            if len(values) != count:
                return None
            column = _plain(values, self.keys.get(name, ValueType.UNKNOWN)) or self._as_feast(name, values)
            if column is None:
                return None
            known[name] = column
        return known if all(name in known and known[name][0] == field for name, field in self.needed.items()) else None

    def _as_feast(self, name: str, values: list[Any]) -> tuple[str, Sequence[Any]] | None:
        """What Feast makes of other values than the usual ones; KeyTypeError for a key that is not of its own type."""
        if name in self.keys:
            view = next((source.view.name for source in self.sources if name in source.keys), "none")
            type_mapping.ensure_key(values, self.keys[name], name, view)
        field, plain = _converted(values, self.keys.get(name, ValueType.UNKNOWN)) or ("", [None])
        return None if None in plain else (field, plain)


class Plans:
    """The plans of a store, each kept for as long as Feast would keep what it resolved: until the registry is read
    anew.
    """

    def __init__(self) -> None:
        self._kept: tuple[Any, dict[Any, Plan | None]] = (None, {})

    def answer(
        self, features: Any, rows: Any, registry: Any, project: str, full_names: bool, read: Read
    ) -> Answer | None:
        """The answer to `get_online_features`, or None where it is left to Feast."""
        if metrics._config.online_features or getattr(features, "precompute_online", False):
            return None
        plan, given = self._plan(features, registry, project, full_names), _by_column(rows)
        return None if plan is None or given is None else plan.answer(given, read)

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
            if registry.cached_registry_proto_created != made_at:  # another thread has read it anew meanwhile
                return plan
            if len(plans) >= MOST_PLANS:
                plans.clear()
            plans[key] = plan
            return plan
        return plans[key]


def resolve(features: Any, registry: Any, project: str, full_names: bool) -> Plan | None:
    """The plan of a request, or None where it does not get one; errors are Feast's."""
    refs, on_demand, join_key_of, key_types, join_keys, grouped, wanted, request, entityless = (
        _get_cached_request_context(registry, project, features, full_names)
    )
    if entityless or not all(_is_plain(view, names) for view, names in grouped) or not all(map(_is_python, on_demand)):
        return None
    sources = tuple(_source(view, tuple(names), full_names) for view, names in grouped)
    computed = tuple(_computed(view, sources, on_demand, refs, full_names) for view in on_demand)
    named = [name for source in sources for name in source.names] + [name for one in computed for name in one.wanted]
    needed = {key.name: type_mapping.KINDS[key.dtype].proto for view, _ in grouped for key in view.entity_columns}
    given = {name for name in join_keys | request if isinstance(name, str)}  # Feast has an Entity among them
    visible = [given.union(*(sources[place].names for place in one.places)) for one in computed]
    if not all(one.hidden.isdisjoint(names) for one, names in zip(computed, visible, strict=True)):
        return None
    return Plan(
        sources=sources,
        computed=computed,
        keys={name: key_types.get(name, ValueType.UNKNOWN) for name in given - request},
        needed=needed,
        request=frozenset(request),
        refused=frozenset(join_key_of.keys() - join_keys),
        unwanted=frozenset(named) - wanted,
        types=OnlineStore._build_feature_types(grouped),
    )


def ensure_keys(features: Any, rows: Any, registry: Any, project: str, full_names: bool) -> None:
    """KeyTypeError where a request that is left to Feast has a key that is not of its own type.

    What else is wrong with a request, Feast says.
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
    """The columns of entities in any of the forms that Feast takes, as far as they have one."""
    if isinstance(rows, Mapping):
        for name, values in rows.items():
            yield name, values if isinstance(values, Sequence) else getattr(values, "val", [])
    elif isinstance(rows, list):
        for row in (row for row in rows if isinstance(row, Mapping)):
            yield from ((name, [value]) for name, value in row.items())


def _is_plain(view: Any, features: Sequence[str]) -> bool:
    """A view that is read by its own keys, and has these features."""
    if not isinstance(view, FeatureView) or view.projection.join_key_map or view.projection.version_tag is not None:
        return False
    dtypes = {field.name: field.dtype for field in view.features}
    return dtypes.keys() >= set(features) and all(
        dtype in type_mapping.KINDS for dtype in [*dtypes.values(), *(key.dtype for key in view.entity_columns)]
    )


def _is_python(view: OnDemandFeatureView) -> bool:
    """A view that is computed at each request, from lists."""
    return view.mode == "python" and not view.singleton and not view.aggregations


def _source(view: FeatureView, features: tuple[str, ...], full_names: bool) -> Source:
    fields = {field.name: type_mapping.KINDS[field.dtype].proto for field in view.features}
    prefix = f"{view.projection.name_to_use()}__" if full_names else ""
    return Source(
        view,
        tuple(key.name for key in view.entity_columns),
        features,
        tuple(prefix + name for name in features),
        tuple(fields[name] for name in features),
    )


def _computed(
    view: OnDemandFeatureView,
    sources: Sequence[Source],
    on_demand: Sequence[OnDemandFeatureView],
    refs: Sequence[str],
    full_names: bool,
) -> Computed:
    """By Feast's rules: the function does not see features of views that it does not declare."""
    parsed = [(name, feature) for name, _, feature in map(_parse_feature_ref, refs)]
    computed, declared = {_called(one) for one in on_demand}, list(view.source_feature_view_projections.values())
    others = [(name, feature) for name, feature in parsed if name not in computed]
    others += [
        (source.name, field.name)
        for one in on_demand
        for source in one.source_feature_view_projections.values()
        for field in source.features
    ]
    hidden = frozenset(
        hidden
        for name, feature in others
        if name not in {one.name for one in declared}
        for hidden in (feature, f"{name}__{feature}")
    )
    both = [(f"{source.name}__{field.name}", field.name) for source in declared for field in source.features]
    prefix = f"{view.projection.name_to_use()}__" if full_names else ""
    types = {field.name: field.dtype.to_value_type() for field in view.schema}
    return Computed(
        view=view,
        wanted={
            prefix + feature: types.get(prefix + feature, ValueType.UNKNOWN)
            for name, feature in parsed
            if name == _called(view)
        },
        places=tuple(place for place, source in enumerate(sources) if not hidden.issuperset(source.names)),
        hidden=hidden,
        both_names=tuple(both if full_names else [(name, full) for full, name in both]),
    )


def _called(view: OnDemandFeatureView) -> str:
    return str((view.projection.name_alias if view.projection else None) or view.name)


def _by_column(rows: Any) -> Given | None:
    """The entities by column, in lists of our own; None where that is for Feast to do or to refuse."""
    if not isinstance(rows, list):
        return (
            {name: list(values) for name, values in rows.items()}
            if all(type(values) in (list, tuple) for values in rows.values())
            else None
        )
    if not rows or any(row.keys() != rows[0].keys() for row in rows):
        return None
    return {name: [row[name] for row in rows] for name in rows[0]}


def _each(found: Rows, keys: list[Key]) -> list[Found | None]:
    """The row of each key; a key that is asked twice is read once."""
    distinct = dict.fromkeys(keys)
    if len(distinct) == len(keys):
        return found.rows(keys)
    rows = dict(zip(distinct, found.rows(list(distinct)), strict=True))
    return [rows[key] for key in keys]


def _plain(values: list[Any], wanted: ValueType) -> tuple[str, Sequence[Any]] | None:
    """The field of `Value` and the values that Feast makes of what callers usually give; None for anything else."""
    types = set(map(type, values))
    if (
        types == {int}
        and wanted in (ValueType.INT64, ValueType.UNKNOWN)
        and min(values) >= LOWEST
        and max(values) <= HIGHEST
    ):
        return LONG, values
    if types == {str} and wanted in (ValueType.STRING, ValueType.UNKNOWN) and all(map(str.isascii, values)):
        return TEXT, values
    if types == {datetime} and wanted in (ValueType.UNIX_TIMESTAMP, ValueType.UNKNOWN):
        return MOMENT, [_seconds(values[0])] * len(values) if values.count(values[0]) == len(values) else list(
            map(_seconds, values)
        )
    return None


def _returned(values: Any, wanted: ValueType) -> tuple[str, Sequence[Any]] | None:
    """The same of what an on-demand view returned, in which values may be missing. Feast takes NaN for missing."""
    if (
        type(values) is list
        and wanted in (ValueType.DOUBLE, ValueType.UNKNOWN)
        and {float, NoneType}.issuperset(map(type, values))
    ):
        return DOUBLE, [value if value == value else None for value in values]
    return _converted(values if isinstance(values, list) else [values], wanted)


def _converted(values: list[Any], wanted: ValueType) -> tuple[str, list[Any]] | None:
    """By Feast itself; None unless all that is not missing is of one scalar type."""
    protos = python_values_to_proto_values(values, wanted)
    fields = [proto.WhichOneof("val") for proto in protos]
    known = set(fields) - {None}
    if len(known) > 1 or not known <= SCALARS:
        return None
    return "".join(known) or DOUBLE, [
        getattr(proto, field) if field else None for proto, field in zip(protos, fields, strict=True)
    ]


def _seconds(moment: datetime) -> int:
    return int((moment if moment.utcoffset() is not None else moment.replace(tzinfo=UTC)).timestamp())

"""Requests for online features: parsed from JSON, resolved with the registry, checked against the views' keys.

Client errors are found here, before the store is read; messages say what to send instead.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from difflib import get_close_matches
from typing import Any

from feast import FeatureService, FeatureStore, utils
from feast.errors import FeatureServiceNotFoundException
from feast.feature_view import DUMMY_ENTITY_ID
from feast.value_type import ValueType

from features.instants import declaration
from features.serving.errors import EntityError, FieldError, MalformedRequestError, NameNotFoundError, TooLargeError
from features.serving.options import MOST_ENTITIES, MOST_FEATURES
from features.views import REQUEST_TIME

EXAMPLE = '"some_view:some_feature"'
FIELDS = ("entities", "features", "feature_service", "full_feature_names", "include_feature_view_version_metadata")
MAX_RESOLVED = 512
"""Resolved requests kept at a time, so that a client with ever new features does not fill the memory."""
INTEGERS = {ValueType.INT64: 63, ValueType.INT32: 31}
EXPECTED = {
    ValueType.INT64: "whole numbers from -2^63 to 2^63 - 1",
    ValueType.INT32: "whole numbers from -2^31 to 2^31 - 1",
    ValueType.STRING: "texts",
    ValueType.BYTES: "texts",
    ValueType.BOOL: "true or false",
    ValueType.DOUBLE: "numbers",
    ValueType.FLOAT: "numbers",
    ValueType.UNIX_TIMESTAMP: 'ISO 8601 texts such as "2017-02-01T06:00:00+00:00", or whole seconds since 1970',
}
PLAIN = {ValueType.INT64: int, ValueType.STRING: str}
"""Key types whose columns are checked in one pass; the store finds values out of range."""


@dataclass(slots=True)
class FeatureRequest:
    """The body of a request. Exactly one of `service` and `features` says what to read; `entities` are columns."""

    entities: dict[str, Any]
    service: str | None
    features: tuple[str, ...]
    full_names: bool
    versions: bool


def parse(body: bytes) -> FeatureRequest:
    """The request in a body; MalformedRequestError, FieldError or TooLargeError for an invalid one."""
    try:
        fields = json.loads(body)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        expected = f"Expected an object with {_joined_names(FIELDS[:3])}."
        raise MalformedRequestError(f"The body is not JSON: {reason}. {expected}") from None
    if not isinstance(fields, dict):
        raise FieldError(
            f"The body must be a JSON object. Got: {_describe(fields)}. Fields are {_joined_names(FIELDS)}."
        )
    if not fields.keys() <= _KNOWN:
        unknown = min(fields.keys() - _KNOWN)
        hint = f"{_similar(unknown, FIELDS)} Fields are {_joined_names(FIELDS)}."
        raise FieldError(f"The body has a field {_quote(unknown)}, which is unknown.{hint}")
    service, features = fields.get("feature_service"), fields.get("features")
    full_names, versions = (
        fields.get("full_feature_names", False),
        fields.get("include_feature_view_version_metadata", False),
    )
    if service is not None and type(service) is not str:
        raise FieldError(f"feature_service must be the name of a feature service. Got: {_describe(service)}.")
    if features is not None and (type(features) is not list or not all(type(name) is str for name in features)):
        raise FieldError(f"features must be a list of texts such as {EXAMPLE}. Got: {_describe(features)}.")
    for name, value in (("full_feature_names", full_names), ("include_feature_view_version_metadata", versions)):
        if value is not True and value is not False:
            raise FieldError(f"{name} must be true or false. Got: {_describe(value)}.")
    if not service and not features:
        raise FieldError(f"The body must name what to read: a feature_service, or features such as [{EXAMPLE}].")
    if features and len(features) > MOST_FEATURES:
        most = f"A request may name {MOST_FEATURES:,} features. Got: {len(features):,}."
        raise TooLargeError(f"{most} Use a feature service, or several requests.")
    entities = fields.get("entities")
    if type(entities) is not dict:
        got = _describe(entities) if "entities" in fields else "nothing"
        raise FieldError(f'entities must be an object of columns, such as {{"customer_id": [1, 2]}}. Got: {got}.')
    return FeatureRequest(entities, service or None, () if service else tuple(features or ()), full_names, versions)


@dataclass(frozen=True)
class Column:
    """A column of entities: its name, its type, and a phrase that says what reads it."""

    name: str
    type: ValueType
    reader: str


class ResolvedRequest:
    """What a request reads, for any entities."""

    def __init__(self, features: FeatureService | list[str], keys: Sequence[Column], inputs: Sequence[Column]) -> None:
        self.features = features
        self.service = features.name if isinstance(features, FeatureService) else ""
        self._columns = {column.name: column for column in (*keys, *inputs)}
        self._required = [column for column in self._columns.values() if column.name != REQUEST_TIME]
        self._plain = [(column.name, PLAIN[column.type]) for column in keys if column.type in PLAIN]
        self._is_plain = 0 < len(self._plain) == len(keys)
        self._timed = REQUEST_TIME in self._columns

    def fits(self, entities: Mapping[str, Any]) -> bool:
        """True if the entities are certainly valid except for the range of values: the usual case, checked in a
        microsecond.
        """
        lengths = set()
        for name, type_ in self._plain:
            values = entities.get(name)
            if type(values) is not list or set(map(type, values)) != {type_}:
                return False
            lengths.add(len(values))
        if len(entities) > len(self._plain):  # the only other column that is usual
            moments = entities.get(REQUEST_TIME) if self._timed else None
            if len(entities) > len(self._plain) + 1 or type(moments) is not list or set(map(type, moments)) != {str}:
                return False
            lengths.add(len(moments))
        return self._is_plain and len(lengths) == 1 and max(lengths) <= MOST_ENTITIES

    def checked(self, entities: Mapping[str, Any]) -> dict[str, list[Any]]:
        """The entities if they are valid; EntityError or TooLargeError says which column is not, and why."""
        for column in self._required:
            if column.name not in entities:
                got = _joined_names(sorted(entities)) or "none"
                similar = _similar(column.name, entities, "Is that")
                remedy = f"Add a list of {EXPECTED.get(column.type, 'values')}, one for each entity."
                missing = f"{_quote(column.name)}, {column.reader}"
                raise EntityError(f"entities lack {missing}. Got: {got}.{similar} {remedy}")
        for name, values in entities.items():
            if type(values) is not list:
                expected = "must be a list, with a value for each entity"
                raise EntityError(f"entities: {_quote(name)} {expected}. Got: {_describe(values)}.")
        lengths = {name: len(values) for name, values in entities.items()}
        if len(set(lengths.values())) > 1:
            lengths_text = ", ".join(f"{_shorten(name)} {length}" for name, length in list(lengths.items())[:10])
            expected = "Expected a value for each entity in each column."
            raise EntityError(f"entities have columns of several lengths: {lengths_text}. {expected}")
        count = max(lengths.values(), default=0)
        if not count:
            raise EntityError('entities are empty. Expected at least one entity, as in {"customer_id": [1]}.')
        if count > MOST_ENTITIES:
            raise TooLargeError(f"A request may have {MOST_ENTITIES:,} entities. Got: {count:,}. Use several requests.")
        for name, values in entities.items():
            _ensure_typed(
                self._columns.get(name) or Column(name, _type_of(values[0]), "which is in the answer as it came"),
                values,
            )
        return dict(entities)


class Resolver:
    """Resolves requests by Feast's rules and caches them until the registry is read again."""

    def __init__(self, store: FeatureStore) -> None:
        self._store = store
        self._kept: tuple[Any, dict[Any, ResolvedRequest]] = (None, {})

    def resolve(self, request: FeatureRequest) -> ResolvedRequest:
        """What the request reads; NameNotFoundError or FieldError for unknown names, with similar ones."""
        read_at = getattr(self._store.registry, "cached_registry_proto_created", None)
        kept_at, resolved = self._kept
        if read_at is None or kept_at != read_at or len(resolved) >= MAX_RESOLVED:
            if kept_at == read_at:
                utils._feature_resolution_cache.clear()  # Feast's own, which has no limit either
            resolved = {}
            self._kept = (read_at, resolved)
        key = (request.service or request.features, request.full_names)
        if key not in resolved:
            resolved[key] = self._resolve(request)
        return resolved[key]

    def _resolve(self, request: FeatureRequest) -> ResolvedRequest:
        features = self._service(request.service) if request.service else list(request.features)
        try:
            store = self._store
            context = utils._get_cached_request_context(store.registry, store.project, features, request.full_names)
        except Exception as error:
            self._ensure_known(request.features, request.full_names)
            if isinstance(error, ValueError):  # for a disabled view, which a service may contain
                raise FieldError(f"{error}") from error
            raise
        on_demand, grouped, inputs = context[1], context[5], context[7]
        keys = {}
        for view, _ in grouped:
            renamed = view.projection.join_key_map
            for column in view.entity_columns:
                name = renamed.get(column.name, column.name)
                if column.name != DUMMY_ENTITY_ID and name not in keys:
                    reader = f"a key of the view {view.projection.name_to_use()}"
                    keys[name] = Column(name, column.dtype.to_value_type(), reader)
        columns = {column.name: column for column in _inputs(on_demand, inputs)}
        for view, _ in grouped:
            if declaration.is_of_instants(view) and REQUEST_TIME not in columns:
                reader = f"the instant of the view {view.projection.name_to_use()}"
                columns[REQUEST_TIME] = Column(REQUEST_TIME, ValueType.UNIX_TIMESTAMP, reader)
        return ResolvedRequest(features, list(keys.values()), list(columns.values()))

    def _service(self, name: str) -> FeatureService:
        try:
            return self._store.get_feature_service(name, allow_cache=True)
        except FeatureServiceNotFoundException:
            services = self._store.registry.list_feature_services(self._store.project, allow_cache=True)
            names = sorted(service.name for service in services)
            remedy = f"{_similar(name, names)} Services are {_joined_names(names) or 'none'}."
            raise NameNotFoundError(f"There is no feature service {_quote(name)}.{remedy}") from None

    def _ensure_known(self, features: Iterable[str], full_names: bool) -> None:
        """Raise for misspelled, unknown or duplicate features."""
        store = self._store
        views: dict[str, list[str]] = {}
        for view in store.registry.list_all_feature_views(store.project, allow_cache=True):
            views[view.name] = [field.name for field in view.features]
        taken: dict[str, str] = {}
        for ref in features:
            view_ref, colon, feature = ref.partition(":")
            name = view_ref.partition("@")[0]
            if not colon or not name or not feature:
                raise FieldError(f'features: {_quote(ref)} is not of the form "view:feature", such as {EXAMPLE}.')
            if name not in views:
                remedy = f"{_similar(name, views)} Views are {_joined_names(sorted(views))}."
                raise NameNotFoundError(f"There is no feature view {_quote(name)}.{remedy}")
            if "@" in view_ref:
                remedy = f"Write {_quote(f'{name}:{feature}')}."
                raise FieldError(f"features: {_quote(ref)} names a version, and versions are not served. {remedy}")
            if feature not in views[name]:
                remedy = f"{_similar(feature, views[name])} It has {_joined_names(views[name])}."
                raise NameNotFoundError(f"The feature view {name} has no feature {_quote(feature)}.{remedy}")
            result = ref if full_names else feature
            if result in taken:
                remedy = "Name it once." if taken[result] == ref else "Send full_feature_names: true."
                both = f"{taken[result]} and {ref}"
                raise FieldError(f"features: {both} would have the same name in the answer. {remedy}")
            taken[result] = ref


_KNOWN = frozenset(FIELDS)


def _inputs(on_demand: Iterable[Any], needed: Iterable[str]) -> Iterable[Column]:
    """Columns that on-demand views take from the request."""
    remaining = set(needed)
    for view in on_demand:
        for source in view.source_request_sources.values():
            for field in source.schema:
                if field.name in remaining:
                    remaining.discard(field.name)
                    yield Column(
                        field.name,
                        field.dtype.to_value_type(),
                        f"which the on-demand view {view.name} takes from the request",
                    )


def _type_of(value: Any) -> ValueType:
    """The type of a column that no view reads: that of its first value, which the others must share."""
    return {str: ValueType.STRING, bool: ValueType.BOOL, float: ValueType.DOUBLE}.get(type(value), ValueType.INT64)


def _ensure_typed(column: Column, values: list[Any]) -> None:
    for position, value in enumerate(values):
        if not _has_type(value, column.type):
            got = str(value) if type(value) is int and column.type in INTEGERS else _describe(value)
            raise EntityError(
                f"entities: {_quote(column.name)}, {column.reader}, must have "
                f"{EXPECTED.get(column.type, column.type.name)}. "
                f"Got at position {position}: {_shorten(got)}."
            )


def _has_type(value: Any, type_: ValueType) -> bool:
    """Whether a JSON value has this Feast type without any conversion: True, "1" and 1.0 are not 1."""
    if type_ in INTEGERS:
        return type(value) is int and -(1 << INTEGERS[type_]) <= value < 1 << INTEGERS[type_]
    if type_ in (ValueType.STRING, ValueType.BYTES):
        return type(value) is str and _is_unicode(value)
    if type_ is ValueType.BOOL:
        return type(value) is bool
    if type_ in (ValueType.DOUBLE, ValueType.FLOAT):
        return type(value) in (int, float) and abs(value) < 1e308
    return type_ is not ValueType.UNIX_TIMESTAMP or _is_timestamp(value)


def _is_unicode(text: str) -> bool:
    """False for half of a surrogate pair, which JSON can write and UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _is_timestamp(value: Any) -> bool:
    """Whether the value is an instant in the years 2 to 9998, which fits a datetime in any time zone."""
    try:
        if type(value) is str:
            return 1 < datetime.fromisoformat(value).year < 9999
        return type(value) is int and 1 < datetime.fromtimestamp(value, UTC).year < 9999
    except (ValueError, OverflowError, OSError):
        return False


def _describe(value: Any) -> str:
    """A short description of a JSON value."""
    if value is None:
        return "null"
    if type(value) is list:
        return f"a list of {len(value)}"
    if type(value) is dict:
        return f"an object of {len(value)}"
    return _shorten(json.dumps(value))


def _shorten(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


def _quote(text: str) -> str:
    """A client's text for an error message: as JSON, which escapes control characters, and shortened."""
    return _shorten(json.dumps(text))


def _joined_names(names: Iterable[str]) -> str:
    some = [_shorten(name) for name in names]
    return ", ".join(some[:30]) + (f" and {len(some) - 30} more" if len(some) > 30 else "")


def _similar(name: str, candidates: Iterable[str], question: str = "Did you mean") -> str:
    """A question with the most similar name, or an empty string."""
    close = get_close_matches(name[:100], [text[:100] for text in candidates][:1000], n=1)
    return f" {question} {_quote(close[0])}?" if close else ""

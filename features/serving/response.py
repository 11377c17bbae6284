"""Online responses as plain values, column by column; converted to protobuf only on request."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from typing import Any

from feast.feature_server_utils import _timestamp_to_str
from feast.online_response import TIMESTAMP_POSTFIX, OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import NULL_TIMESTAMP_INT_VALUE
from feast.value_type import ValueType
from google.protobuf.timestamp_pb2 import Timestamp  # type: ignore[import-untyped,unused-ignore]
from pydantic_core import to_json

TIMESTAMP, BYTES = "unix_timestamp_val", "bytes_val"
MICROSECONDS_A_SECOND = 1_000_000
Events = Sequence[int | None]
"""The event time of each entity's row in microseconds since 1970, or None where there is no row. Request data and
values computed from it have event time 0, as in Feast.
"""


@dataclass(slots=True)
class Columns:
    """Columns of the same rows: names, fields of Feast's `Value`, and values as that field stores them: timestamps are
    whole seconds since 1970.
    """

    names: Sequence[str]
    fields: Sequence[str]
    values: Sequence[Sequence[Any]]
    events: Events

    def __iter__(self) -> Iterator[tuple[str, str, Sequence[Any]]]:
        return zip(self.names, self.fields, self.values, strict=True)

    def without(self, unwanted: Container[str]) -> Columns:
        """The other columns."""
        kept = [column for column in self if column[0] not in unwanted]
        return columns(kept, self.events)


def columns(selected: Iterable[tuple[str, str, Sequence[Any]]], events: Events) -> Columns:
    """Columns of names, fields and values."""
    names, fields, values = zip(*selected, strict=True) if selected else ((), (), ())
    return Columns(names, fields, values, events)


def python(field: str, values: Sequence[Any]) -> list[Any]:
    """A column's values as Python objects, in a new list."""
    return list(map(_datetime_of, values)) if field == TIMESTAMP else list(values)


@dataclass(eq=False)
class Answer(OnlineResponse):
    """A response with the methods of Feast's OnlineResponse and equal results."""

    parts: list[Columns]
    _feature_types: dict[str, ValueType]

    def to_dict(self, include_event_timestamps: bool = False) -> dict[str, Any]:
        """Each column's values as Python objects; with `include_event_timestamps` also their event times in seconds."""
        if not include_event_timestamps:
            return {name: python(field, values) for part in self.parts for name, field, values in part}
        result: dict[str, Any] = {}
        for part in self.parts:
            for name, field, values in part:
                result[name] = python(field, values)
                result[name + TIMESTAMP_POSTFIX] = [
                    0 if at is None else at // MICROSECONDS_A_SECOND for at in part.events
                ]
        return result

    def to_json(self) -> bytes:
        """The JSON of Feast's feature server."""
        names = to_json([name for part in self.parts for name in part.names])
        tails = {key: _tail(events) for key, events in {id(part.events): part.events for part in self.parts}.items()}
        vectors = [
            b'{"values":' + _encoded(field, values) + tails[id(part.events)]
            for part in self.parts
            for _, field, values in part
        ]
        return b'{"results":[' + b",".join(vectors) + b'],"metadata":{"feature_names":' + names + b"}}"

    @cached_property
    def proto(self) -> GetOnlineFeaturesResponse:
        """The response as protobuf."""
        response = GetOnlineFeaturesResponse()
        for part in self.parts:
            response.metadata.feature_names.val.extend(part.names)
            statuses = [FieldStatus.NOT_FOUND if at is None else FieldStatus.PRESENT for at in part.events]
            moments = list(map(_timestamp, part.events))
            for _, field, values in part:
                protos = [Value() if value is None else Value(**{field: value}) for value in values]
                response.results.add(values=protos, statuses=statuses, event_timestamps=moments)
        return response


@lru_cache(1 << 14)
def _datetime_of(second: int | None) -> datetime | None:
    """The datetime of whole seconds; None also for Feast's NULL marker. Cached, because a request's time repeats for
    each entity.
    """
    return None if second is None or second == NULL_TIMESTAMP_INT_VALUE else datetime.fromtimestamp(second, UTC)


def _timestamp(at: int | None) -> Timestamp:
    seconds, micros = divmod(at or 0, MICROSECONDS_A_SECOND)
    return Timestamp(seconds=seconds, nanos=micros * 1000)


@lru_cache(1 << 14)
def _text(at: int | None) -> str:
    return str(_timestamp_to_str(_timestamp(at)))


def _encoded(field: str, values: Sequence[Any]) -> bytes:
    if field == BYTES:
        values = [value if value is None else b64encode(value).decode("ascii") for value in values]
    return to_json(values, inf_nan_mode="strings")


def _tail(events: Events) -> bytes:
    """The end of a result vector: statuses and event timestamps."""
    return _tail_of_one(events[0]) if len(events) == 1 else _tail_of(events)


@lru_cache(1 << 14)
def _tail_of_one(at: int | None) -> bytes:
    return _tail_of([at])


def _tail_of(events: Events) -> bytes:
    statuses = to_json(["NOT_FOUND" if at is None else "PRESENT" for at in events])
    return b',"statuses":' + statuses + b',"event_timestamps":' + to_json(list(map(_text, events))) + b"}"

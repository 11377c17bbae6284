"""Type mappings: one type in contracts, Feast, DuckDB, the online stores and the protobuf that is served.

Feast's UnixTimestamp holds whole seconds. Both stores therefore round instants down to the second, so that what is
trained on is what is served.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Bool, Bytes, FeastType, Float32, Float64, Int32, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from contracts.model import BOOLEAN, DOUBLE, LONG, STRING, TIMESTAMP, Column, DecimalType, Type


class UnsupportedTypeError(TypeError):
    """A type that the feature stores cannot hold."""


class KeyTypeError(UnsupportedTypeError):
    """An entity's key has the wrong type. Keys are never converted: the result could be another entity's key."""


@dataclass(frozen=True)
class TypeMapping:
    """One scalar Feast type.

    `arrow` is the type in a training set; `offline` and `online` are DuckDB expressions over `{}`, for a training set
    and for the online store; `sqlite` and `postgres` are the types there, and `proto` the field of Feast's `Value`
    message.
    """

    dtype: FeastType
    arrow: pa.DataType
    proto: str
    offline: str
    online: str
    sqlite: str
    postgres: str


INSTANT = pa.timestamp("us", tz="UTC")


def _plain(dtype: FeastType, arrow: pa.DataType, proto: str, duckdb: str, sqlite: str, postgres: str) -> TypeMapping:
    cast = f"CAST({{}} AS {duckdb})"
    return TypeMapping(dtype, arrow, proto, cast, cast, sqlite, postgres)


TYPE_MAPPINGS = {
    mapping.dtype: mapping
    for mapping in (
        _plain(Int64, pa.int64(), "int64_val", "BIGINT", "INTEGER", "BIGINT"),
        _plain(Int32, pa.int32(), "int32_val", "INTEGER", "INTEGER", "INTEGER"),
        _plain(Float64, pa.float64(), "double_val", "DOUBLE", "REAL", "DOUBLE PRECISION"),
        _plain(Float32, pa.float32(), "float_val", "FLOAT", "REAL", "REAL"),
        _plain(Bool, pa.bool_(), "bool_val", "BOOLEAN", "INTEGER", "BOOLEAN"),
        _plain(String, pa.string(), "string_val", "VARCHAR", "TEXT", "TEXT"),
        _plain(Bytes, pa.binary(), "bytes_val", "BLOB", "BLOB", "BYTEA"),
        TypeMapping(
            UnixTimestamp,
            INSTANT,
            "unix_timestamp_val",
            "date_trunc('second', CAST({} AS TIMESTAMPTZ))",
            "epoch_us(date_trunc('second', {})) // 1000000",
            "INTEGER",
            "BIGINT",
        ),
    )
}

_WHOLE, _REAL = (int, np.integer), (float, int, np.floating, np.integer)
_KEYS: dict[ValueType, tuple[str, tuple[type, ...], str]] = {
    ValueType.INT64: ("int64_val", _WHOLE, "a whole number such as 1"),
    ValueType.INT32: ("int32_val", _WHOLE, "a whole number such as 1"),
    ValueType.DOUBLE: ("double_val", _REAL, "a number such as 1.5"),
    ValueType.FLOAT: ("float_val", _REAL, "a number such as 1.5"),
    ValueType.STRING: ("string_val", (str,), 'a text such as "a"'),
    ValueType.BYTES: ("bytes_val", (bytes,), "bytes"),
    ValueType.BOOL: ("bool_val", (bool, np.bool_), "True or False"),
}
"""For each key type: its field of `Value`, the Python types that are accepted, and an example for messages.

Timestamps are left to Feast, which accepts several forms.
"""

LIMITS = {"int64_val": 2**63, "unix_timestamp_val": 2**63, "int32_val": 2**31}

FROM_CONTRACT: dict[Type, FeastType] = {
    LONG: Int64,
    STRING: String,
    DOUBLE: Float64,
    BOOLEAN: Bool,
    TIMESTAMP: UnixTimestamp,
}


def of(dtype: FeastType, name: str) -> TypeMapping:
    """The mapping of a Feast type; UnsupportedTypeError, which names the owner `name`, where there is none."""
    if dtype not in TYPE_MAPPINGS:
        raise UnsupportedTypeError(
            f"{name} has the Feast type {dtype}, which the stores cannot hold. Use one of"
            f" {', '.join(str(known) for known in TYPE_MAPPINGS)}"
        )
    return TYPE_MAPPINGS[dtype]


def convert(value: Any, proto: str) -> Any:
    """The value as that field of Feast's `Value` returns it: 3 becomes 3.0 in `double_val`. None stays None;
    UnsupportedTypeError when the value does not fit.
    """
    if value is None:
        return None
    try:
        return getattr(Value(**{proto: value}), proto)
    except (TypeError, ValueError) as error:
        raise UnsupportedTypeError(
            f"{value!r} is no {proto}. If its type changed since it went online, materialize it again"
        ) from error


def convert_row(row: Sequence[Any], protos: Mapping[int, str]) -> tuple[Any, ...]:
    """The row with the values at some indexes converted."""
    return tuple(convert(value, protos[index]) if index in protos else value for index, value in enumerate(row))


def key(value: Any, proto: str) -> Any:
    """A join key as it is stored: NumPy integers become Python's. UnsupportedTypeError for True, 1.0 or "1", which some
    databases match with 1 and others do not.
    """
    limit = LIMITS.get(proto)
    if (type(value) is int and -limit <= value < limit) if limit else type(value) is str and proto == "string_val":
        return value
    return convert(value, proto)


def ensure_key(values: Iterable[Any], expected: ValueType, name: str, view: str) -> None:
    """Raise KeyTypeError unless all of a caller's values have the key's type: for an Int64 key whole numbers, not "1",
    True, 1.0 or None.
    """
    if expected not in _KEYS:
        return
    field, types, example = _KEYS[expected]
    for value in values:
        if not _is_own_type(value, field, types):
            shown = repr(value).replace("\n", " ")[:60]
            raise KeyTypeError(
                f"key {name} of the feature view {view} is {shown} ({type(value).__name__}), and must be {example}"
                f" ({expected.name}). Keys are not converted: give it in its own type"
            )


def _is_own_type(value: Any, field: str, types: tuple[type, ...]) -> bool:
    if isinstance(value, Value):
        return bool(value.WhichOneof("val") == field)
    return isinstance(value, types) and (type(value) is not bool or bool in types)


def dtype_of(column: Column) -> FeastType:
    """The Feast type that serves a contract's column; decimals become doubles."""
    if isinstance(column.type, DecimalType):
        return Float64
    if column.type not in FROM_CONTRACT:
        known = ", ".join(type_.spark for type_ in FROM_CONTRACT)
        raise UnsupportedTypeError(
            f"column {column.name} is {column.type.spark}, which Feast cannot serve. Use decimal or one of {known} in"
            " the gold contract"
        )
    return FROM_CONTRACT[column.type]

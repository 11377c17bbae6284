"""Kinds: how one type looks in a contract, in Feast, in DuckDB, in sqlite and in the protobuf that is served.

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


class KindError(TypeError):
    """A type that the feature stores cannot hold."""


class KeyTypeError(KindError):
    """An entity's key is not of its own type. Nothing is converted: the result may be another entity's key."""


@dataclass(frozen=True)
class Kind:
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


def _plain(dtype: FeastType, arrow: pa.DataType, proto: str, duckdb: str, sqlite: str, postgres: str) -> Kind:
    cast = f"CAST({{}} AS {duckdb})"
    return Kind(dtype, arrow, proto, cast, cast, sqlite, postgres)


KINDS = {
    kind.dtype: kind
    for kind in (
        _plain(Int64, pa.int64(), "int64_val", "BIGINT", "INTEGER", "BIGINT"),
        _plain(Int32, pa.int32(), "int32_val", "INTEGER", "INTEGER", "INTEGER"),
        _plain(Float64, pa.float64(), "double_val", "DOUBLE", "REAL", "DOUBLE PRECISION"),
        _plain(Float32, pa.float32(), "float_val", "FLOAT", "REAL", "REAL"),
        _plain(Bool, pa.bool_(), "bool_val", "BOOLEAN", "INTEGER", "BOOLEAN"),
        _plain(String, pa.string(), "string_val", "VARCHAR", "TEXT", "TEXT"),
        _plain(Bytes, pa.binary(), "bytes_val", "BLOB", "BLOB", "BYTEA"),
        Kind(
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
"""How a key of each type may be given: as which field of `Value`, as which types of Python, and an example.

Instants are Feast's to read, in any of its forms.
"""

LIMITS = {"int64_val": 2**63, "unix_timestamp_val": 2**63, "int32_val": 2**31}

FROM_CONTRACT: dict[Type, FeastType] = {
    LONG: Int64,
    STRING: String,
    DOUBLE: Float64,
    BOOLEAN: Bool,
    TIMESTAMP: UnixTimestamp,
}


def of(dtype: FeastType, name: str) -> Kind:
    """The kind of a Feast type; `name` says whose it is, for the error."""
    if dtype not in KINDS:
        raise KindError(
            f"{name} has the Feast type {dtype}, which the stores cannot hold. Use one of"
            f" {', '.join(str(known) for known in KINDS)}"
        )
    return KINDS[dtype]


def retyped(value: Any, proto: str) -> Any:
    """A value as a field of Feast's `Value` has it: 3 becomes 3.0 in `double_val`. KindError when it does not fit; None
    stays.
    """
    if value is None:
        return None
    try:
        return getattr(Value(**{proto: value}), proto)
    except (TypeError, ValueError) as error:
        raise KindError(
            f"{value!r} is no {proto}. If its type was changed since it came online, materialize it anew"
        ) from error


def retyped_row(row: Sequence[Any], protos: Mapping[int, str]) -> tuple[Any, ...]:
    """A row whose values at some places are `retyped`."""
    return tuple(retyped(value, protos[at]) if at in protos else value for at, value in enumerate(row))


def key(value: Any, proto: str) -> Any:
    """A join key as it is stored. NumPy's whole numbers become Python's; KindError for True, 1.0 or "1", which some
    databases take for 1 and others do not find.
    """
    limit = LIMITS.get(proto)
    if (type(value) is int and -limit <= value < limit) if limit else type(value) is str and proto == "string_val":
        return value
    return retyped(value, proto)


def ensure_key(values: Iterable[Any], expected: ValueType, name: str, view: str) -> None:
    """Raise KeyTypeError unless each of a caller's values is of the key's own type.

    For an Int64 key that is a whole number, and not "1", True, 1.0 or None.
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
    """The Feast type that serves a contract's column. Money is exact until here and becomes a double."""
    if isinstance(column.type, DecimalType):
        return Float64
    if column.type not in FROM_CONTRACT:
        known = ", ".join(known.spark for known in FROM_CONTRACT)
        raise KindError(
            f"column {column.name} is {column.type.spark}, which Feast cannot serve. Use decimal or one of {known} in"
            " the gold contract"
        )
    return FROM_CONTRACT[column.type]

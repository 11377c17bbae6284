"""Columns of a training set: types that both Delta and parquet can hold, and digests of type, order and values
alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyarrow.types as types

from features.offline.labels import LabelError
from features.type_mapping import INSTANT

_STORED_TYPES: tuple[tuple[Callable[[pa.DataType], bool], pa.DataType | None], ...] = (
    (types.is_null, pa.string()),
    (lambda type_: types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_), pa.string()),
    (
        lambda type_: (
            types.is_binary(type_)
            or types.is_large_binary(type_)
            or types.is_fixed_size_binary(type_)
            or types.is_binary_view(type_)
        ),
        pa.binary(),
    ),
    (types.is_boolean, None),
    (types.is_uint8, pa.int16()),
    (types.is_uint16, pa.int32()),
    (types.is_unsigned_integer, pa.int64()),
    (types.is_signed_integer, None),
    (types.is_float16, pa.float32()),
    (types.is_floating, None),
    (types.is_decimal128, None),
    (types.is_date, pa.date32()),
    (types.is_timestamp, INSTANT),
)
"""The type that is stored for each type; None for the same one. Timestamps without a time zone are UTC, as
everywhere.
"""


def plain(table: pa.Table) -> pa.Table:
    """The table in types that can be stored; LabelError where a column has no such type, or its values would change."""
    names = [name.lower() for name in table.column_names]
    duplicates = sorted({name for name in names if names.count(name) > 1})
    if duplicates:
        raise LabelError(
            f"labels have more than one column {', '.join(duplicates)}, and Delta's column names are not"
            " case-sensitive."
            " Rename or drop one"
        )
    return pa.table({name: _plain(name, table[name]) for name in table.column_names})


def _plain(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    stored_types = [stored or column.type for suits, stored in _STORED_TYPES if suits(column.type)]
    if not stored_types:
        raise LabelError(
            f"{name} is {column.type} in the labels. A training set keeps numbers, text, bytes, booleans, dates and"
            " instants: convert the column, or drop it"
        )
    try:
        return column.cast(stored_types[0])
    except pa.ArrowInvalid as error:
        raise LabelError(
            f"{name} has a value that does not fit {stored_types[0]}: {error}. A training set keeps {stored_types[0]}"
            " there: round"
            " or drop it"
        ) from error


def digest(column: pa.ChunkedArray) -> str:
    """SHA-256 of a column's type, validity and values, independent of its chunks; all NaNs are equal."""
    sha256 = hashlib.sha256(f"{column.type};{len(column)};".encode())
    sha256.update(np.packbits(column.is_valid().to_numpy()).tobytes())
    for part in _parts(column.drop_null()):
        sha256.update(part)
    return sha256.hexdigest()


def digests(table: pa.Table) -> dict[str, str]:
    """Column -> digest, in column order."""
    return {name: digest(table[name]) for name in table.column_names}


def table_digest(column_digests: Mapping[str, str]) -> str:
    """The digest of a table with these column digests."""
    return hashlib.sha256(json.dumps([*column_digests.items()]).encode()).hexdigest()


def _parts(values: pa.ChunkedArray) -> Iterator[bytes]:
    """The bytes of values without NULLs; for text and bytes, all lengths come first."""
    if types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    if types.is_string(values.type) or types.is_binary(values.type):
        yield pc.binary_length(values).cast(pa.int64()).to_numpy().tobytes()
    for chunk in values.chunks:
        if len(chunk):
            yield _chunk(chunk)


def _chunk(chunk: pa.Array) -> bytes:
    first, end = chunk.offset, chunk.offset + len(chunk)
    if types.is_string(chunk.type) or types.is_binary(chunk.type):
        _, offsets, content = chunk.buffers()
        positions = np.frombuffer(offsets, np.int32)
        return bytes(content)[positions[first] : positions[end]] if content else b""
    if types.is_floating(chunk.type):
        numbers = chunk.to_numpy()
        return bytes(np.where(np.isnan(numbers), numbers.dtype.type("nan"), numbers).tobytes())
    width = chunk.type.bit_width // 8
    return bytes(chunk.buffers()[1])[first * width : end * width]


def parquet(table: pa.Table) -> bytes:
    """A parquet file, byte-identical for the same rows and version of pyarrow."""
    sink = pa.BufferOutputStream()
    pq.write_table(table.combine_chunks(), sink, compression="zstd", compression_level=3, store_schema=False)
    return bytes(sink.getvalue())

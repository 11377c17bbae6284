"""What the online store holds of an entity in a view of instants: its events, packed.

All events that can be in a window from some instant on are there, and before them only those that a value of any age
needs. Decimals are whole numbers of their last digit, times microseconds since 1970.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView

from contracts.aggregations import Aggregates, Latest
from contracts.model import BOOLEAN, DATE, DOUBLE, STRING, TIMESTAMP, Column, DecimalType
from features.instants.declaration import digest, features, of_view
from features.source import GoldTable
from lake.sql import identifier

MARGIN = timedelta(days=2)
"""How far before the horizon features can be requested online."""
LARGEST = 2**62
AT, ID = "__t", "__id"


class Cells(msgspec.Struct, array_like=True):
    """The cells of a column, by event: numbers as bytes of 8 each, or texts. `valid` is a byte per cell; None where all
    are. `wide`: their sum may exceed 64 bits.
    """

    numbers: bytes
    texts: list[str] | None = None
    valid: bytes | None = None
    wide: bool = False


class State(msgspec.Struct, array_like=True):
    """An entity's events in the order of their instants. Features are exact from the instant `exact_from` on.

    `declaration` is the digest of the declaration that decided what is in it. `ids` are the events' identities, 8 bytes
    each, in a view that also counts events of a stream: one that comes twice counts once.
    """

    declaration: str
    exact_from: int
    at: bytes
    columns: list[Cells]
    ids: bytes | None = None


pack = msgspec.msgpack.Encoder().encode
unpack = msgspec.msgpack.Decoder(State).decode


def columns(declared: Aggregates) -> tuple[Column, ...]:
    """The columns of the gold table that a state has, in order."""
    return tuple(column for _, column in declared.measure_columns())


def identity(columns: Iterable[Column]) -> str:
    """SQL for an event's identity: 63 bits of a digest of its key, the same in every version of DuckDB."""
    texts = (f"CAST({identifier(column.name)} AS VARCHAR)" for column in columns)
    parts = ", ".join(f"strlen({text}), ':', {text}" for text in texts)
    return f"CAST(md5_number_lower(concat({parts})) >> 1 AS BIGINT)"


def query(
    table: str,
    source: GoldTable,
    view: FeatureView,
    horizon: int,
    among: str | None = None,
    event_key: Sequence[Column] = (),
) -> str:
    """SQL for the events that the states need: keys, AT, ID where the events have an `event_key`, and columns, ordered
    by key and instant. `horizon` is in microseconds since 1970. `among` names a table of keys, to which it is limited.
    """
    declared = of_view(view)
    keys = ", ".join(identifier(source.column(key.name)) for key in view.entity_columns)
    longest = max((feature.microseconds or 0 for feature in features(declared)), default=0)
    since = horizon - longest - MARGIN // timedelta(microseconds=1)
    cells = "".join(f", {stored(column)} AS {identifier(column.name)}" for column in columns(declared))
    key_filter = f" WHERE ({keys}) IN (SELECT ({keys}) FROM {among})" if among else ""
    instant = f"epoch_us({identifier(source.event_column)}) AS {AT}"
    ids = f", {identity(event_key)} AS {ID}" if event_key else ""
    events = f"SELECT {keys}, {instant}{ids}{cells} FROM {table}{key_filter}"
    needed = ["true", *_of_any_age(declared)]
    newest = ", ".join(
        f"max({AT}) FILTER (WHERE {AT} < {since} AND {condition}) AS __n{n}" for n, condition in enumerate(needed)
    )
    is_newest = " OR ".join(f"{AT} = __n{n}" for n in range(len(needed)))
    names = "".join(f", e.{name}" for name in (*([ID] if event_key else []), *_names(declared)))
    return (
        f"WITH e AS MATERIALIZED ({events}), n AS (SELECT {keys}, {newest} FROM e GROUP BY {keys})"
        f" SELECT {keys}, {AT}{names} FROM e JOIN n USING ({keys}) WHERE {AT} >= {since} OR {is_newest}"
        f" ORDER BY {keys}, {AT}"
    )


def _names(declared: Aggregates) -> list[str]:
    return [identifier(column.name) for column in columns(declared)]


def _of_any_age(declared: Aggregates) -> Iterator[str]:
    """Which events have a value that may be wanted at any age."""
    for part, column in declared.measure_columns():
        if isinstance(part, Latest) and not part.windows:
            name = identifier(column.name)
            yield f"{name} IS NOT NULL" if part.of else name


def stored(column: Column) -> str:
    """SQL for a column's cells as a state keeps them."""
    name = identifier(column.name)
    if isinstance(column.type, DecimalType):
        scale = column.type.scale
        return f"CAST(CAST({name} AS DECIMAL(38, {scale})) * {10**scale} AS BIGINT)"
    if column.type == TIMESTAMP:
        return f"epoch_us({name})"
    if column.type == DATE:
        return f"CAST({name} - DATE '1970-01-01' AS BIGINT)"
    if column.type == BOOLEAN:
        return f"CAST({name} AS BIGINT)"
    return name


def states(rows: pa.Table, view: FeatureView, horizon: int) -> Iterator[tuple[tuple[Any, ...], int, bytes]]:
    """Key, newest instant and packed state of each entity, from the rows of `query`."""
    count = len(view.entity_columns)
    if not rows.num_rows:
        return
    keys = [rows.column(n) for n in range(count)]
    starts = _starts(keys, rows.num_rows)
    at = rows[AT].to_numpy()
    ids = rows[ID].to_numpy() if ID in rows.column_names else None
    packed = [_Packer(column, rows[column.name]) for column in columns(of_view(view))]
    declaration, exact_from = digest(of_view(view)), horizon - MARGIN // timedelta(microseconds=1)
    values = list(zip(*(key.take(pa.array(starts)).to_pylist() for key in keys), strict=True))
    for key, start, end in zip(values, starts, [*starts[1:], rows.num_rows], strict=True):
        cells = [column.cells(start, end) for column in packed]
        own_ids = None if ids is None else ids[start:end].tobytes()
        yield key, int(at[end - 1]), pack(State(declaration, exact_from, at[start:end].tobytes(), cells, own_ids))


def _starts(keys: Sequence[pa.ChunkedArray], count: int) -> list[int]:
    """The positions at which another key begins."""
    changes = np.zeros(count, bool)
    changes[0] = True
    for key in keys:
        combined = key.combine_chunks()
        differs = pc.not_equal(combined.slice(1), combined.slice(0, count - 1))
        changes[1:] |= differs.to_numpy(zero_copy_only=False)
    return [int(position) for position in np.flatnonzero(changes)]


class _Packer:
    """Cuts a column into the cells of entities."""

    def __init__(self, column: Column, values: pa.ChunkedArray) -> None:
        array = values.combine_chunks()
        valid = array.is_valid().to_numpy(zero_copy_only=False)
        self._valid = None if valid.all() else valid.view(np.uint8)
        self._texts = array.to_pylist() if column.type == STRING else None
        if self._texts is None:
            kind = pa.float64() if column.type == DOUBLE else pa.int64()
            self._numbers = pc.fill_null(array.cast(kind), 0).to_numpy(zero_copy_only=False)

    def cells(self, start: int, end: int) -> Cells:
        """The cells of one entity."""
        valid = None if self._valid is None else self._valid[start:end].tobytes()
        if self._texts is not None:
            return Cells(b"", [text or "" for text in self._texts[start:end]], valid)
        numbers = self._numbers[start:end]
        largest = max(abs(int(numbers.max())), abs(int(numbers.min()))) if numbers.dtype == np.int64 else 0
        return Cells(numbers.tobytes(), None, valid, largest * (end - start) >= LARGEST)

"""Events that came after an entity's state was packed: merge them with it, each event once.

Of two events with one identity the earlier day counts, then the later message: the rule of silver tables.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import msgspec
import numpy as np

from contracts.model import DOUBLE, STRING, Column
from features.instants.state import Cells, State

DAY = 86_400_000_000
"""Microseconds."""
LARGE, MANY = 2**40, 2**20
"""Fewer than MANY numbers below LARGE have a sum of 64 bits."""


class Block(msgspec.Struct, array_like=True):
    """Events of an entity from one batch of messages of a partition: instants, identities and offsets, 8 bytes each,
    and the cells of each column. The cells are `wide` where one is LARGE.
    """

    at: bytes
    ids: bytes
    offsets: bytes
    columns: list[Cells]


class Recent(NamedTuple):
    """The events of an entity's tail, in the order of their instants, each identity once."""

    at: np.ndarray
    ids: np.ndarray
    columns: list[Cells]


NO_EVENTS = Recent(np.empty(0, np.int64), np.empty(0, np.int64), [])
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Block).decode


def pack(events: Sequence[Sequence[Any]], columns: Sequence[Column], counts: Sequence[int]) -> list[bytes]:
    """Blocks of events (instant, identity, offset, cells...): one of the first `counts[0]`, one of the next, and so on.

    There is at least one event, and one in each block.
    """
    ends = [*accumulate(counts)]
    spans = [*map(slice, [0, *ends], ends)]
    numbers = [slice(8 * span.start, 8 * span.stop) for span in spans]
    times, identities, messages, *cells = zip(*events, strict=True)
    own = [_cells(values, column, spans, numbers) for values, column in zip(cells, columns, strict=True)]
    at, ids, offsets = _bytes(times), _bytes(identities), _bytes(messages)
    return [
        _encode(Block(at[span], ids[span], offsets[span], [parts[number] for parts in own]))
        for number, span in enumerate(numbers)
    ]


def recent(
    entries: Sequence[tuple[int, int, bytes]],
    since: Mapping[int, int],
    until: Mapping[int, int] | None,
    columns: Sequence[Column],
    needed: Collection[int],
) -> Recent:
    """The events of entries (partition, offset, Block). Those before the offset of their partition in `since` are left
    out: the state has them; with `until`, those from there on, too. Columns whose positions are not `needed` stay
    empty.
    """
    blocks = [
        (partition, _decode(payload)) for partition, offset, payload in entries if offset >= since.get(partition, 0)
    ]
    if not blocks:
        return NO_EVENTS
    at, ids, offsets = (_joined(getattr(block, name) for _, block in blocks) for name in ("at", "ids", "offsets"))
    counts = [len(block.at) // 8 for _, block in blocks]
    partitions = np.repeat([partition for partition, _ in blocks], counts)
    is_new = offsets >= np.repeat([since.get(partition, 0) for partition, _ in blocks], counts)
    if until is not None:
        is_new &= offsets < np.repeat([until.get(partition, 0) for partition, _ in blocks], counts)
    chosen = _newest(at, ids, offsets, partitions, np.flatnonzero(is_new))
    chosen = chosen[np.argsort(at[chosen], kind="stable")]
    own = [
        _taken(_concatenated([block.columns[n] for _, block in blocks], counts, column), chosen)
        if n in needed
        else Cells(b"")
        for n, column in enumerate(columns)
    ]
    return Recent(at[chosen], ids[chosen], own)


def _newest(
    at: np.ndarray, ids: np.ndarray, offsets: np.ndarray, partitions: np.ndarray, among: np.ndarray
) -> np.ndarray:
    """The positions of the event that counts of each identity."""
    if len({*ids[among].tolist()}) == len(among):
        return among
    # the last of each identity: by the earlier day, then the later message
    order = among[np.lexsort((partitions[among], offsets[among], -(at[among] // DAY), ids[among]))]
    is_last = np.append(ids[order[1:]] != ids[order[:-1]], True)
    newest: np.ndarray = order[is_last]
    return newest


class Merged(NamedTuple):
    """Times and cells of a state without the events that the tail replaces, and of the tail's events."""

    state: tuple[np.ndarray, Sequence[Cells]]
    tail: tuple[np.ndarray, Sequence[Cells]]


def merge(state: State, tail: Recent) -> Merged:
    """A state's events and a tail's, each identity once."""
    times = np.frombuffer(state.at, np.int64)
    whole = Merged((times, state.columns), (tail.at, tail.columns))
    if state.ids is None or not len(tail.at):
        return whole
    ids, order = np.frombuffer(state.ids, np.int64), np.argsort(tail.ids)
    positions = np.searchsorted(tail.ids, ids, sorter=order)
    positions[positions == len(order)] = 0
    twins = order[positions]
    shared = np.flatnonzero(tail.ids[twins] == ids)
    if not len(shared):
        return whole
    is_replaced = tail.at[twins[shared]] // DAY <= times[shared] // DAY
    keeps, counts = np.ones(len(times), bool), np.ones(len(tail.at), bool)
    keeps[shared[is_replaced]] = False
    counts[twins[shared[~is_replaced]]] = False
    kept, counted = np.flatnonzero(keeps), np.flatnonzero(counts)
    return Merged(
        (times[kept], [_taken(column, kept) for column in state.columns]),
        (tail.at[counted], [_taken(column, counted) for column in tail.columns]),
    )


def _cells(values: Sequence[Any], column: Column, spans: Sequence[slice], numbers: Sequence[slice]) -> list[Cells]:
    """The cells of each span; `numbers` are the spans in bytes."""
    valid: list[bytes | None] = [None] * len(spans)
    if None in values:
        flags = bytes(value is not None for value in values)
        valid = [None if all(part := flags[span]) else part for span in spans]
        values = [("" if column.type == STRING else 0) if value is None else value for value in values]
    if column.type == STRING:
        return [Cells(b"", [*values[span]], part) for span, part in zip(spans, valid, strict=True)]
    if column.type == DOUBLE:
        filled = array("d", values).tobytes()
        return [Cells(filled[span], None, part) for span, part in zip(numbers, valid, strict=True)]
    filled, wide = _bytes(values), [False] * len(spans)
    if max(values) >= LARGE or min(values) <= -LARGE:
        wide = [max(values[span]) >= LARGE or min(values[span]) <= -LARGE for span in spans]
    return [Cells(filled[n], None, part, is_wide) for n, part, is_wide in zip(numbers, valid, wide, strict=True)]


def _bytes(numbers: Sequence[int]) -> bytes:
    return array("q", numbers).tobytes()


def _joined(parts: Iterator[bytes]) -> np.ndarray:
    return np.frombuffer(b"".join(parts), np.int64)


def _concatenated(parts: Sequence[Cells], counts: Sequence[int], column: Column) -> Cells:
    valid = None
    if any(part.valid is not None for part in parts):
        valid = b"".join(part.valid or b"\1" * count for part, count in zip(parts, counts, strict=True))
    if column.type == STRING:
        return Cells(b"", [*chain.from_iterable(part.texts or () for part in parts)], valid)
    wide = sum(counts) >= MANY or any(part.wide for part in parts)
    return Cells(b"".join(part.numbers for part in parts), None, valid, wide)


def _taken(cells: Cells, positions: np.ndarray) -> Cells:
    """The cells at these positions; an empty column stays empty."""
    if not cells.numbers and not cells.texts:
        return cells
    valid = None if cells.valid is None else np.frombuffer(cells.valid, np.uint8)[positions].tobytes()
    if cells.texts is not None:
        return Cells(b"", [cells.texts[position] for position in positions.tolist()], valid)
    return Cells(np.frombuffer(cells.numbers, np.int64)[positions].tobytes(), None, valid, cells.wide)

"""Where tails are kept: beside the generations, in the same server or folder.

A worker appends the events of a range of messages and the offset after it in one transaction, which compares the offset
before it. So each message counts once, whichever workers run: one that lost its partition is fenced.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec

from features.online.generation import Key

EARLIEST = -1
"""The offset of a position that is to begin with the first message that there is."""
_pack = msgspec.msgpack.Encoder().encode


class Entry(NamedTuple):
    """Events of an entity in a tail: the partition that their messages came from, the offset of the last one, and the
    events, packed (see `features.instants.tail.Block`).
    """

    partition: int
    offset: int
    payload: bytes


@dataclass(frozen=True)
class Position:
    """How far a tail has read a partition of the topic with that identity: all events from the offset `complete_from`
    to before `next_offset` are in it.
    """

    identity: int
    complete_from: int
    next_offset: int

    def is_at(self, other: Position | None) -> bool:
        """Whether both have read the same messages. What is kept of them, `complete_from`, may differ."""
        return other is not None and (self.identity, self.next_offset) == (other.identity, other.next_offset)


@dataclass(frozen=True)
class Advance:
    """A step of a tail in a partition, from the position `expected` (None: no position yet) to `reached`, with the
    events in between by entity.

    `clears`: the partition's events are removed first, and `complete_from` is that of `reached`; otherwise it stays.
    """

    tail: str
    partition: int
    expected: Position | None
    reached: Position
    entries: Sequence[tuple[bytes, int, bytes]] = ()
    """Packed key of an entity, offset of the last of its events, and the events, packed."""
    clears: bool = False


class TailRows(NamedTuple):
    """The identity of the topic that a tail has read, by partition, and its entries for each requested entity."""

    identities: dict[int, int]
    entries: list[list[Entry]]


def ensure_expected(step: Advance, stored: Position | None) -> None:
    """Raise FencedError if the stored position of a step's tail is not the expected one."""
    if not (stored.is_at(step.expected) if stored else step.expected is None):
        raise FencedError(f"{step.tail} is at {stored} in partition {step.partition}, not at {step.expected}")


class FencedError(Exception):
    """Another worker has moved the tail on: nothing was written."""


class TailStore(Protocol):
    """Storage of tails."""

    def positions(self, tail: str) -> dict[int, Position]:
        """How far a tail has read each partition."""

    def advance(self, steps: Sequence[Advance]) -> None:
        """Take all steps in one transaction; FencedError, and nothing is written, where a position is another one."""

    def trim(self, tail: str, identity: int, offsets: Mapping[int, int]) -> None:
        """Remove the entries whose last event is before these offsets, by partition, of the topic with that identity.
        A partition in which the tail has begun another topic stays as it is.
        """

    def remove(self, keep: Sequence[str]) -> list[str]:
        """Remove the tails other than these, and return their names."""


def pack_key(key: Key) -> bytes:
    """An entity's key as tails have it."""
    return _pack(key)

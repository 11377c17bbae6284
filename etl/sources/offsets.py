"""How far bronze tables have read their topics, by their own commits.

A commit that holds messages carries, as Delta application transactions, the identity of the topic and the next offset
of each partition. The offsets are kept by identity: those of a topic that was deleted say nothing about one that was
created again under its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from contracts.model import Table
from etl.sources.messages import topic_of
from lake import delta
from lake.topics import UNKNOWN, identity_key, offset_key

if TYPE_CHECKING:
    from deltalake import DeltaTable


@dataclass(frozen=True)
class Start:
    """Where the reading of a partition starts: at `offset`. `recorded` is the table's next offset; None without one."""

    recorded: int | None
    offset: int


def identity_of(table: Table) -> int | None:
    """The identity of the topic that the table has read; None where it has read none."""
    return _identity(delta.open_table(table.qualified), topic_of(table))


def _identity(published: DeltaTable | None, topic: str) -> int | None:
    return published.transaction_version(identity_key(topic)) if published else None


def is_another(table: Table, identity: int) -> bool:
    """Whether a topic of this identity is not the one that the table has read: it was deleted, and created again."""
    known = identity_of(table)
    return known is not None and UNKNOWN not in (known, identity) and known != identity


def next_offsets(table: Table, partitions: Sequence[int]) -> dict[int, int | None]:
    """The offset of the first message of each partition that the table has not read; None where it has read none."""
    published, topic = delta.open_table(table.qualified), topic_of(table)
    identity = _identity(published, topic)
    if published is None or identity is None:
        return dict.fromkeys(partitions)
    return {
        partition: published.transaction_version(offset_key(topic, identity, partition)) for partition in partitions
    }


def transactions(topic: str, identity: int, offsets: Mapping[int, int]) -> dict[str, int]:
    """The transactions that record the topic's identity and the next offset of each partition."""
    of_partitions = {offset_key(topic, identity, partition): offset for partition, offset in sorted(offsets.items())}
    return {identity_key(topic): identity, **of_partitions}

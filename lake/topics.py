"""How far a Delta table has read a Kafka topic, by the application transactions in its commits.

A commit that holds messages carries the topic's identity and the next offset of each partition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deltalake import DeltaTable

UNKNOWN = 0
"""The identity of a topic whose brokers give none."""
MOST_ABSENT = 16
"""After so many partitions without an offset there are no more: Kafka numbers them from 0."""


@dataclass(frozen=True)
class ReadOffsets:
    """The identity of a topic, and the offset of the first message of each partition that is not in the table. A
    partition that was never read has none.
    """

    identity: int
    partitions: dict[int, int]


def identity_key(topic: str) -> str:
    """The Delta application transaction whose version is the topic's identity."""
    return f"kafka/{topic}/id"


def offset_key(topic: str, identity: int, partition: int) -> str:
    """The Delta application transaction whose version is the partition's next offset."""
    return f"kafka/{topic}/{identity}/{partition}"


def read_offsets(table: DeltaTable, topic: str) -> ReadOffsets:
    """What this version of a table holds of a topic."""
    identity = table.transaction_version(identity_key(topic))
    partitions: dict[int, int] = {}
    partition = 0
    while identity is not None and partition - len(partitions) < MOST_ABSENT:
        offset = table.transaction_version(offset_key(topic, identity, partition))
        if offset is not None:
            partitions[partition] = offset
        partition += 1
    return ReadOffsets(identity or UNKNOWN, partitions)

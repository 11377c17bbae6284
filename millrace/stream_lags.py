"""How far tables, and views that count messages at once, are behind their topics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from etl.sources.kafka import Lag


def of_views(of_tables: Sequence[Lag]) -> Iterator[Lag]:
    """How far each view with a tail is behind the partitions that its table reads."""
    from features.online import backends
    from features.streaming import tails

    for tail in tails.all_tails():
        positions = backends.configured().tails().positions(tail.name)
        for partition in of_tables:
            if partition.table == tail.bronze.qualified:
                position = positions.get(partition.partition)
                following = position.next_offset if position else None
                yield replace(partition, table=tail.view, next_offset=following)

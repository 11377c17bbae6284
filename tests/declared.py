"""Contracts for tests that write their own tables: only what a test is about has to be said."""

from datetime import timedelta
from typing import Any

from contracts.model import LONG, STRING, TIMESTAMP, Column, Layer, Load, Pii, Table, Type


def silver(name: str, key: tuple[str, ...], *columns: Column, **other: Any) -> Table:
    """A silver table of these columns."""
    return Table(Layer.SILVER, name, name, "one row per key", "tests", timedelta(days=1), columns, key, **other)


def column(name: str, kind: Type, **other: Any) -> Column:
    """A required column."""
    return Column(name, kind, name, required=True, **other)


BIDS = silver(
    "bids",
    ("bid",),
    column("bid", LONG),
    column("bidder", STRING, pii=Pii.PSEUDONYM),
    column("offer", STRING),
    column("price", LONG),
    column("made_at", TIMESTAMP),
    time_column="made_at",
)
RANKS = silver(
    "ranks",
    ("change",),
    column("change", STRING),
    column("bidder", STRING),
    column("rank", STRING),
    column("changed_at", TIMESTAMP),
    time_column="changed_at",
    load=Load.SNAPSHOT,
)

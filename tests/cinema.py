"""The cinema of `tests/projects/cinema`: a landing zone that is small enough to read, and its contracts."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from contracts import catalog, project
from contracts.model import Layer, Table
from tests.landing import LandingZone
from tests.projects import CINEMA

COLUMNS = {
    "tickets": pa.schema(
        [
            *((name, pa.int64()) for name in ("card_id", "venue_id", "booking_id", "movie_id", "seats")),
            *((name, pa.float64()) for name in ("paid", "saved")),
            ("show_week", pa.int64()),
            ("sold_time", pa.timestamp("us")),
        ]
    ),
    "movies": pa.schema(
        [
            *((name, pa.int64()) for name in ("movie_id", "studio_id")),
            *((name, pa.string()) for name in ("genre", "length", "title")),
        ]
    ),
    "members": pa.schema(
        [
            ("card_id", pa.int64()),
            *((name, pa.string()) for name in ("age_band", "tier", "party_size", "children")),
        ]
    ),
    "showcases": pa.schema(
        [
            *((name, pa.int64()) for name in ("movie_id", "venue_id")),
            *((name, pa.string()) for name in ("trailer_slot", "poster_slot")),
            ("show_week", pa.int64()),
        ]
    ),
}
"""The landed files' own columns and types."""


def ticket(
    booking: int, movie: int = 1, guest: int = 1, at: datetime | str = "2017-03-01 10:00:00", **other: Any
) -> dict[str, Any]:
    """A valid row of tickets: 2 seats for 3.00 after 0.50 off."""
    row = {
        "card_id": guest,
        "venue_id": 10,
        "booking_id": booking,
        "movie_id": movie,
        "seats": 2,
        "paid": 3.0,
        "saved": 0.5,
        "show_week": 10,
        "sold_time": datetime.fromisoformat(at) if isinstance(at, str) else at,
    }
    return {**row, **other}


class Cinema(LandingZone):
    """A landing zone of the cinema."""

    columns = COLUMNS

    @classmethod
    def open(cls, root: Path) -> Cinema:
        """One valid file of each table on 2017-03-01: two movies, two guests, two tickets."""
        cinema = cls(root)
        cinema.land("movies", [{"movie_id": n, "studio_id": 5, "genre": "DRAMA", "length": "Feature"} for n in (1, 2)])
        members = [
            {"card_id": n, "age_band": "25-34", "tier": "Gold", "party_size": "2", "children": "0"} for n in (1, 2)
        ]
        cinema.land("members", members, suffix=".csv")
        shown = {"movie_id": 1, "venue_id": 10, "trailer_slot": "5", "poster_slot": "0", "show_week": 10}
        cinema.land("showcases", [shown])
        cinema.land("tickets", [ticket(1), ticket(2, movie=2, guest=2)])
        return cinema


def tables(layer: Layer | None = None) -> tuple[Table, ...]:
    """The cinema's tables, for parameters of tests: there a module's PROJECT is not at work yet."""
    return catalog._tables(project.load(CINEMA), layer)


def table(qualified: str) -> Table:
    """One of them, for constants of modules."""
    return next(table for table in tables() if table.qualified == qualified)

"""What the transforms of feature tables prepare, once more in SQL: `millrace verify` counts features from it."""

from __future__ import annotations

from typing import Any


def movie_demand(connection: Any, events: str) -> Any:
    """The tickets with `showcased_seats`."""
    return connection.sql(
        f"""
        SELECT *, CASE WHEN EXISTS (
            FROM silver.showcases s
            WHERE s.movie_id = e.movie_id AND s.venue_id = e.venue_id AND s.show_week = e.show_week
            AND (s.trailer_slot <> '0' OR s.poster_slot <> '0')
        ) THEN seats ELSE 0 END AS showcased_seats
        FROM {events} e"""
    )

"""Columns that several tables share. Holders of a card are guests from silver on."""

from contracts.model import DATE, LONG, Column, Pii

GUEST_ID = Column(
    "guest_id",
    LONG,
    "Guest: the holder of a card",
    required=True,
    minimum=1,
    pii=Pii.PSEUDONYM,
    source="card_id",
)
MOVIE_ID = Column("movie_id", LONG, "Movie", required=True, minimum=1)
VENUE_ID = Column("venue_id", LONG, "Venue", required=True, minimum=1)
SHOW_WEEK = Column("show_week", LONG, "Week of the season, from 1", required=True, minimum=1)


def landed(name: str, doc: str) -> Column:
    """The date of the folder: of a snapshot, the date of the state that it holds."""
    return Column(name, DATE, doc, required=True, source="_landed_date")

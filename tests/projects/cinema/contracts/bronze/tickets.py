"""`bronze.tickets`: tickets sold, as they landed."""

from datetime import timedelta

from contracts.columns import AUDIT_COLUMNS
from contracts.model import DOUBLE, LONG, MONEY, TIMESTAMP, Column, Layer, Pii, Rule, Table


def _amount(name: str, doc: str) -> Column:
    """Money that silver's type can hold. Its quarantine would show a larger number as NULL."""
    return Column(name, DOUBLE, doc, required=True, minimum=-MONEY.largest, maximum=MONEY.largest, unit="USD")


tickets = Table(
    layer=Layer.BRONZE,
    name="tickets",
    doc="Tickets sold, as they landed",
    grain="one row per booking and movie, once per file",
    owner="box-office",
    freshness=timedelta(days=1),
    time_column="sold_time",
    columns=(
        Column("card_id", LONG, "Card of the guest", required=True, pii=Pii.PSEUDONYM),
        Column("venue_id", LONG, "Venue", required=True),
        Column("booking_id", LONG, "Booking", required=True),
        Column("movie_id", LONG, "Movie", required=True),
        Column("seats", LONG, "Seats booked", required=True),
        _amount("paid", "What the guest paid"),
        _amount("saved", "Discount of the card"),
        Column("show_week", LONG, "Week of the season, from 1", required=True),
        Column("sold_time", TIMESTAMP, "When the booking was paid, UTC", required=True),
        *AUDIT_COLUMNS,
    ),
    rules=(
        Rule(
            "not_after_landing",
            "CAST(sold_time AS DATE) <= _landed_date",
            "the ticket was sold after the day its file landed",
        ),
    ),
)

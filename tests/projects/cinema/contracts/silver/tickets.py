"""`silver.tickets`: what guests booked, one row per booking and movie."""

from datetime import timedelta

from cinema.columns import GUEST_ID, MOVIE_ID, SHOW_WEEK, VENUE_ID

from contracts.model import LONG, MONEY, TIMESTAMP, Column, Layer, Reference, Rule, Severity, Table

tickets = Table(
    layer=Layer.SILVER,
    name="tickets",
    doc="What guests booked",
    grain="one row per booking and movie",
    owner="box-office",
    freshness=timedelta(days=1),
    inputs=("bronze.tickets",),
    key=("booking_id", "movie_id"),
    time_column="sold_at",
    columns=(
        Column("booking_id", LONG, "Booking", required=True, minimum=1),
        MOVIE_ID,
        GUEST_ID,
        VENUE_ID,
        Column("sold_at", TIMESTAMP, "When the booking was paid", required=True, source="sold_time"),
        SHOW_WEEK,
        Column("seats", LONG, "Seats booked", required=True, minimum=0),
        Column("paid", MONEY, "What the guest paid, after discounts", required=True, minimum=0, unit="USD"),
        Column("saved", MONEY, "Discount of the card", required=True, minimum=0, unit="USD"),
    ),
    rules=(Rule("seats_positive", "seats <> 0", "seats is 0", Severity.WARNING),),
    references=(Reference(("movie_id",), "silver.movies", ("movie_id",)),),
)

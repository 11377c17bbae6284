"""`gold.movie_demand`: how many seats of a movie were sold lately, to how many, and how many while it was showcased."""

from cinema.columns import MOVIE_ID
from cinema.contracts.silver.showcases import showcases
from cinema.contracts.silver.tickets import tickets

from contracts.aggregations import Distinct, MappedInTime, Ratio, Sum, days, feature_table
from contracts.model import LONG, Column, Reference

movie_demand = feature_table(
    name="movie_demand",
    doc="How many seats of a movie were sold lately",
    owner="ml-platform",
    grain="one row per movie and midnight at which a window changes",
    key=(MOVIE_ID,),
    events=tickets,
    joined=(MappedInTime(showcases, by=("show_week",)),),
    prepared=(Column("showcased_seats", LONG, "Seats sold while showcased", required=True, minimum=0, source="seats"),),
    aggregations=(
        Sum("sold", "seats", windows=days(7, 28), unit="seats"),
        Distinct("visitors", "guest_id", windows=days(7, 28), doc="Distinct guests", unit="guests"),
        Sum("takings", "paid", windows=days(7, 28)),
        Ratio(
            "showcased_share",
            part=Sum(of="showcased_seats"),
            whole=Sum(of="seats"),
            windows=days(28),
            meaning="Seats sold while showcased / seats over {window}, 0 when no seats",
            minimum=0,
            maximum=1,
        ),
    ),
    references=(Reference(("movie_id",), "silver.movies", ("movie_id",)),),
)

"""`silver.showcases`: which movie was in the trailers or on the posters, where and in which week."""

from datetime import timedelta

from cinema.columns import MOVIE_ID, SHOW_WEEK, VENUE_ID, landed

from contracts.model import STRING, Column, Layer, Reference, Table

showcases = Table(
    layer=Layer.SILVER,
    name="showcases",
    doc="Movies shown in trailers or on posters",
    grain="one row per movie, venue, week and pair of slots",
    owner="programming",
    freshness=timedelta(weeks=1),
    inputs=("bronze.showcases",),
    key=("movie_id", "venue_id", "show_week", "trailer_slot", "poster_slot"),
    time_column="landed_date",
    columns=(
        MOVIE_ID,
        VENUE_ID,
        SHOW_WEEK,
        Column("trailer_slot", STRING, "Slot of the trailer, 0 for none", required=True, pattern="[0-9A-Z]"),
        Column("poster_slot", STRING, "Slot of the poster, 0 for none", required=True, pattern="[0-9A-Z]"),
        landed("landed_date", "Date of the weekly delivery"),
    ),
    references=(Reference(("movie_id",), "silver.movies", ("movie_id",)),),
)

"""`bronze.showcases`: movies shown in trailers or on posters of a venue, as they landed."""

from datetime import timedelta

from contracts.columns import AUDIT_COLUMNS
from contracts.model import LONG, STRING, Column, Layer, Table

showcases = Table(
    layer=Layer.BRONZE,
    name="showcases",
    doc="Movies shown in trailers or on posters of a venue, as they landed",
    grain="one row per movie, venue, week and pair of slots, once per file",
    owner="programming",
    freshness=timedelta(weeks=1),
    time_column="_landed_date",
    columns=(
        Column("movie_id", LONG, "Movie", required=True),
        Column("venue_id", LONG, "Venue", required=True),
        Column("trailer_slot", STRING, "Slot of the trailer, 0 for none", required=True),
        Column("poster_slot", STRING, "Slot of the poster, 0 for none", required=True),
        Column("show_week", LONG, "Week of the season, from 1", required=True),
        *AUDIT_COLUMNS,
    ),
)

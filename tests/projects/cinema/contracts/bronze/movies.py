"""`bronze.movies`: the program, as it landed."""

from datetime import timedelta

from contracts.columns import AUDIT_COLUMNS
from contracts.model import LONG, STRING, Column, Layer, Load, Table

movies = Table(
    layer=Layer.BRONZE,
    name="movies",
    doc="The program, as it landed",
    grain="one row per movie and snapshot",
    owner="programming",
    freshness=timedelta(days=400),
    load=Load.SNAPSHOT,
    time_column="_landed_date",
    columns=(
        Column("movie_id", LONG, "Movie", required=True),
        Column("studio_id", LONG, "Studio"),
        Column("genre", STRING, "Genre"),
        Column("length", STRING, "Feature or Short"),
        Column("title", STRING, "Title as printed"),
        *AUDIT_COLUMNS,
    ),
)

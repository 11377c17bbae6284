"""`silver.movies`: the newest entry of each movie in the program."""

from datetime import timedelta

from cinema.columns import MOVIE_ID, landed

from contracts.model import LONG, STRING, Column, Layer, Load, Severity, Table

movies = Table(
    layer=Layer.SILVER,
    name="movies",
    doc="The newest entry of each movie in the program",
    grain="one row per movie",
    owner="programming",
    freshness=timedelta(days=400),
    load=Load.SNAPSHOT,
    inputs=("bronze.movies",),
    key=("movie_id",),
    columns=(
        MOVIE_ID,
        Column("studio_id", LONG, "Studio", minimum=1),
        Column("genre", STRING, "Genre, such as DRAMA"),
        Column("length", STRING, "How long it is", allowed=("Feature", "Short"), severity=Severity.WARNING),
        Column("title", STRING, "Title as printed"),
        landed("snapshot_date", "Date of the program that the entry comes from"),
    ),
)

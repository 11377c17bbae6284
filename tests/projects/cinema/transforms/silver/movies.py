"""`silver.movies`: the program, whose titles the box office pads with blanks."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from etl.silver import PROVENANCE


def clean(movies: DataFrame) -> DataFrame:
    """One row per row of `movies`."""
    title, snapshot_date = F.trim("title").alias("title"), F.col("_landed_date").alias("snapshot_date")
    return movies.select("movie_id", "studio_id", "genre", "length", title, snapshot_date, *PROVENANCE)

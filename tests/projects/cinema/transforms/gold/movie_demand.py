"""`gold.movie_demand`: which seats were sold while their movie was showcased."""

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

SHOWING = ("movie_id", "venue_id", "show_week")
"""What a showcase and a ticket share."""


def events(tickets: DataFrame, showcases: DataFrame) -> DataFrame:
    """The tickets with `showcased_seats`."""
    shown = showcases.filter("trailer_slot <> '0' OR poster_slot <> '0'").select(*SHOWING).distinct()
    showcased = shown.withColumn("is_showcased", F.lit(True))
    seats = F.when(F.col("is_showcased"), F.col("seats")).otherwise(0)
    return tickets.join(showcased, list(SHOWING), "left").withColumn("showcased_seats", seats)

"""`gold.tier_takings`: payments of the last seven days, by tier."""

from collections.abc import Sequence

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from contracts.interval import DAY, Interval
from etl import engine


def features(midnights: Sequence[Interval], payments: DataFrame, players: DataFrame) -> DataFrame:
    """One row per tier and midnight with payments in the week before."""
    days = [(interval.start + n * DAY,) for interval in midnights for n in range(interval.days)]
    asked = engine.session().createDataFrame(days or [(None,)], "midnight date")
    paid = payments.join(players.select("player", "tier"), "player")
    inside = (F.col("paid_on") < F.col("midnight")) & (F.col("paid_on") >= F.date_sub("midnight", 7))
    found = asked.join(paid, inside).groupBy("tier", "midnight")
    sums = found.agg(F.sum("amount").alias("takings"), F.count_distinct("player").alias("payers"))
    return sums.select(
        "tier",
        F.col("midnight").cast("timestamp").alias("event_timestamp"),
        F.col("takings").cast("decimal(18,2)").alias("takings"),
        "payers",
    )

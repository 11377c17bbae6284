"""Silver: one module a table, each with `clean(...)`: pure PySpark from bronze DataFrames to the columns of its contract.

A cleaned frame keeps bronze's audit columns; staging uses them to let the newest delivery of a key win, and drops them.
"""

from pyspark.sql import Column
from pyspark.sql import functions as F

PROVENANCE = ("_landed_date", "_loaded_at", "_file")


def customer_id() -> Column:
    """The household that shops is our customer."""
    return F.col("household_id").alias("customer_id")


def day(name: str) -> Column:
    """An instant's day."""
    return F.to_date(F.col(name)).alias(name)


def snapshot_date() -> Column:
    """The date of the folder is the date of the state it holds."""
    return F.col("_landed_date").alias("snapshot_date")

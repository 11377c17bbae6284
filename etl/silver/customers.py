"""`silver.customers`: the survey's answers, each with the date of its snapshot."""

from pyspark.sql import DataFrame

from etl.silver import PROVENANCE, customer_id, snapshot_date

ANSWERS = ("age", "income", "home_ownership", "marital_status", "household_size", "household_comp", "kids_count")


def clean(demographics: DataFrame) -> DataFrame:
    """One row per row that came in."""
    return demographics.select(customer_id(), snapshot_date(), *ANSWERS, *PROVENANCE)

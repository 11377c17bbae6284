"""`silver.transactions`: money becomes exact, the household a customer, the naive timestamp an instant in UTC."""

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from etl.silver import PROVENANCE, customer_id


def clean(transactions: DataFrame) -> DataFrame:
    """One row per row that came in."""
    return transactions.select(
        "basket_id",
        "product_id",
        customer_id(),
        "store_id",
        F.col("transaction_timestamp").alias("transaction_at"),
        "week",
        "quantity",
        *(_money(name) for name in ("sales_value", "retail_disc", "coupon_disc", "coupon_match_disc")),
        *PROVENANCE,
    )


def _money(name: str) -> Column:
    """Cents, half away from zero; NULL, for the audit to find, where ten digits before the point are too few."""
    return F.col(name).try_cast("decimal(12,2)").alias(name)

"""`silver.transactions`: money becomes exact, the household a customer, the naive timestamp an instant in UTC."""

from decimal import Decimal

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
    """Cents, half away from zero; NULL, for the audit to find, where ten digits before the point are too few.

    Whole cents first: casting 1.005 straight to two digits gives 1.01 on Spark, which goes by the printed number, and 1.00 on Sail, which goes by its double.
    """
    cents = F.round(F.col(name) * 100).try_cast("decimal(14,0)")
    return (cents * F.lit(Decimal("0.01"))).try_cast("decimal(12,2)").alias(name)

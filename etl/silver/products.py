"""`silver.products`: the catalogue, each entry with the date of its snapshot."""

from pyspark.sql import DataFrame

from etl.silver import PROVENANCE, snapshot_date


def clean(products: DataFrame) -> DataFrame:
    """One row per row that came in."""
    return products.select(
        "product_id", "manufacturer_id", "department", "brand", "product_category", "product_type", "package_size", snapshot_date(), *PROVENANCE
    )

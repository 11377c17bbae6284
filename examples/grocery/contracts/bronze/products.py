"""`bronze.products`: the product catalogue, as it landed."""

from datetime import timedelta

from contracts.columns import AUDIT_COLUMNS
from contracts.model import LONG, STRING, Column, Layer, Load, Table

products = Table(
    layer=Layer.BRONZE,
    name="products",
    doc="The product catalogue, as it landed",
    grain="one row per product and snapshot",
    owner="data-platform",
    freshness=timedelta(days=400),
    load=Load.SNAPSHOT,
    time_column="_landed_date",
    columns=(
        Column("product_id", LONG, "Product", required=True),
        Column("manufacturer_id", LONG, "Manufacturer"),
        Column("department", STRING, "Department"),
        Column("brand", STRING, "National or Private"),
        Column("product_category", STRING, "Category"),
        Column("product_type", STRING, "Type within the category"),
        Column("package_size", STRING, "Size as printed"),
        *AUDIT_COLUMNS,
    ),
)

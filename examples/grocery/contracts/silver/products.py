"""`silver.products`: the newest catalogue entry of each product."""

from datetime import timedelta

from contracts.model import LONG, STRING, Column, Layer, Load, Severity, Table
from grocery.columns import PRODUCT_ID, landed

products = Table(
    layer=Layer.SILVER,
    name="products",
    doc="The newest catalogue entry of each product",
    grain="one row per product",
    owner="merchandising",
    freshness=timedelta(days=400),
    load=Load.SNAPSHOT,
    inputs=("bronze.products",),
    key=("product_id",),
    columns=(
        PRODUCT_ID,
        Column("manufacturer_id", LONG, "Manufacturer", minimum=1),
        Column("department", STRING, "Department, such as GROCERY"),
        Column("brand", STRING, "Whose label", allowed=("National", "Private"), severity=Severity.WARNING),
        Column("product_category", STRING, "Category within the department"),
        Column("product_type", STRING, "Type within the category"),
        Column("package_size", STRING, "Size as printed on the package"),
        landed("snapshot_date", "Date of the catalogue that the entry comes from"),
    ),
)

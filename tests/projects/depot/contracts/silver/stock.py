"""`silver.stock`: what the depot has."""

from datetime import timedelta

from contracts.model import LONG, STRING, Column, Layer, Load, Table

stock = Table(
    layer=Layer.SILVER,
    name="stock",
    doc="What the depot has",
    grain="one row per product",
    owner="depot",
    freshness=timedelta(days=1),
    load=Load.SNAPSHOT,
    inputs=("bronze.stock",),
    key=("product",),
    columns=(
        Column("product", STRING, "Product", required=True),
        Column("pieces", LONG, "How many there are", required=True, minimum=0),
    ),
)

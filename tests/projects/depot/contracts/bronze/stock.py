"""`bronze.stock`: what the depot has, a snapshot with each pull."""

from datetime import timedelta

from contracts.columns import AUDIT_COLUMNS
from contracts.model import LONG, STRING, Column, Database, Layer, Load, Table

stock = Table(
    layer=Layer.BRONZE,
    name="stock",
    doc="What the depot has, a snapshot with each pull",
    grain="one row per product and pull",
    owner="depot",
    freshness=timedelta(days=1),
    load=Load.SNAPSHOT,
    database=Database("depot", "stock"),
    time_column="_landed_date",
    columns=(
        Column("product", STRING, "Product", required=True),
        Column("pieces", LONG, "How many there are", required=True),
        *AUDIT_COLUMNS,
    ),
)

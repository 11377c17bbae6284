"""`bronze.orders`: orders of the shop, as they landed."""

from datetime import timedelta

from contracts.columns import AUDIT_COLUMNS
from contracts.model import DOUBLE, STRING, TIMESTAMP, Column, Layer, Table

orders = Table(
    layer=Layer.BRONZE,
    name="orders",
    doc="Orders of the shop, as they landed",
    grain="one row per order, once per file",
    owner="shop",
    freshness=timedelta(days=1),
    time_column="ordered_at",
    columns=(
        Column("order_id", STRING, "Order", required=True),
        Column("customer", STRING, "Customer", required=True),
        Column("ordered_at", TIMESTAMP, "When it was ordered, UTC", required=True),
        Column("category", STRING, "What was bought"),
        Column("amount", DOUBLE, "What was paid", required=True, minimum=-1e9, maximum=1e9, unit="EUR"),
        *AUDIT_COLUMNS,
    ),
)

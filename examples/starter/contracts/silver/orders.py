"""`silver.orders`: one row per order, with exact money. Each column is bronze's column of the same name, cast to the
type it has here.
"""

from datetime import timedelta

from contracts.model import MONEY, STRING, TIMESTAMP, Column, Layer, Table
from starter.columns import CUSTOMER

orders = Table(
    layer=Layer.SILVER,
    name="orders",
    doc="Orders of the shop",
    grain="one row per order",
    owner="shop",
    freshness=timedelta(days=1),
    inputs=("bronze.orders",),
    key=("order_id",),
    time_column="ordered_at",
    columns=(
        Column("order_id", STRING, "Order", required=True),
        CUSTOMER,
        Column("ordered_at", TIMESTAMP, "When it was ordered", required=True),
        Column("category", STRING, "What was bought"),
        Column("amount", MONEY, "What was paid", required=True, minimum=0, unit="EUR"),
    ),
)

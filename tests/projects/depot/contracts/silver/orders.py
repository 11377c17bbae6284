"""`silver.orders`: the orders as they are in the shop's database."""

from datetime import timedelta

from contracts.model import BOOLEAN, DATE, LONG, MONEY, STRING, TIMESTAMP, Column, Layer, Table

orders = Table(
    layer=Layer.SILVER,
    name="orders",
    doc="The orders as they are in the shop's database",
    grain="one row per order",
    owner="depot",
    freshness=timedelta(days=1),
    inputs=("bronze.orders",),
    key=("order_id",),
    time_column="ordered_at",
    columns=(
        Column("order_id", LONG, "Order", required=True, source="id"),
        Column("customer", STRING, "Customer", required=True),
        Column("ordered_at", TIMESTAMP, "When it was ordered", required=True),
        Column("amount", MONEY, "Amount", required=True, maximum=1000, unit="EUR"),
        Column("paid", BOOLEAN, "Whether it is paid"),
        Column("due_on", DATE, "When it is to be paid"),
        Column("remark", STRING, "What the customer says"),
    ),
)

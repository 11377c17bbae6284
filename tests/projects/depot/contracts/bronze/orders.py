"""`bronze.orders`: each change of an order, as Debezium reads it from the shop's database."""

from datetime import timedelta

from contracts.columns import AUDIT_COLUMNS, CHANGE_COLUMNS, STREAM_COLUMNS
from contracts.model import BOOLEAN, DATE, LONG, MONEY, STRING, TIMESTAMP, Column, Format, Layer, Load, Table, Topic

orders = Table(
    layer=Layer.BRONZE,
    name="orders",
    doc="Each change of an order",
    grain="one row per change",
    owner="depot",
    freshness=timedelta(days=1),
    load=Load.CHANGES,
    topic=Topic("shop.public.orders", format=Format.DEBEZIUM),
    key=("id",),
    time_column="ordered_at",
    columns=(
        Column("id", LONG, "Order", required=True),
        Column("customer", STRING, "Customer"),
        Column("ordered_at", TIMESTAMP, "When it was ordered"),
        Column("amount", MONEY, "Amount", unit="EUR"),
        Column("paid", BOOLEAN, "Whether it is paid"),
        Column("due_on", DATE, "When it is to be paid"),
        Column("remark", STRING, "What the customer says", source="note"),
        *AUDIT_COLUMNS,
        *STREAM_COLUMNS,
        *CHANGE_COLUMNS,
    ),
)

"""`bronze.payments`: what players paid, as it landed."""

from datetime import timedelta

from contracts.columns import AUDIT_COLUMNS
from contracts.model import DATE, DOUBLE, LONG, STRING, Column, Layer, Table

payments = Table(
    layer=Layer.BRONZE,
    name="payments",
    doc="What players paid, as it landed",
    grain="one row per payment, once per file",
    owner="finance",
    freshness=timedelta(days=1),
    time_column="paid_on",
    columns=(
        Column("number", LONG, "Payment", required=True),
        Column("player", STRING, "Player", required=True),
        Column("paid_on", DATE, "Day of the payment", required=True),
        Column("amount", DOUBLE, "Amount", required=True, minimum=-1e9, maximum=1e9, unit="EUR"),
        *AUDIT_COLUMNS,
    ),
)

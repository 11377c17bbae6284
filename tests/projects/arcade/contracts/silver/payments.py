"""`silver.payments`: what players paid; refunds are negative."""

from datetime import timedelta

from arcade.columns import PLAYER

from contracts.model import DATE, LONG, MONEY, Column, Layer, Table

payments = Table(
    layer=Layer.SILVER,
    name="payments",
    doc="What players paid; refunds are negative",
    grain="one row per payment",
    owner="finance",
    freshness=timedelta(days=1),
    inputs=("bronze.payments",),
    key=("number",),
    time_column="paid_on",
    columns=(
        Column("number", LONG, "Payment", required=True, minimum=1),
        PLAYER,
        Column("paid_on", DATE, "Day of the payment", required=True),
        Column("amount", MONEY, "Amount", required=True, unit="EUR"),
    ),
)

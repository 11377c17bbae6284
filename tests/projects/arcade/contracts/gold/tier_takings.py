"""`gold.tier_takings`: what the players of a tier paid in the week before a midnight. No aggregation: a plain
transform.
"""

from datetime import timedelta

from contracts.columns import AT_MIDNIGHT, EVENT_TIMESTAMP
from contracts.model import LONG, MONEY_SUM, STRING, Column, Layer, Table

tier_takings = Table(
    layer=Layer.GOLD,
    name="tier_takings",
    doc="What the players of a tier paid in the week before a midnight",
    grain="one row per tier and midnight with payments in the week before",
    owner="finance",
    freshness=timedelta(days=1),
    inputs=("silver.payments", "silver.players"),
    key=("tier", "event_timestamp"),
    time_column="event_timestamp",
    history=timedelta(days=7),
    columns=(
        Column("tier", STRING, "Tier", required=True),
        EVENT_TIMESTAMP,
        Column("takings", MONEY_SUM, "Sum of the payments", required=True, unit="EUR"),
        Column("payers", LONG, "Players who paid", required=True, minimum=0),
    ),
    rules=(AT_MIDNIGHT,),
)

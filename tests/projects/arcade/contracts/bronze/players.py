"""`bronze.players`: every player's tier, as it landed."""

from datetime import timedelta

from contracts.columns import AUDIT_COLUMNS
from contracts.model import STRING, Column, Layer, Load, Table

players = Table(
    layer=Layer.BRONZE,
    name="players",
    doc="Every player's tier, as it landed",
    grain="one row per player and snapshot",
    owner="crm",
    freshness=timedelta(days=30),
    load=Load.SNAPSHOT,
    time_column="_landed_date",
    columns=(
        Column("player", STRING, "Player", required=True),
        Column("tier", STRING, "basic or gold"),
        Column("country", STRING, "Country"),
        *AUDIT_COLUMNS,
    ),
)

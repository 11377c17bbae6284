"""`silver.players`: the newest tier of each player."""

from datetime import timedelta

from arcade.columns import PLAYER

from contracts.model import STRING, Column, Layer, Load, Table

players = Table(
    layer=Layer.SILVER,
    name="players",
    doc="The newest tier of each player",
    grain="one row per player",
    owner="crm",
    freshness=timedelta(days=30),
    load=Load.SNAPSHOT,
    inputs=("bronze.players",),
    key=("player",),
    columns=(
        PLAYER,
        Column("tier", STRING, "Tier", required=True, allowed=("basic", "gold")),
        Column("country", STRING, "Country"),
    ),
)

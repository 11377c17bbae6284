"""`silver.plays`: finished rounds."""

from datetime import timedelta

from arcade.columns import GAME, PLAYER

from contracts.model import LONG, MONEY, STRING, TIMESTAMP, Column, Layer, Table

plays = Table(
    layer=Layer.SILVER,
    name="plays",
    doc="Finished rounds",
    grain="one row per round",
    owner="games",
    freshness=timedelta(days=1),
    inputs=("bronze.plays",),
    key=("round",),
    time_column="ended_at",
    columns=(
        Column("round", STRING, "Round", required=True),
        PLAYER,
        GAME,
        Column("mode", STRING, "How it was played", allowed=("casual", "ranked")),
        Column("ended_at", TIMESTAMP, "When the round ended", required=True),
        Column("seconds", LONG, "How long it took", required=True, minimum=0, unit="s"),
        Column("stake", MONEY, "What was at stake", unit="EUR"),
    ),
)

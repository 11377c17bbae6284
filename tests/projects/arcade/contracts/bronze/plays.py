"""`bronze.plays`: finished rounds, as they landed."""

from datetime import timedelta

from contracts.columns import AUDIT_COLUMNS, STREAM_COLUMNS
from contracts.model import DOUBLE, LONG, STRING, TIMESTAMP, Column, Layer, Table, Topic

plays = Table(
    layer=Layer.BRONZE,
    name="plays",
    doc="Finished rounds, as they landed",
    grain="one row per round, once per file",
    owner="games",
    freshness=timedelta(days=1),
    topic=Topic("plays"),
    time_column="ended_at",
    columns=(
        Column("round", STRING, "Round", required=True),
        Column("player", STRING, "Player", required=True),
        Column("game", STRING, "Game", required=True),
        Column("mode", STRING, "casual or ranked"),
        Column("ended_at", TIMESTAMP, "When the round ended, UTC", required=True),
        Column("seconds", LONG, "How long it took", required=True),
        Column("stake", DOUBLE, "What was at stake", minimum=-1e9, maximum=1e9, unit="EUR"),
        *AUDIT_COLUMNS,
        *STREAM_COLUMNS,
    ),
)

"""`gold.player_payments`: what a player has paid lately, counted by the tier that the player has now."""

from arcade.columns import PLAYER
from arcade.contracts.silver.payments import payments
from arcade.contracts.silver.players import players

from contracts.aggregations import Count, Dimension, Latest, Sum, days, feature_table
from contracts.model import TIMESTAMP

player_payments = feature_table(
    name="player_payments",
    doc="What a player has paid lately",
    owner="finance",
    key=(PLAYER,),
    events=payments,
    joined=(Dimension(players, on=("player",), take=("tier",)),),
    aggregations=(
        Sum("paid", "amount", windows=days(30, 180)),
        Sum("paid_as_gold", "amount", windows=days(180), where="tier = 'gold'"),
        Count("payments", windows=days(30)),
        Latest("last_paid_at", "CAST(paid_on AS timestamp)", type=TIMESTAMP),
    ),
)

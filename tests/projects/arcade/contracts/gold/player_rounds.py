"""`gold.player_rounds`: what a player has played lately."""

from arcade.columns import PLAYER
from arcade.contracts.silver.plays import plays

from contracts.aggregations import Count, Distinct, Latest, Max, Mean, Min, Ratio, Sum, days, feature_table

player_rounds = feature_table(
    name="player_rounds",
    doc="What a player has played lately",
    owner="games",
    key=(PLAYER,),
    events=plays,
    aggregations=(
        Count("rounds", windows=days(1, 7, 180), doc="Rounds"),
        Count("ranked_rounds", windows=days(30), where="mode = 'ranked'", doc="Ranked rounds"),
        Sum("seconds", "seconds", windows=days(7, 180)),
        Distinct("games", "game", windows=days(30, 180)),
        Distinct("ranked_games", "game", windows=days(30), where="mode = 'ranked'"),
        Min("smallest_stake", "stake", windows=days(30)),
        Max("largest_stake", "stake", windows=days(30)),
        Mean("mean_stake", "stake", windows=days(30)),
        Ratio(
            "ranked_share",
            part=Count(where="mode = 'ranked'"),
            whole=Count(),
            windows=days(30),
            minimum=0,
            maximum=1,
        ),
        Latest("last_game", "game"),
        Latest("last_ranked_at", where="mode = 'ranked'"),
    ),
)

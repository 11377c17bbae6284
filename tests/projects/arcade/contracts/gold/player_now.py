"""`gold.player_now`: what a player has played up to any instant."""

from arcade.columns import PLAYER
from arcade.contracts.silver.plays import plays

from contracts.aggregations import (
    At,
    Count,
    Distinct,
    First,
    Latest,
    Max,
    Mean,
    Min,
    Ratio,
    Sum,
    days,
    feature_table,
    hours,
    minutes,
)

RANKED = "mode = 'ranked'"

player_now = feature_table(
    name="player_now",
    doc="What a player has played up to any instant",
    owner="games",
    key=(PLAYER,),
    events=plays,
    at=At.INSTANTS,
    aggregations=(
        Count("rounds_now", windows=(*minutes(10), *hours(1, 24), *days(7))),
        Count("ranked_now", where=RANKED, windows=hours(1)),
        Count("staked_now", "stake", windows=hours(24)),
        Sum("seconds_now", "seconds", windows=(*minutes(10), *days(7))),
        Sum("ranked_seconds_now", "seconds", where=RANKED, windows=hours(24)),
        Sum("stakes_now", "stake", windows=hours(24), minimum=None),
        Distinct("games_now", "game", windows=(*hours(1), *days(7))),
        Distinct("modes_now", "mode", windows=hours(24)),
        Min("least_stake_now", "stake", windows=hours(24)),
        Max("most_stake_now", "stake", windows=hours(24)),
        Max("longest_now", "seconds", windows=hours(24)),
        Mean("mean_stake_now", "stake", windows=days(7)),
        Ratio("ranked_share_now", part=Count(where=RANKED), whole=Count(), windows=hours(24)),
        Ratio("stake_a_second_now", part=Sum(of="stake"), whole=Sum(of="seconds"), windows=days(7), empty=None),
        Latest("newest_at_now"),
        Latest("newest_game_now", "game"),
        Latest("ranked_at_now", where=RANKED),
        Latest("newest_stake_now", "stake", windows=hours(1)),
        First("first_game_now", "game", windows=hours(24)),
        First("first_at_now", windows=days(7)),
    ),
)

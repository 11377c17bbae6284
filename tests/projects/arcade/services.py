"""One service for everything that is known about a player."""

from feast import FeatureService

from features import views

player_v1 = FeatureService(
    name="player_v1",
    features=[
        views.view("player_rounds"),
        views.view("player_payments"),
        views.view("tier_takings"),
        views.view("player_now"),
    ],
    description="Everything that is known about a player",
    owner="games",
)

"""The feature services of the cinema, and the features that are computed on demand."""

from cinema import on_demand
from feast import FeatureService

from features import views

guest_activity = views.view("guest_activity")
guest_profile = views.view("guest_profile")
movie_demand = views.view("movie_demand")
guest_movie = views.view("guest_movie")

guest_recency = views.on_demand_view(
    "guest_recency",
    on_demand.days_since_last_booking,
    guest_activity[["last_booked_at"]],
    "Days from the guest's last booking to request_time, fractional",
)
guest_movie_recency = views.on_demand_view(
    "guest_movie_recency",
    on_demand.days_since_last_visit,
    guest_movie[["last_seen_at"]],
    "Days from the guest's last visit to the movie to request_time, fractional",
)
guest_movie_decay = views.on_demand_view(
    "guest_movie_decay",
    on_demand.faded_visits,
    guest_movie[["recall_weight", "last_seen_at"]],
    "Remembered visits to the movie, each counted half for every 60 days before request_time",
)

suggestion_v1 = FeatureService(
    name="suggestion_v1",
    features=[
        guest_activity,
        movie_demand,
        guest_movie,
        guest_profile,
        guest_recency,
        guest_movie_recency,
        guest_movie_decay,
    ],
    description="Will this guest like this movie? All features",
    owner="ml-platform",
)
guest_value_v1 = FeatureService(
    name="guest_value_v1",
    features=[guest_activity, guest_profile],
    description="What is this guest worth? Activity and profile",
    owner="ml-platform",
)

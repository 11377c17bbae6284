"""`gold.guest_movie`: how often a guest has booked a movie lately, and when last.

A booking holds a movie in one row (the key of silver.tickets), so rows count distinct bookings.
"""

from cinema.columns import GUEST_ID, MOVIE_ID
from cinema.contracts.silver.tickets import tickets

from contracts.aggregations import Count, Decayed, First, Latest, before_latest, days, feature_table
from contracts.model import Rule

RECALL, HALF_LIFE = 365, 60
"""Days: how far back from the newest visit is remembered, and how much earlier a visit counts half."""

guest_movie = feature_table(
    name="guest_movie",
    doc="How often a guest has booked a movie lately, and when last",
    owner="ml-platform",
    grain="one row per guest, movie and midnight at which the window changes",
    key=(GUEST_ID, MOVIE_ID),
    events=tickets,
    aggregations=(
        Count("visits", windows=days(90), doc="Distinct bookings of the movie", unit="bookings"),
        Latest("last_seen_at", doc="Newest visit"),
        Count(
            "recall_visits",
            windows=before_latest(RECALL),
            meaning="Distinct bookings of the movie in the {window} that end with the day of last_seen_at",
            minimum=1,
            unit="bookings",
        ),
        First(
            "recall_began_at",
            windows=before_latest(RECALL),
            meaning="Oldest visit in the {window} that end with the day of last_seen_at",
        ),
        Decayed(
            "recall_weight",
            windows=before_latest(RECALL),
            half_life=HALF_LIFE,
            meaning=(
                f"Sum over these bookings of round(2^20 * 2^(-k / {HALF_LIFE})), k being the whole days from the"
                " booking's day to that of last_seen_at"
            ),
            minimum=1,
        ),
    ),
    rules=(
        Rule("recall_is_past", "recall_began_at <= last_seen_at", "recall_began_at is after last_seen_at"),
        Rule("recall_holds_the_window", "visits_90d <= recall_visits", "90 days hold more visits than the recall"),
    ),
)

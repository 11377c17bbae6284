"""Features of the moment of the request: days since the last visit, and visits that fade as days pass."""

from __future__ import annotations


def days_since_last_booking(inputs: dict[str, list]) -> dict[str, list]:
    """Feast runs this from its source text, so what it needs is imported inside."""
    from features.on_demand import days_between

    days = [
        days_between(later, earlier)
        for later, earlier in zip(inputs["request_time"], inputs["last_booked_at"], strict=True)
    ]
    return {"days_since_last_booking": days, "guest_recency__days_since_last_booking": days}


def days_since_last_visit(inputs: dict[str, list]) -> dict[str, list]:
    """Feast runs this from its source text, so what it needs is imported inside."""
    from features.on_demand import days_between

    days = [
        days_between(later, earlier)
        for later, earlier in zip(inputs["request_time"], inputs["last_seen_at"], strict=True)
    ]
    return {"days_since_last_visit": days, "guest_movie_recency__days_since_last_visit": days}


ONE_VISIT, HALF_LIFE = 2**20, 60
"""What a visit on the day of the newest weighs in `recall_weight`, and after how many days a visit counts half: as
gold.guest_movie has it.
"""


def faded(weight: int | None, days: float | None) -> float | None:
    """Visits, each counted as 2 ** (-its age / HALF_LIFE), from the weight they had at the newest and the days since
    then; None where either is.
    """
    return None if weight is None or days is None else float(weight / ONE_VISIT * 2.0 ** (-days / HALF_LIFE))


def faded_visits(inputs: dict[str, list]) -> dict[str, list]:
    """Feast runs this from its source text, so what it needs is imported inside."""
    from cinema.on_demand import faded

    from features.on_demand import days_between

    moments = zip(inputs["request_time"], inputs["last_seen_at"], inputs["recall_weight"], strict=True)
    counts = [faded(weight, days_between(later, earlier)) for later, earlier, weight in moments]
    return {"faded_visits": counts, "guest_movie_decay__faded_visits": counts}

"""What depends on the moment of the request, and so is computed on demand: days since a past event, and purchases that fade as days pass.

A day is 86,400 seconds and a result is fractional (36 hours are 1.5). It is None when either moment is, and negative when the event is later than
the request. Moments count in whole seconds, because that is what Feast serves.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

SECONDS_A_DAY = 86_400


def days_between(later: Any, earlier: Any) -> float | None:
    """Days from `earlier` to `later`; each is a datetime (naive: UTC), an ISO text or epoch seconds."""
    end, start = _seconds(later), _seconds(earlier)
    return None if end is None or start is None else (end - start) / SECONDS_A_DAY


def _seconds(moment: Any) -> int | None:
    if type(moment) is datetime and moment.tzinfo is UTC:  # as Feast has them
        return math.floor(moment.timestamp())
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if moment is None or moment != moment:  # NaT and NaN differ from themselves
        return None
    if isinstance(moment, datetime):
        return math.floor((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    return int(moment)


def days_since_last_basket(inputs: dict[str, list]) -> dict[str, list]:
    """Feast runs this from its source text, so what it needs is imported inside."""
    from features.on_demand import days_between

    days = [days_between(later, earlier) for later, earlier in zip(inputs["request_time"], inputs["last_basket_at"], strict=True)]
    return {"days_since_last_basket": days, "customer_recency__days_since_last_basket": days}


def days_since_last_purchase(inputs: dict[str, list]) -> dict[str, list]:
    """Feast runs this from its source text, so what it needs is imported inside."""
    from features.on_demand import days_between

    days = [days_between(later, earlier) for later, earlier in zip(inputs["request_time"], inputs["last_purchased_at"], strict=True)]
    return {"days_since_last_purchase": days, "customer_product_recency__days_since_last_purchase": days}


ONE_PURCHASE, HALF_LIFE = 2**20, 60
"""What a purchase on the day of the newest weighs in `memory_weight`, and after how many days a purchase counts half: as gold.customer_product has it."""


def faded(weight: int | None, days: float | None) -> float | None:
    """Purchases, each counted as 2 ** (-its age / HALF_LIFE), from the weight they had at the newest and the days since then; None where either is."""
    return None if weight is None or days is None else float(weight / ONE_PURCHASE * 2.0 ** (-days / HALF_LIFE))


def decayed_purchases(inputs: dict[str, list]) -> dict[str, list]:
    """Feast runs this from its source text, so what it needs is imported inside."""
    from features.on_demand import days_between, faded

    moments = zip(inputs["request_time"], inputs["last_purchased_at"], inputs["memory_weight"], strict=True)
    faded_counts = [faded(weight, days_between(later, earlier)) for later, earlier, weight in moments]
    return {"decayed_purchases": faded_counts, "customer_product_decay__decayed_purchases": faded_counts}


def days_since_memory_began(inputs: dict[str, list]) -> dict[str, list]:
    """Feast runs this from its source text, so what it needs is imported inside."""
    from features.on_demand import days_between

    days = [days_between(later, earlier) for later, earlier in zip(inputs["request_time"], inputs["memory_began_at"], strict=True)]
    return {"days_since_memory_began": days, "customer_product_memory__days_since_memory_began": days}

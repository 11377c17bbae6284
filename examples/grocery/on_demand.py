"""Features of the moment of the request: days since the last purchase, purchases that fade as days pass, and how a
line compares with what the customer has bought so far.
"""

from __future__ import annotations


def days_since_last_basket(inputs: dict[str, list]) -> dict[str, list]:
    """Feast runs this from its source text, so what it needs is imported inside."""
    from features.on_demand import days_between

    days = [
        days_between(later, earlier)
        for later, earlier in zip(inputs["request_time"], inputs["last_basket_at"], strict=True)
    ]
    return {"days_since_last_basket": days, "customer_recency__days_since_last_basket": days}


def days_since_last_purchase(inputs: dict[str, list]) -> dict[str, list]:
    """Feast runs this from its source text, so what it needs is imported inside."""
    from features.on_demand import days_between

    days = [
        days_between(later, earlier)
        for later, earlier in zip(inputs["request_time"], inputs["last_purchased_at"], strict=True)
    ]
    return {"days_since_last_purchase": days, "customer_product_recency__days_since_last_purchase": days}


ONE_PURCHASE, HALF_LIFE = 2**20, 60
"""What a purchase on the day of the newest weighs in `memory_weight`, and after how many days a purchase counts half:
as gold.customer_product has it.
"""


def faded(weight: int | None, days: float | None) -> float | None:
    """Purchases, each counted as 2 ** (-its age / HALF_LIFE), from the weight they had at the newest and the days since
    then; None where either is.
    """
    return None if weight is None or days is None else float(weight / ONE_PURCHASE * 2.0 ** (-days / HALF_LIFE))


def decayed_purchases(inputs: dict[str, list]) -> dict[str, list]:
    """Feast runs this from its source text, so what it needs is imported inside."""
    from features.on_demand import days_between
    from grocery.on_demand import faded

    moments = zip(inputs["request_time"], inputs["last_purchased_at"], inputs["memory_weight"], strict=True)
    faded_counts = [faded(weight, days_between(later, earlier)) for later, earlier, weight in moments]
    return {"decayed_purchases": faded_counts, "customer_product_decay__decayed_purchases": faded_counts}


def days_since_memory_began(inputs: dict[str, list]) -> dict[str, list]:
    """Feast runs this from its source text, so what it needs is imported inside."""
    from features.on_demand import days_between

    days = [
        days_between(later, earlier)
        for later, earlier in zip(inputs["request_time"], inputs["memory_began_at"], strict=True)
    ]
    return {"days_since_memory_began": days, "customer_product_memory__days_since_memory_began": days}


def line_to_mean_90d(inputs: dict[str, list]) -> dict[str, list]:
    """Feast runs this from its source text. None without a mean to compare with, or with one of 0."""
    shares = [
        amount / mean if amount is not None and mean else None
        for amount, mean in zip(inputs["line_amount"], inputs["line_mean_90d"], strict=True)
    ]
    return {"line_to_mean_90d": shares, "customer_line__line_to_mean_90d": shares}


def is_first_in_store(inputs: dict[str, list]) -> dict[str, list]:
    """Feast runs this from its source text. 1 without an earlier purchase in the store, otherwise 0."""
    firsts = [1.0 if last is None or last != last else 0.0 for last in inputs["last_in_store_at"]]
    return {"is_first_in_store": firsts, "customer_store_novelty__is_first_in_store": firsts}

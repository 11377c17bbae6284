"""Which products are considered for a customer, and which of them were bought in the seven days after: SQL over a release's tables."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

WEEK = timedelta(days=7)
SEEN_DAYS, POPULAR_DAYS, POPULAR = 90, 28, 100
"""Considered is what the customer bought in so many days, and of the products of so many days those with the most buyers, so many of them."""


def weeks(horizon: date, number: int) -> tuple[tuple[date, ...], date]:
    """The first days of the weeks to learn from, oldest first, and of the week to be judged on, which is the last before the horizon. None overlap."""
    judged = horizon - WEEK
    return tuple(judged - WEEK * back for back in range(number, 0, -1)), judged


def labels_sql(days: Sequence[date], one_in: int = 1) -> str:
    """A row per week, customer and considered product. `bought` says whether it was bought in the week; of those that were not, one in so many is kept, with that `weight`.

    Only `bought`, and `weight` with it, knows of anything from the week's first midnight on.
    """
    return f"""
        {_considered(_started(days))},
        bought AS (
            SELECT DISTINCT since, customer_id, product_id, true AS bought FROM silver.transactions
            JOIN weeks ON transaction_at >= since AND transaction_at < since + INTERVAL {WEEK.days} DAY
        )
        SELECT customer_id, product_id, since AS event_timestamp, since AS request_time, coalesce(bought, false) AS bought, if(bought, 1, {one_in}) AS weight
        FROM considered LEFT JOIN bought USING (since, customer_id, product_id)
        WHERE bought OR (customer_id * 7919 + product_id * 104729 + epoch(since) // 86400) % {one_in} = 0
        ORDER BY since, customer_id, product_id
    """


def considered_sql(day: date, customer: int) -> str:
    """The products considered for one customer at a midnight: `product_id`."""
    return f"{_considered(_started([day]))} SELECT product_id FROM considered WHERE customer_id = {customer} ORDER BY product_id"


def bought_sql(day: date) -> str:
    """What was bought in the week from a midnight on, considered or not: `customer_id`, `product_id`."""
    return f"""
        SELECT DISTINCT customer_id, product_id FROM silver.transactions
        WHERE transaction_at >= TIMESTAMPTZ '{day} 00:00:00+00' AND transaction_at < TIMESTAMPTZ '{day + WEEK} 00:00:00+00'
    """


def _started(days: Sequence[date]) -> str:
    return ", ".join(f"TIMESTAMPTZ '{day} 00:00:00+00'" for day in days)


def _considered(instants: str) -> str:
    """`weeks` and `considered`, from what was bought before each instant."""
    return f"""
        WITH weeks AS (SELECT unnest([{instants}]) AS since),
        seen AS (
            SELECT DISTINCT since, customer_id, product_id FROM silver.transactions
            JOIN weeks ON transaction_at >= since - INTERVAL {SEEN_DAYS} DAY AND transaction_at < since
        ),
        counted AS (
            SELECT since, product_id, count(DISTINCT customer_id) AS buyers FROM silver.transactions
            JOIN weeks ON transaction_at >= since - INTERVAL {POPULAR_DAYS} DAY AND transaction_at < since GROUP BY since, product_id
        ),
        popular AS (SELECT since, product_id FROM counted QUALIFY row_number() OVER (PARTITION BY since ORDER BY buyers DESC, product_id) <= {POPULAR}),
        considered AS (SELECT since, customer_id, product_id FROM seen UNION SELECT since, customer_id, product_id FROM (SELECT DISTINCT since, customer_id FROM seen) JOIN popular USING (since))
    """

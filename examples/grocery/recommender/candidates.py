"""SQL over a release's tables: the products considered for a customer, and those bought in the seven days after.

Retrieval, the first of two stages: each customer's CONSIDERED products with the best simple score, which `model` then
ranks. Purchases of other products count as missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta

EVENTS = "silver.transactions"
"""The table that candidates and labels are read from."""
WEEK = timedelta(days=7)
ACTIVE_DAYS, SEEN_DAYS, POPULAR_DAYS, POPULAR = 90, 365, 28, 100
"""An active customer bought something in the last ACTIVE_DAYS. Its products are those it bought in SEEN_DAYS, plus the
POPULAR ones with the most buyers in POPULAR_DAYS.
"""
CONSIDERED = 60
"""Products per customer that the model ranks."""
HALF_LIFE, POPULARITY = 60, 0.1
"""The simple score: purchases that decay with a half-life of HALF_LIFE days, plus POPULARITY times the logarithm of the
product's number of buyers.
"""


def weeks(horizon: date, number: int, held_back: int = 1) -> tuple[tuple[date, ...], tuple[date, ...]]:
    """First days, oldest first, of all training weeks, and of the held-back weeks, the last ones before the horizon.

    Each held-back week has its own model, trained on the `number` weeks right before it (`learned_before`), so that no
    model is evaluated on a week that it was trained on.
    """
    last = tuple(horizon - WEEK * back for back in range(held_back, 0, -1))
    return tuple(last[0] - WEEK * back for back in range(number, 0, -1)) + last[:-1], last


def learned_before(week: date, number: int) -> tuple[date, ...]:
    """The weeks that the model evaluated on `week` is trained on, oldest first."""
    return tuple(week - WEEK * back for back in range(number, 0, -1))


def labels_sql(days: Sequence[date]) -> str:
    """SQL for one row per week, customer who bought anything in it, and considered product. `bought` says whether the
    customer bought the product in that week.

    Only `bought` and the choice of customers use purchases from the week's first midnight on: a customer who buys
    nothing has nothing to rank.
    """
    return f"""
        {_considered(_started(days))},
        bought AS (
            SELECT DISTINCT since, customer_id, product_id, true AS bought FROM silver.transactions
            JOIN weeks ON transaction_at >= since AND transaction_at < since + INTERVAL {WEEK.days} DAY
        )
        SELECT customer_id, product_id, since AS event_timestamp, since AS request_time,
            coalesce(bought, false) AS bought
        FROM considered SEMI JOIN (SELECT since, customer_id FROM bought) AS buyers USING (since, customer_id)
            LEFT JOIN bought USING (since, customer_id, product_id)
        ORDER BY since, customer_id, product_id
    """


def considered_sql(day: date, customer: int | None = None) -> str:
    """SQL for the products considered at a midnight: `customer_id`, `product_id`, of all active customers or of one."""
    return (
        f"{_considered(_started([day]), customer)} SELECT customer_id, product_id FROM considered ORDER BY customer_id,"
        " product_id"
    )


def bought_sql(days: Sequence[date]) -> str:
    """SQL for all purchases in the weeks from these midnights on: `since`, `customer_id`, `product_id`."""
    return f"""
        WITH weeks AS (SELECT unnest([{_started(days)}]) AS since)
        SELECT DISTINCT since, customer_id, product_id FROM silver.transactions
        JOIN weeks ON transaction_at >= since AND transaction_at < since + INTERVAL {WEEK.days} DAY
    """


def _started(days: Sequence[date]) -> str:
    return ", ".join(f"TIMESTAMPTZ '{day} 00:00:00+00'" for day in days)


def _considered(instants: str, customer: int | None = None) -> str:
    """The CTEs `weeks` and `considered`, from purchases before each instant. Scores are rounded, so that an engine's
    order of summation does not change the ranking.
    """
    only = "" if customer is None else f"AND customer_id = {customer}"
    return f"""
        WITH weeks AS (SELECT unnest([{instants}]) AS since),
        seen AS (
            SELECT since, customer_id, product_id, max(transaction_at) AS newest,
                sum(pow(2, -epoch(since - transaction_at) / {86_400 * HALF_LIFE})) AS decayed
            FROM silver.transactions JOIN weeks ON transaction_at >= since - INTERVAL {SEEN_DAYS} DAY
                AND transaction_at < since {only} GROUP BY ALL
        ),
        counted AS (
            SELECT since, product_id, count(DISTINCT customer_id) AS buyers FROM silver.transactions
            JOIN weeks ON transaction_at >= since - INTERVAL {POPULAR_DAYS} DAY AND transaction_at < since
            GROUP BY since, product_id
        ),
        popular AS (SELECT since, product_id FROM counted
            QUALIFY row_number() OVER (PARTITION BY since ORDER BY buyers DESC, product_id) <= {POPULAR}),
        active AS (SELECT since, customer_id FROM seen GROUP BY ALL
            HAVING max(newest) >= since - INTERVAL {ACTIVE_DAYS} DAY),
        offered AS (SELECT since, customer_id, product_id FROM seen UNION SELECT since, customer_id, product_id
            FROM active JOIN popular USING (since)),
        scored AS (
            SELECT since, customer_id, product_id,
                round(coalesce(decayed, 0) + {POPULARITY} * ln(1 + coalesce(buyers, 0)), 6) AS score
            FROM offered SEMI JOIN active USING (since, customer_id)
                LEFT JOIN seen USING (since, customer_id, product_id) LEFT JOIN counted USING (since, product_id)
        ),
        considered AS (
            SELECT since, customer_id, product_id FROM scored
            QUALIFY row_number() OVER (PARTITION BY since, customer_id ORDER BY score DESC, product_id) <= {CONSIDERED}
        )
    """

"""What `make demo` shows: the online features of one customer, and the head of a training set."""

from __future__ import annotations

from typing import Any

from millrace import reading

SERVICE = "recommendation_v1"
CUSTOMER = 1
SHOWN = (
    "customer_id",
    "product_id",
    "event_timestamp",
    "spend_30d",
    "baskets_30d",
    "units_28d",
    "promoted_share_28d",
    "purchases_90d",
    "days_since_last_purchase",
    "age",
)
"""The training set's columns to show."""


def entity() -> dict[str, Any]:
    """A customer, and the product that it has lately bought in the most baskets."""
    return _bought(f"customer_id = {CUSTOMER}", 1)[0]


def entities(count: int) -> list[dict[str, Any]]:
    """The customers who bought a product most often, with that product."""
    return _bought("true", count)


def _bought(where: str, count: int) -> list[dict[str, Any]]:
    rows = reading.query(
        "gold.customer_product",
        f"""SELECT customer_id, max_by(product_id, (purchases_90d, product_id)) FROM read_parquet(?) WHERE {where}
        GROUP BY customer_id ORDER BY max(purchases_90d) DESC, customer_id LIMIT {count}""",
    )
    return [{"customer_id": customer, "product_id": product} for customer, product in rows]

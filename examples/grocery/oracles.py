"""The events that transforms prepare for feature tables, again in SQL: `millrace verify` counts features from them."""

from __future__ import annotations

from typing import Any


def product_popularity(connection: Any, events: str) -> Any:
    """The purchases with `promoted_quantity`: units bought while product, store and week had a display or a mailer."""
    return connection.sql(
        f"""
        SELECT *, CASE WHEN EXISTS (
            FROM silver.promotions p
            WHERE p.product_id = e.product_id AND p.store_id = e.store_id AND p.week = e.week
            AND (p.display_location <> '0' OR p.mailer_location <> '0')
        ) THEN quantity ELSE 0 END AS promoted_quantity
        FROM {events} e"""
    )

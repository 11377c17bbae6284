"""What features must be, computed by brute force from the landed rows (`grocery.tests.oracle`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable

from grocery.tests import oracle
from grocery.tests.shop import COLUMNS
from tests.chaos.online import PAIRS, VIEWS, Answer, plain
from tests.chaos.schedule import CUSTOMERS, FIRST_DAY, PRODUCTS, Expected, Landing
from tests.chaos.state import FIRST_COMMIT

INPUTS = {
    "customer_activity": ("transactions",),
    "product_popularity": ("transactions", "promotions"),
    "customer_product": ("transactions",),
    "customer_profile": ("demographics",),
}
"""View -> the landed tables that the oracle computes it from."""


def answer(expected: Expected, customers: Landing) -> Answer:
    """The answer that must be served as of the horizon, in the shape of `online.request`."""
    rows = {
        "transactions": _arrow("transactions", expected.purchases),
        "promotions": _arrow("promotions", expected.promotions),
        "demographics": _arrow("demographics", customers.rows),
    }
    at = pd.Timestamp(expected.horizon, tz="UTC")
    values: dict[str, tuple[Any, ...]] = {}
    for view in VIEWS:
        values |= _view(view, at, {name: rows[name] for name in INPUTS[view]})
    return tuple(sorted(values.items()))


def _arrow(table: str, rows: tuple[dict[str, Any], ...]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=COLUMNS[table])


def _view(view: str, at: pd.Timestamp, inputs: dict[str, pa.Table]) -> dict[str, tuple[Any, ...]]:
    """Feature -> values in the order of PAIRS; None for an entity without a row."""
    keys = oracle.KEYS[view]
    domains = {"customer_id": CUSTOMERS, "product_id": PRODUCTS}
    entities = pd.DataFrame(PAIRS, columns=list(domains))[list(keys)].drop_duplicates().assign(event_timestamp=at)
    more = {"known_at": FIRST_DAY} if view == "customer_profile" else {}
    rows = getattr(oracle, view)(entities, **inputs, **more)
    by_key = {tuple(row[key] for key in keys): row for row in rows.to_dict("records")}
    pairs = [tuple(value for name, value in zip(domains, pair, strict=True) if name in keys) for pair in PAIRS]
    features = [column for column in rows.columns if column not in (*keys, "event_timestamp")]
    return {name: tuple(plain(by_key[pair][name]) if pair in by_key else None for pair in pairs) for name in features}


def differences(expected: Answer, actual: Answer | None) -> list[str]:
    """A sentence for each value that differs from brute force."""
    served = dict(actual or ())
    messages = []
    for feature, values in expected:
        for pair, right, value in zip(PAIRS, values, served.get(feature, (None,) * len(PAIRS)), strict=True):
            if right != value:
                messages.append(f"{feature} of {pair} is {value}, by brute force {right}")
    return messages


def silver_differences(expected: Expected, lake: Path) -> list[str]:
    """What is wrong in silver and bronze.

    Silver must hold each purchase once, in its newest valid delivery; bronze and its quarantine each landed row.
    """
    silver = _rows(lake / "silver" / "transactions", "basket_id, product_id, quantity")
    bronze = len(_rows(lake / "bronze" / "transactions", "1"))
    rejected = len(_rows(lake / "quarantine" / "transactions", "1", "layer = 'bronze'"))
    correct = [(row["basket_id"], row["product_id"], row["quantity"]) for row in expected.purchases]
    messages = []
    if sorted(correct) != sorted(silver):
        missing, extra = sorted({*correct} - {*silver}), sorted({*silver} - {*correct})
        messages.append(
            f"silver.transactions has {len(silver)} rows, expected {len(correct)}; missing {missing}, extra {extra}"
        )
    if bronze + rejected != expected.landed:
        messages.append(f"bronze.transactions: {bronze} rows and {rejected} rejected, of {expected.landed} landed ones")
    return messages


def _rows(table: Path, columns: str, where: str = "true") -> list[tuple[Any, ...]]:
    """The newest rows of a table; none when it does not exist."""
    if not (table / FIRST_COMMIT).exists():
        return []
    files = DeltaTable(str(table)).file_uris()
    with duckdb.connect() as con:
        query = f"SELECT {columns} FROM read_parquet(?) WHERE {where}"
        return con.execute(query, [files]).fetchall() if files else []

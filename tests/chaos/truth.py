"""What features have to be, counted by brute force from the landed rows (`tests.oracle`), and whether the control's tables and answers are that."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pandas as pd
import pyarrow as pa
from deltalake import DeltaTable

from tests import oracle
from tests.chaos.online import PAIRS, VIEWS, Answer, plain
from tests.chaos.schedule import CUSTOMERS, FIRST_DAY, PRODUCTS, Landing, Truth
from tests.landing import COLUMNS


def answer(truth: Truth, customers: Landing) -> Answer:
    """What is to be served as of the horizon, in the shape of `online.ask`."""
    at = pd.Timestamp(truth.horizon, tz="UTC")
    raw = {
        "transactions": pa.Table.from_pylist(list(truth.purchases), schema=COLUMNS["transactions"]),
        "promotions": pa.Table.from_pylist(list(truth.promotions), schema=COLUMNS["promotions"]),
        "demographics": pa.Table.from_pylist(list(customers.rows), schema=COLUMNS["demographics"]),
    }
    asked = {
        ("customer_id",): pd.DataFrame({"customer_id": list(CUSTOMERS)}),
        ("product_id",): pd.DataFrame({"product_id": list(PRODUCTS)}),
        ("customer_id", "product_id"): pd.DataFrame(PAIRS, columns=["customer_id", "product_id"]),
    }
    inputs = {
        "customer_activity": ("transactions",),
        "product_popularity": ("transactions", "promotions"),
        "customer_product": ("transactions",),
        "customer_profile": ("demographics",),
    }
    found: dict[str, tuple[object, ...]] = {}
    for view in VIEWS:
        keys = oracle.KEYS[view]
        more = {"known_at": FIRST_DAY} if view == "customer_profile" else {}
        rows = getattr(oracle, view)(asked[keys].assign(event_timestamp=at), **{name: raw[name] for name in inputs[view]}, **more)
        by_key = {tuple(row[key] for key in keys): row for row in rows.to_dict("records")}
        for feature in (column for column in rows.columns if column not in (*keys, "event_timestamp")):
            entities = [tuple(dict(zip(("customer_id", "product_id"), pair, strict=True))[key] for key in keys) for pair in PAIRS]
            found[feature] = tuple(plain(by_key[entity][feature]) if entity in by_key else None for entity in entities)
    return tuple(sorted(found.items()))


def differences(expected: Answer, actual: Answer | None) -> list[str]:
    """Sentences about values that are not those of brute force."""
    served = dict(actual or ())
    told = []
    for feature, values in expected:
        for pair, right, value in zip(PAIRS, values, served.get(feature, (None,) * len(PAIRS)), strict=True):
            if right != value:
                told.append(f"{feature} of {pair} is {value}, by brute force {right}")
    return told


def silver_differences(truth: Truth, lake: Path) -> list[str]:
    """Whether silver has each purchase once, in its newest valid delivery, and bronze and its quarantine have each landed row."""
    with duckdb.connect() as con:
        found = con.execute("SELECT basket_id, product_id, quantity FROM read_parquet(?)", [_files(lake, "silver/transactions")]).fetchall()
        bronze = con.execute("SELECT count(*) FROM read_parquet(?)", [_files(lake, "bronze/transactions")]).fetchall()[0][0]
        rejected = 0
        if files := _files(lake, "quarantine/transactions"):
            rejected = con.execute("SELECT count(*) FROM read_parquet(?) WHERE layer = 'bronze'", [files]).fetchall()[0][0]
    told = []
    if (expected := sorted((row["basket_id"], row["product_id"], row["quantity"]) for row in truth.purchases)) != sorted(found):
        told.append(
            f"silver.transactions: only expected {sorted({*expected} - {*found})[:5]}, only there {sorted({*found} - {*expected})[:5]}, {len(expected)} and {len(found)} rows"
        )
    if bronze + rejected != truth.landed:
        told.append(f"bronze.transactions: {bronze} rows and {rejected} rejected ones of {truth.landed} that landed")
    return told


def _files(lake: Path, name: str) -> list[str]:
    return DeltaTable(str(lake / name)).file_uris() if (lake / name / "_delta_log" / f"{0:020}.json").exists() else []

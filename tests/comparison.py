"""Whole lakes compared: every row of every table, read by DuckDB from the files of the newest versions."""

from __future__ import annotations

from collections import Counter
from typing import Any

import duckdb

from contracts import catalog
from lake import settings
from tests.landing import versions

Contents = dict[str, Counter]
"""Table -> its rows as tuples, each with how often it is there."""


def contents() -> Contents:
    """Every published row of every table, bronze without the time of loading."""
    return {name: rows(name) for name in versions()}


def rows(qualified: str, version: int | None = None) -> Counter:
    """The rows of a table, at a version or the newest one."""
    from deltalake import DeltaTable

    files = DeltaTable(str(settings.table_path(qualified)), version=version).file_uris()
    if not files:
        return Counter()
    layer, _ = qualified.split(".")
    columns = "* EXCLUDE (_loaded_at)" if layer == "bronze" else "*"
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'")
        return Counter(con.execute(f"SELECT {columns} FROM read_parquet(?)", [files]).fetchall())


def differences(one: Contents, other: Contents) -> dict[str, Any]:
    """Table -> up to three rows that only one side has, or has more often; empty when both are the same lake."""
    found = {}
    for name in sorted({*one, *other}):
        left, right = one.get(name, Counter()), other.get(name, Counter())
        if left != right:
            found[name] = {
                "rows": (left.total(), right.total()),
                "only left": [*(left - right)][:3],
                "only right": [*(right - left)][:3],
            }
    return found


def changed(qualified: str, before: Contents, after: Contents) -> list[dict[str, Any]]:
    """The rows of a table that came, went or have another value, as dicts."""
    names = [name for name in catalog.table(qualified).column_names if name != "_loaded_at"]
    moved = (after[qualified] - before[qualified]) + (before[qualified] - after[qualified])
    return [dict(zip(names, row, strict=True)) for row in moved]

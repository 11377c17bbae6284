"""Training sets joined on each engine: the rows that DuckDB finds."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from feast import Entity, FeatureView, Field
from feast.types import Float64, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from contracts import catalog
from contracts.model import BOOLEAN, LONG, STRING, Column, Table
from features import views
from features.offline.store import ReleaseOfflineStore, ReleaseOfflineStoreConfig
from features.source import GoldTable
from lake import release, settings
from lake.publishing import arrow_schema
from tests.conftest import set_home
from tests.projects import ARCADE

NOON = datetime(2017, 3, 1, 12, tzinfo=UTC)
INSTANT = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        ("shop", pa.string()),
        ("till", pa.int64()),
        ("event_timestamp", INSTANT),
        ("created", INSTANT),
        ("money", pa.decimal128(18, 2)),
        ("n", pa.int64()),
        ("word", pa.string()),
        ("seen", INSTANT),
    ]
)
TYPES = {"money": Float64, "n": Int64, "word": String, "seen": UnixTimestamp}
SHOPS = ["Ærø", "ærø", "", "日本", "12", "1"]


def takings() -> list[dict[str, Any]]:
    """Rows of few keys, of which some tie and some have no key, no instant or no creation."""
    rows = []
    for i in range(2_000):
        when = NOON + timedelta(hours=(i * 7) % 400, microseconds=i % 2)
        rows.append(
            {
                "shop": SHOPS[i % 6] if i % 41 else None,
                "till": (i * 5) % 9 if i % 43 else None,
                "event_timestamp": when if i % 47 else None,
                "created": when + timedelta(seconds=i) if i % 5 else None,
                "money": f"{i}.05" if i % 7 else None,
                "n": 2**53 + i,
                "word": "\U0001f600" * (i % 3),
                "seen": NOON + timedelta(microseconds=999_999 + i),
            }
        )
    return pa.Table.from_pylist(rows, SCHEMA.set(4, pa.field("money", pa.string()))).cast(SCHEMA).to_pylist()


def test_each_engine_finds_the_rows_that_duckdb_finds(engine: str, home: Path) -> None:
    path = settings.table_path("gold.takings")
    path.mkdir(parents=True)
    write_deltalake(path, pa.Table.from_pylist(takings(), SCHEMA))
    write_deltalake(path, pa.Table.from_pylist(takings()[:9], SCHEMA), mode="overwrite")
    release.write({"gold.takings": 0}, "2017-04-01")
    entities = [
        Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING),
        Entity(name="till", join_keys=["till"], value_type=ValueType.INT64),
    ]
    fields = [Field(name=name, dtype=dtype) for name, dtype in {"shop": String, "till": Int64, **TYPES}.items()]
    source = GoldTable(table="gold.takings", created_timestamp_column="created")
    view = FeatureView(name="takings", entities=entities, schema=fields, source=source, ttl=timedelta(days=2))
    asked = pd.DataFrame({"shop": [*SHOPS, None] * 100, "till": pd.array([*range(10), None] * 64, dtype="Int64")[:700]})
    asked["event_timestamp"] = pd.to_datetime(NOON) + pd.to_timedelta(
        [(i * 11) % 500 - 20 for i in range(700)], unit="h"
    )

    by_duckdb, by_spark = (
        ReleaseOfflineStore.get_historical_features(
            SimpleNamespace(offline_store=ReleaseOfflineStoreConfig(join=who, session="etl.engine.session")),
            [view],
            [f"takings:{name}" for name in TYPES],
            asked,
            SimpleNamespace(list_on_demand_feature_views=lambda *_, **__: []),
            "test",
        ).to_arrow()
        for who in ("duckdb", "spark")
    )

    assert by_spark.schema == by_duckdb.schema
    assert by_spark.to_pylist() == by_duckdb.to_pylist()
    assert 100 < by_spark["n"].null_count < 600


def test_each_engine_finds_the_values_at_instants_that_duckdb_finds(
    engine: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At random instants, and at those at which an event comes or leaves, a microsecond before and after them, too.
    Running sums leave 64 bits; those of windows do not.
    """
    set_home(home, monkeypatch, ARCADE)
    declared, view = catalog.table("gold.player_now").aggregates, views.view("player_now")
    assert declared
    path = settings.table_path("gold.player_now")
    path.mkdir(parents=True)
    events = rounds(catalog.table("gold.player_now"))
    write_deltalake(path, events)
    write_deltalake(path, events.slice(0, 9), mode="overwrite")
    release.write({"gold.player_now": 0}, "2017-06-01")
    draw, known = random.Random(3), [at for at in events["event_timestamp"].to_pylist() if at]
    borders = [
        draw.choice(known) + length + timedelta(microseconds=draw.choice((-1, 0, 1)))
        for _ in range(40)
        for length in map(timedelta, (0, 1, 7), (0,) * 3, (0,) * 3)
    ]
    moments = [*borders, *(NOON + draw.random() * timedelta(days=60) for _ in range(80))]
    asked = pd.DataFrame({"player": [draw.choice(("ann", "bob", "eve", None)) for _ in moments]})
    asked["event_timestamp"] = pd.to_datetime(moments, utc=True)

    by_duckdb, by_spark = (
        ReleaseOfflineStore.get_historical_features(
            SimpleNamespace(offline_store=ReleaseOfflineStoreConfig(join=who, session="etl.engine.session")),
            [view],
            [f"player_now:{column.name}" for _, _, column in declared.features()],
            asked,
            SimpleNamespace(list_on_demand_feature_views=lambda *_, **__: []),
            "test",
        ).to_arrow()
        for who in ("duckdb", "spark")
    )

    assert by_spark.schema == by_duckdb.schema
    assert by_spark.to_pylist() == by_duckdb.to_pylist()
    assert 10 < by_spark["rounds_now_7d"].null_count < 190


def rounds(table: Table) -> pa.Table:
    """Events of two players, some at the same instant, some without a player or an instant."""
    draw = random.Random(1)

    def cell(column: Column) -> Any:
        values: dict[Any, tuple[Any, ...]] = {
            STRING: ("", "go", "Ärger", None),
            LONG: (0, 2**58, -5, None),
            BOOLEAN: (True, False),
        }
        return draw.choice(values.get(column.type, (Decimal("0.05"), Decimal("-9.99"), None)))

    rows = [
        {column.name: cell(column) for column in table.columns}
        | {
            "player": draw.choice(("ann", "bob")) if n % 41 else None,
            "event_timestamp": NOON + draw.randrange(60 * 288) * timedelta(minutes=5) if n % 43 else None,
        }
        for n in range(400)
    ]
    return pa.Table.from_pylist(rows, pa.schema([field.with_nullable(True) for field in arrow_schema(table)]))

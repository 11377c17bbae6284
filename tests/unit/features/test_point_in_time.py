"""The point-in-time join against a brute-force search in plain Python, over ties, NULL keys, repeated labels, composite keys and time zones."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pandas as pd
import pyarrow as pa
from feast import Entity, FeatureView, Field
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Int64
from feast.value_type import ValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features import generation
from features.feast_repo.definitions import customer_product
from features.materialize import load
from features.online_store import PackedSqliteOnlineStore
from features.source import GoldTable
from tests.unit.features.conftest import INSTANT, Lake

SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.int64()), ("event_timestamp", INSTANT), ("created", INSTANT), ("value", pa.int64())])
START = datetime(2017, 1, 1, tzinfo=UTC)
FOREVER = timedelta(0)
PAIRS = [(12, 3), (1, 23), (1, 3)]


def row(pair: tuple[int, int], when: datetime, created: datetime | None, value: int | None) -> dict[str, Any]:
    return {"a": pair[0], "b": pair[1], "event_timestamp": when, "created": created, "value": value}


def label(pair: tuple[int | None, int | None], when: datetime, microseconds: int) -> dict[str, Any]:
    return {"a": pair[0], "b": pair[1], "event_timestamp": when + timedelta(microseconds=microseconds)}


moments = st.integers(0, 3).map(lambda step: START + timedelta(hours=12 * step))
rows = st.lists(
    st.builds(row, st.sampled_from(PAIRS), moments, st.none() | moments, st.none() | st.integers(-50, 50)),
    max_size=25,
    unique_by=lambda row: (row["a"], row["b"], row["event_timestamp"], row["created"]),
)
labels = st.lists(
    st.builds(label, st.sampled_from([*PAIRS, (1, None), (None, 3), (12, 23)]), moments, st.sampled_from([-1, 0, 0, 1])),
    min_size=1,
    max_size=12,
)
zones = st.sampled_from([None, UTC, timezone(timedelta(hours=-8)), timezone(timedelta(hours=5, minutes=30))])
ttls = st.sampled_from([FOREVER, timedelta(hours=12), timedelta(days=2)])
on_one_lake = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def brute_force(rows: list[dict[str, Any]], label: dict[str, Any], ttl: timedelta) -> int | None:
    """The value of the newest row of the label's key that is neither later than the label nor older than the ttl."""
    when, key = label["event_timestamp"], (label["a"], label["b"])
    past = [row for row in rows if (row["a"], row["b"]) == key and row["event_timestamp"] <= when and (ttl == FOREVER or row["event_timestamp"] >= when - ttl)]
    newest = max(past, key=lambda row: (row["event_timestamp"], row["created"] or START - timedelta(days=1)), default=None)
    return newest["value"] if newest else None


def pairs(ttl: timedelta = FOREVER) -> FeatureView:
    entities = [Entity(name=name, join_keys=[name], value_type=ValueType.INT64) for name in ("a", "b")]
    source = GoldTable(table="gold.pairs", created_timestamp_column="created")
    return FeatureView(name="pairs", entities=entities, schema=[Field(name=name, dtype=Int64) for name in ("a", "b", "value")], source=source, ttl=ttl)


def integers(column: pd.Series) -> list[int | None]:
    return [None if pd.isna(value) else int(value) for value in column]


@on_one_lake
@given(rows=rows, labels=labels, zone=zones, ttl=ttls)
def test_equals_brute_force(lake: Lake, join: Callable[..., pd.DataFrame], rows: list[Any], labels: list[Any], zone: timezone | None, ttl: timedelta) -> None:
    lake.write("pairs", rows, SCHEMA)
    lake.release("pairs")
    frame = pd.DataFrame({name: [label[name] for label in labels] for name in ("a", "b")}, dtype="Int64")
    instants = pd.to_datetime([label["event_timestamp"] for label in labels], utc=True)
    frame["event_timestamp"] = instants.tz_convert(zone)  # None: naive, in UTC

    result = join([pairs(ttl)], ["pairs:value"], frame)

    assert integers(result.value) == [brute_force(rows, label, ttl) for label in labels]
    assert list(result.event_timestamp) == list(instants)
    assert integers(result.a) == [label["a"] for label in labels]


@on_one_lake
@given(rows=rows, ttl=ttls)
def test_what_is_served_is_what_is_trained_on(lake: Lake, join: Callable[..., pd.DataFrame], rows: list[Any], ttl: timedelta) -> None:
    lake.write("pairs", rows, SCHEMA)
    load(lake.release("pairs", horizon="2017-01-02"), [pairs(ttl)], definitions="test")
    now = START + timedelta(days=1)
    labels = [label(pair, now, 0) for pair in PAIRS]

    keys = [EntityKey(join_keys=["b", "a"], entity_values=[Value(int64_val=b), Value(int64_val=a)]) for a, b in PAIRS]
    with generation.previewing(generation.current(), now):
        read = PackedSqliteOnlineStore().online_read(None, pairs(ttl), keys)
    served = [(values or {}).get("value", Value()) for _, values in read]

    expected = [brute_force(rows, label, ttl) for label in labels]
    assert [value.int64_val if value.WhichOneof("val") else None for value in served] == expected
    assert integers(join([pairs(ttl)], ["pairs:value"], pd.DataFrame(labels)).value) == expected


def test_keys_are_not_concatenated(shop: Lake, join: Callable[..., pd.DataFrame]) -> None:
    labels = pd.DataFrame({"customer_id": [12, 1, 1, 12], "product_id": [3, 23, 3, 23], "event_timestamp": pd.to_datetime(["2017-01-10"] * 4)})
    result = join([customer_product], ["customer_product:purchases_90d"], labels)
    assert integers(result.purchases_90d) == [7, 9, 2, None]

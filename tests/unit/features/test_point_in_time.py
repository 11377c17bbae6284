"""The point-in-time join against a brute-force search in plain Python, over ties, NULL keys, repeated labels, composite keys and time zones."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field
from feast.types import Int64
from feast.value_type import ValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.source import GoldTable
from tests.unit.features.conftest import INSTANT, Lake

SCHEMA = pa.schema([("a", pa.int64()), ("b", pa.int64()), ("event_timestamp", INSTANT), ("created", INSTANT), ("value", pa.int64())])
START = datetime(2017, 1, 1, tzinfo=UTC)

keys = st.sampled_from([1, 12, 23, 3])
moments = st.integers(0, 6).map(lambda step: START + timedelta(hours=12 * step))
rows = st.lists(
    st.fixed_dictionaries({"a": keys, "b": keys, "event_timestamp": moments, "created": moments, "value": st.none() | st.integers(-5, 5)}),
    max_size=25,
    unique_by=lambda row: (row["a"], row["b"], row["event_timestamp"], row["created"]),
)
labels = st.lists(
    st.fixed_dictionaries({"a": st.none() | keys, "b": st.none() | keys, "event_timestamp": moments, "late_us": st.sampled_from([-1, 0, 1])}),
    min_size=1,
    max_size=12,
)
zones = st.sampled_from([None, UTC, timezone(timedelta(hours=-8)), timezone(timedelta(hours=5, minutes=30))])
ttls = st.sampled_from([timedelta(0), timedelta(hours=12), timedelta(days=2)])


def brute_force(rows: list[dict[str, Any]], label: dict[str, Any], ttl: timedelta) -> int | None:
    """The value of the newest row of the label's key that is neither later than the label nor older than the ttl."""
    when = label["event_timestamp"]
    past = [
        row
        for row in rows
        if (row["a"], row["b"]) == (label["a"], label["b"]) and row["event_timestamp"] <= when and (not ttl or row["event_timestamp"] >= when - ttl)
    ]
    newest = max(past, key=lambda row: (row["event_timestamp"], row["created"]), default=None)
    return newest["value"] if newest else None


def view(ttl: timedelta) -> FeatureView:
    entities = [Entity(name=name, join_keys=[name], value_type=ValueType.INT64) for name in ("a", "b")]
    source = GoldTable(table="gold.pairs", created_timestamp_column="created")
    return FeatureView(name="pairs", entities=entities, schema=[Field(name=name, dtype=Int64) for name in ("a", "b", "value")], source=source, ttl=ttl)


@pytest.mark.filterwarnings("ignore:.*ttl.*")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows, labels=labels, zone=zones, ttl=ttls)
def test_equals_brute_force(lake: Lake, join: Callable[..., pd.DataFrame], rows: list[Any], labels: list[Any], zone: timezone | None, ttl: timedelta) -> None:
    lake.write("pairs", rows, SCHEMA)
    lake.release("pairs")
    for label in labels:
        label["event_timestamp"] += timedelta(microseconds=label.pop("late_us"))
    frame = pd.DataFrame({name: [label[name] for label in labels] for name in ("a", "b")}, dtype="Int64")
    instants = pd.to_datetime([label["event_timestamp"] for label in labels], utc=True)
    frame["event_timestamp"] = instants.tz_convert(zone)  # None: naive, in UTC

    result = join([view(ttl)], ["pairs:value"], frame)

    expected = [brute_force(rows, label, ttl) for label in labels]
    assert [None if pd.isna(value) else int(value) for value in result.value] == expected
    assert list(result.event_timestamp) == list(instants)
    assert [None if pd.isna(value) else int(value) for value in result.a] == [label["a"] for label in labels]


def test_keys_are_not_concatenated(shop: Lake, join: Callable[..., pd.DataFrame]) -> None:
    from features.feast_repo.definitions import customer_product

    labels = pd.DataFrame({"customer_id": [12, 1, 1, 12], "product_id": [3, 23, 3, 23], "event_timestamp": pd.to_datetime(["2017-01-10"] * 4)})
    result = join([customer_product], ["customer_product:purchases_90d"], labels)
    assert result.purchases_90d.astype("Int64").to_list() == [7, 9, 2, pd.NA]

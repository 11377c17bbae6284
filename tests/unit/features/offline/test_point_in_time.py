"""The point-in-time join of everybody who can join, against a search of every row, on hostile tables; and what is
served against what is trained on.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Int64, String
from feast.value_type import ValueType
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from features.online import backends, generation
from features.online.materialize import load
from features.online.store import PackedOnlineStore
from features.source import GoldTable
from tests import point_in_time
from tests.unit.features.conftest import INSTANT, Lake, definitions

SCHEMA = pa.schema(
    [
        ("number", pa.int64()),
        ("text", pa.string()),
        ("event_timestamp", INSTANT),
        ("created", INSTANT),
        ("v", pa.int64()),
        ("word", pa.string()),
    ]
)
ASKED = pa.schema(
    [
        ("number", pa.int64()),
        ("text", pa.string()),
        ("other", pa.int64()),
        ("event_timestamp", INSTANT),
        ("n", pa.int64()),
    ]
)
START = datetime(2017, 1, 1, tzinfo=UTC)
FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)
FOREVER = timedelta(0)
PAIRS = [
    (12, "3"),
    (1, "23"),
    (1, "3"),
    (2**53, "3"),
    (2**53 + 1, "3"),
    (-(2**63), ""),
    (0, "Ærø"),
    (0, "ærø"),
    (0, "a\x00b"),
    (0, "a"),
    (1, None),
    (None, "3"),
]
FEATURES = ("v", "word")

HOURS = [START + timedelta(hours=12 * step) for step in range(4)]
moments = st.sampled_from([*HOURS, *HOURS, FIRST, LAST, None])
steps = st.sampled_from([timedelta(microseconds=1), FOREVER, FOREVER, -timedelta(microseconds=1)])
values = st.none() | st.integers(-(2**63), 2**63 - 1)


def some(values: st.SearchStrategy[Any], at_least: int) -> st.SearchStrategy[list[Any]]:
    """None at all, or so many that keys and instants meet."""
    return (
        st.lists(values, min_size=at_least, max_size=25)
        | st.lists(values, min_size=at_least, max_size=25)
        | st.just([])
    )


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Feature rows of a few keys, and labels of the same keys, of which some come twice."""
    near = (
        [(12, "3"), (1, "23"), (1, "3")]
        if draw(st.booleans())
        else draw(st.lists(st.sampled_from(PAIRS), min_size=2, max_size=4, unique=True))
    )
    pairs = st.sampled_from(near)
    words = st.sampled_from([None, "", "é", "\U0001f600"])
    row = st.builds(
        lambda pair, *rest: dict(zip(SCHEMA.names, (*pair, *rest), strict=True)), pairs, moments, moments, values, words
    )
    label = st.builds(label_of, pairs | st.just((12, "23")), pairs, moments, steps)
    rows, labels = draw(some(row, 8)), draw(some(label, 6))
    return rows, [*labels, *labels[:2]]


def label_of(
    pair: tuple[int | None, str | None], other: tuple[int | None, str | None], when: datetime | None, step: timedelta
) -> dict[str, Any]:
    return {
        "number": pair[0],
        "text": pair[1],
        "other": other[0],
        "event_timestamp": when if when in (None, FIRST, LAST) else when + step,
    }


zones = st.sampled_from([None, UTC, timezone(timedelta(hours=-8)), timezone(timedelta(hours=5, minutes=30))])
ttls = st.sampled_from(
    [
        FOREVER,
        timedelta(microseconds=1),
        timedelta(hours=12),
        timedelta(days=2),
        timedelta(days=106_000_000),
        timedelta.max,
    ]
)
on_one_lake = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def view(ttl: timedelta, created: bool) -> FeatureView:
    entities = [
        Entity(name=name, join_keys=[name], value_type=type_)
        for name, type_ in (("number", ValueType.INT64), ("text", ValueType.STRING))
    ]
    source = GoldTable(table="gold.things", created_timestamp_column="created" if created else None)
    fields = [
        Field(name=name, dtype=dtype)
        for name, dtype in (("number", Int64), ("text", String), ("v", Int64), ("word", String))
    ]
    return FeatureView(name="things", entities=entities, schema=fields, source=source, ttl=ttl)


def framed(labels: list[dict[str, Any]], zone: timezone | None) -> pd.DataFrame:
    """A pandas entity_df; without a zone its instants are naive, which means UTC."""
    frame = pa.Table.from_pylist(labels, ASKED.remove(4)).to_pandas(integer_object_nulls=True)
    frame = frame.astype({"number": "Int64", "other": "Int64"})
    return frame.assign(event_timestamp=frame.event_timestamp.dt.tz_convert(zone))


@dataclass(frozen=True)
class Case:
    """Feature rows and labels, and what differs in how they are asked."""

    tables: tuple[list[dict[str, Any]], list[dict[str, Any]]]
    zone: timezone | None
    ttl: timedelta
    created: bool
    by_sql: bool
    features: tuple[str, ...] = FEATURES
    files: int = 1


def dense() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Each key at every other hour in three creations, told in either order; labels at, just before and just after
    every hour.
    """
    near, made = [(12, "3"), (1, "23"), (1, "3")], [None, HOURS[0], HOURS[1]]
    result = [
        (pair, when, created)
        for pair in near
        for n, when in enumerate(HOURS[:3:2])
        for created in (made, made[::-1])[n]
    ]
    rows = [
        dict(zip(SCHEMA.names, (*pair, when, created, i, f"row {i}"), strict=True))
        for i, (pair, when, created) in enumerate(result)
    ]
    steps = (-timedelta(microseconds=1), FOREVER, timedelta(microseconds=1))
    return rows, [label_of(pair, (1, ""), when, step) for pair in near for when in HOURS for step in steps]


def write(lake: Lake, rows: list[dict[str, Any]], files: int) -> None:
    """The table `things` in so many files."""
    parts = [rows[i::files] for i in range(files)]
    lake.write("things", parts[0], SCHEMA)
    for part in parts[1:]:
        lake.append("things", part, SCHEMA)


def late() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The same rows, and labels from the instant of the last on."""
    rows, labels = dense()
    return rows, [label for label in labels if label["event_timestamp"] >= HOURS[2]]


cases = st.builds(
    Case,
    tables(),
    zones,
    ttls,
    st.booleans(),
    st.booleans(),
    st.sampled_from([FEATURES, ("v",), ("word",)]),
    st.integers(1, 3),
)


@pytest.mark.filterwarnings("ignore::features.offline.labels.BeyondHorizonWarning")
@on_one_lake
@example(case=Case(dense(), None, timedelta(hours=12), created=True, by_sql=False))
@example(case=Case(dense(), None, FOREVER, created=False, by_sql=True))
@example(case=Case(dense(), None, timedelta(hours=12), created=True, by_sql=False, features=("word",), files=3))
@example(case=Case(dense(), None, FOREVER, created=True, by_sql=False, features=FEATURES, files=3))
@example(case=Case(late(), None, FOREVER, created=True, by_sql=False, features=("v",)))
@example(case=Case(late(), None, timedelta(hours=12), created=True, by_sql=True, files=2))
@given(case=cases)
def test_equals_a_search_of_every_row(lake: Lake, exact: Callable[..., pa.Table], case: Case) -> None:
    rows, labels = case.tables
    write(lake, rows, case.files)
    lake.write("asked", [{**label, "n": n} for n, label in enumerate(labels)], ASKED)
    lake.release("things", "asked")
    entity_df = "SELECT * EXCLUDE n FROM gold.asked ORDER BY n" if case.by_sql else framed(labels, case.zone)
    plain = view(case.ttl, case.created)
    alias = view(FOREVER, case.created).with_name("alias").with_join_key_map({"number": "other"})
    actual = rows if case.created else [{**row, "created": None} for row in rows]

    result = exact(
        [plain, alias],
        [f"{name}:{feature}" for name in ("things", "alias") for feature in case.features],
        entity_df,
        full_names=True,
    )

    assert result.select(ASKED.names[:-1]).to_pylist() == labels
    for name, keys, ttl in (
        ("things", {"number": "number", "text": "text"}, case.ttl),
        ("alias", {"number": "other", "text": "text"}, FOREVER),
    ):
        right = point_in_time.joined(actual, labels, keys, case.features, ttl)
        results = zip(*(result[f"{name}__{feature}"].to_pylist() for feature in case.features), strict=True)
        wrong = [
            (label, got, expected)
            for label, got, expected in zip(labels, results, right, strict=True)
            if got not in expected
        ]
        assert not wrong


SERVED = [pair for pair in PAIRS if None not in pair and "\x00" not in pair[1]]


@on_one_lake
@given(both=tables(), ttl=ttls)
def test_what_is_served_is_what_is_trained_on(
    lake: Lake, exact: Callable[..., pa.Table], both: Any, ttl: timedelta
) -> None:
    known = [row for row in both[0] if None not in (row["number"], row["text"], row["event_timestamp"])]
    result = [*{(row["number"], row["text"], row["event_timestamp"], row["created"]): row for row in known}.values()]
    lake.write("things", result, SCHEMA)
    load(lake.release("things", horizon="2017-01-02"), [view(ttl, True)], definitions="test")
    now = START + timedelta(days=1)
    requested = [{"number": number, "text": text, "event_timestamp": now} for number, text in SERVED]

    keys = [
        EntityKey(join_keys=["text", "number"], entity_values=[Value(string_val=text), Value(int64_val=number)])
        for number, text in SERVED
    ]
    with generation.previewing(backends.current(), now):
        read = PackedOnlineStore().online_read(None, view(ttl, True), keys)
    served = [(values or {}).get("v", Value()) for _, values in read]

    expected = [
        row[0][0] for row in point_in_time.joined(result, requested, {"number": "number", "text": "text"}, ["v"], ttl)
    ]
    assert [value.int64_val if value.WhichOneof("val") else None for value in served] == expected
    assert exact([view(ttl, True)], ["things:v"], pd.DataFrame(requested))["v"].to_pylist() == expected


def integers(column: pd.Series) -> list[int | None]:
    return [None if pd.isna(value) else int(value) for value in column]


def test_keys_are_not_concatenated(cinema: Lake, join: Callable[..., pd.DataFrame]) -> None:
    labels = pd.DataFrame(
        {
            "guest_id": [12, 1, 1, 12],
            "movie_id": [3, 23, 3, 23],
            "event_timestamp": pd.to_datetime(["2017-01-10"] * 4),
        }
    )
    result = join([definitions.guest_movie], ["guest_movie:visits_90d"], labels)
    assert integers(result.visits_90d) == [7, 9, 2, None]

"""What a training set looks like: names, types, order, aliases, SQL labels, pins, and errors that finish the
sentence.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from feast import Entity, FeatureView, Field
from feast.errors import (
    FeatureServiceNotFoundException,
    FeatureViewNotFoundException,
    RequestDataNotFoundInEntityDfException,
)
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Float64, Int64, String, UnixTimestamp
from feast.value_type import ValueType

from features import registry
from features.lake_reader import SourceError
from features.offline import as_of, frames
from features.offline.labels import LabelError
from features.offline.spark_join import SparkJoinError
from features.offline.store import ReleaseOfflineStore, ReleaseOfflineStoreConfig
from features.source import GoldTable
from lake.release import ReleaseError
from lake.settings import SettingError
from tests.unit.features.conftest import INSTANT, JOINS, VIEWS, Lake, activity, at, definitions, joined_by

Join = Callable[..., pd.DataFrame]
NO_VIEWS = SimpleNamespace(list_on_demand_feature_views=lambda *_, **__: [])
ACTIVITY, PROFILE, DEMAND = (
    definitions.guest_activity,
    definitions.guest_profile,
    definitions.movie_demand,
)


def labels(guests: list[Any], times: list[str], **more: Any) -> pd.DataFrame:
    return pd.DataFrame({"guest_id": guests, "event_timestamp": pd.to_datetime(times, format="ISO8601"), **more})


def test_three_rows_in_three_rows_out(cinema: Lake, join: Join) -> None:
    label_rows = labels([2, 1, 1], ["2017-01-31", "2017-01-08 23:59:59", "2017-01-09"])
    result = join(
        [ACTIVITY, PROFILE], ["guest_activity:paid_7d", "guest_profile:age_band", "guest_activity:seats_7d"], label_rows
    )
    assert list(result.columns) == ["guest_id", "event_timestamp", "paid_7d", "seats_7d", "age_band"]
    assert result.paid_7d.to_list() == [7.77, 10.0, 0.05]
    assert result.age_band.to_list() == [None, "25-34", "25-34"]
    assert result.paid_7d.dtype == "float64"


def test_repeated_labels_stay(cinema: Lake, join: Join) -> None:
    result = join([ACTIVITY], ["guest_activity:paid_7d"], labels([1, 1, 1], ["2017-01-03"] * 3))
    assert result.paid_7d.to_list() == [10.0] * 3


def test_null_key_and_null_time_give_null(cinema: Lake, join: Join) -> None:
    label_rows = pd.DataFrame(
        {
            "guest_id": pd.array([1, None, 1], "Int64"),
            "event_timestamp": pd.to_datetime(["2017-01-03", "2017-01-03", None]),
        }
    )
    assert join([ACTIVITY], ["guest_activity:paid_7d"], label_rows).paid_7d.fillna(-1).to_list() == [10.0, -1, -1]


def test_zones_are_converted(cinema: Lake, join: Join) -> None:
    east = datetime.fromisoformat("2017-01-09T05:29:59+05:30")
    mixed = pd.DataFrame(
        {
            "guest_id": [1, 1, 1],
            "event_timestamp": pd.Series([east, east + timedelta(seconds=1), datetime(2017, 1, 9)], dtype=object),
        }
    )
    assert join([ACTIVITY], ["guest_activity:paid_7d"], mixed).paid_7d.to_list() == [10.0, 0.05, 0.05]


def test_full_names_and_aliases(cinema: Lake, join: Join) -> None:
    friend = ACTIVITY.with_name("friend").with_join_key_map({"guest_id": "friend_id"})
    result = join(
        [ACTIVITY, friend],
        ["guest_activity:paid_7d", "friend:paid_7d"],
        labels([1], ["2017-01-05"], friend_id=[2]),
        full_names=True,
    )
    assert result.filter(like="__").iloc[0].to_dict() == {"guest_activity__paid_7d": 10.0, "friend__paid_7d": 7.77}


def test_sql_labels_may_name_the_tables(cinema: Lake, join: Join) -> None:
    sql = (
        "SELECT DISTINCT guest_id, DATE '2017-01-31' AS event_timestamp FROM gold.guest_profile ORDER BY guest_id DESC"
    )
    result = join([ACTIVITY], ["guest_activity:paid_30d"], sql)
    assert result.guest_id.to_list() == [12, 1]
    assert result.paid_30d.fillna(-1).to_list() == [-1, 0.05]
    assert str(result.event_timestamp.dtype) == "datetime64[us, UTC]"


def test_field_mapping_and_text_keys(lake: Lake, join: Join) -> None:
    schema = pa.schema([("shop", pa.string()), ("at", INSTANT), ("amt", pa.decimal128(12, 2))])
    lake.write("takings", [{"shop": "a'b", "at": at("2017-01-02"), "amt": 5}], schema)
    lake.release("takings")
    source = GoldTable(table="gold.takings", timestamp_field="at", field_mapping={"amt": "amount", "shop": "shop_name"})
    entity = Entity(name="shop_name", join_keys=["shop_name"], value_type=ValueType.STRING)
    view = FeatureView(
        name="takings",
        entities=[entity],
        schema=[Field(name="shop_name", dtype=String), Field(name="amount", dtype=Float64)],
        source=source,
    )
    result = join(
        [view],
        ["takings:amount"],
        pd.DataFrame({"shop_name": ["a'b", "ab"], "event_timestamp": pd.to_datetime(["2017-01-02"] * 2)}),
    )
    assert result.amount.fillna(-1).to_list() == [5.0, -1]


def test_a_pinned_release_stays_what_it_was(cinema: Lake, join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    cinema.write("guest_activity", [activity(1, "2017-01-02", "55.00")])
    cinema.release(*VIEWS)
    inputs, refs = labels([1], ["2017-01-03"]), ["guest_activity:paid_7d"]
    assert join([ACTIVITY], refs, inputs).paid_7d.to_list() == [55.0]
    monkeypatch.setenv("MILLRACE_RELEASE", "1")
    assert join([ACTIVITY], refs, inputs).paid_7d.to_list() == [10.0]
    monkeypatch.setenv("MILLRACE_RELEASE", "newest")
    with pytest.raises(SettingError, match="Set it to the number of a release"):
        join([ACTIVITY], refs, inputs)


def test_service_with_on_demand_features(cinema: Lake) -> None:
    registry.apply()
    store = registry.open_store()
    label_rows = labels([1, 2], ["2017-01-07", "2017-01-07"], movie_id=[3, 3])
    service = store.get_feature_service("suggestion_v1")
    with pytest.raises(RequestDataNotFoundInEntityDfException, match="request_time"):
        store.get_historical_features(label_rows, service)
    result = store.get_historical_features(label_rows.assign(request_time=label_rows.event_timestamp), service).to_df()
    assert result.days_since_last_booking.to_list() == [(6 * 86_400 - 34_215) / 86_400] * 2
    assert result.days_since_last_visit.fillna(-1).to_list() == [86_401 / 86_400, -1]
    assert result.columns.is_unique
    full = store.get_historical_features(
        label_rows.assign(request_time=label_rows.event_timestamp), service, full_feature_names=True
    ).to_df()
    assert full.guest_recency__days_since_last_booking.equals(result.days_since_last_booking)
    assert full.columns.is_unique


def test_on_demand_feature_that_is_null_everywhere_is_still_a_double(cinema: Lake) -> None:
    registry.apply()
    label_rows = labels([404], ["2017-01-07"], request_time=pd.to_datetime(["2017-01-07"]))
    result = (
        registry.open_store().get_historical_features(label_rows, ["guest_recency:days_since_last_booking"]).to_arrow()
    )
    assert result.schema.field("days_since_last_booking").type == pa.float64()
    assert result["days_since_last_booking"].to_pylist() == [None]


def test_pull_latest_and_all(cinema: Lake) -> None:
    registry.apply()
    store = registry.open_store()
    offline, source = store._get_provider().offline_store, ACTIVITY.batch_source
    columns = (["guest_id"], ["paid_7d"], "event_timestamp")
    latest = offline.pull_latest_from_table_or_query(
        store.config, source, *columns, None, at("2017-01-01"), at("2017-01-08")
    ).to_df()
    assert sorted(zip(latest.guest_id, latest.paid_7d, strict=True)) == [(1, 10.0), (2, 7.77)]
    everything = offline.pull_all_from_table_or_query(
        store.config, source, *columns, start_date=datetime(2017, 1, 5), end_date=datetime(2017, 1, 9)
    ).to_df()
    assert sorted(everything.paid_7d) == [0.05, 7.77]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (pd.DataFrame({"guest_id": [1]}), "no column event_timestamp. Got: guest_id"),
        (pd.DataFrame({"event_timestamp": [datetime(2017, 1, 1)]}), "no column guest_id"),
        (
            labels(["1"], ["2017-01-01"]),
            (
                r"guest_id is .*string in entity_df, and the key of the feature view guest_activity is"
                r" Int64.*astype\('Int64'\)"
            ),
        ),
        (labels([1.5], ["2017-01-01"]), "guest_id is double in entity_df.* pandas makes floats of whole numbers"),
        (
            labels([2**63], ["2017-01-01"]),
            "guest_id has a value that is no Int64, the type of the key of the feature view guest_activity",
        ),
        (pd.DataFrame({"guest_id": [1], "event_timestamp": ["2017-01-01"]}), "is text, such as '2017-01-01'"),
        (
            pd.DataFrame({"guest_id": [1], "event_timestamp": [20170101]}),
            "event_timestamp is int64 in entity_df, not an instant",
        ),
        (labels([1], ["2017-01-01"], paid_7d=[0.5]), "entity_df already has paid_7d"),
        ([1], "entity_df is list. Give a pandas DataFrame or the text of a DuckDB query"),
        (None, "without an entity_df, start_date is needed"),
    ],
)
def test_labels_that_cannot_be_joined(cinema: Lake, join: Join, inputs: Any, message: str) -> None:
    with pytest.raises(LabelError, match=message):
        join([ACTIVITY], ["guest_activity:paid_7d"], inputs)


def test_what_nobody_defined(cinema: Lake) -> None:
    registry.apply()
    store, inputs = registry.open_store(), labels([1], ["2017-01-03"])
    with pytest.raises(FeatureViewNotFoundException, match="guest_mood"):
        store.get_historical_features(inputs, ["guest_mood:joy"])
    with pytest.raises(KeyError, match="Feature joy not found in projection guest_activity"):
        store.get_historical_features(inputs, ["guest_activity:joy"])
    with pytest.raises(FeatureServiceNotFoundException, match="churn_v9"):
        store.get_feature_service("churn_v9")
    with pytest.raises(ReleaseError, match=r"there is no release 9\. Known: 1 to 1"):
        registry.open_store(release=9).get_historical_features(inputs, ["guest_activity:paid_7d"])


@pytest.mark.filterwarnings("ignore::features.offline.labels.BeyondHorizonWarning")
def test_instants_far_away(cinema: Lake, join: Join) -> None:
    far = pd.Series([datetime(1, 1, 1), datetime(9999, 12, 31, tzinfo=UTC), None, datetime(2017, 1, 3)], dtype=object)
    result = join(
        [ACTIVITY], ["guest_activity:paid_7d"], pd.DataFrame({"guest_id": [1, 1, 1, 1], "event_timestamp": far})
    )
    assert result.paid_7d.fillna(-1).to_list() == [-1, 99.0, -1, 10.0]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 AS guest_id",
        "SELECT 'x' AS guest_id, now() AS event_timestamp",
        "SELECT 1 AS guest_id, '2017' AS event_timestamp",
    ],
)
def test_a_query_of_labels_is_checked_before_it_runs(cinema: Lake, sql: str) -> None:
    config = SimpleNamespace(offline_store=ReleaseOfflineStoreConfig(join="duckdb"))
    with pytest.raises(LabelError):
        ReleaseOfflineStore.get_historical_features(
            config, [ACTIVITY], ["guest_activity:paid_7d"], sql, NO_VIEWS, "test"
        )


def test_the_only_instant_may_have_another_name(cinema: Lake, join: Join) -> None:
    label_rows = labels([1, 2], ["2017-01-09", "2017-01-04"]).rename(columns={"event_timestamp": "decided_at"})
    result = join([ACTIVITY], ["guest_activity:paid_7d"], label_rows)
    assert [*result.columns] == ["guest_id", "decided_at", "paid_7d"]
    assert result.paid_7d.fillna(-1).to_list() == [0.05, -1]
    with pytest.raises(LabelError, match="no column event_timestamp"):
        join([ACTIVITY], ["guest_activity:paid_7d"], label_rows.assign(seen_at=label_rows.decided_at))


@pytest.mark.parametrize("created", [None, "created"])
def test_a_view_without_an_entity(lake: Lake, join: Join, created: str | None) -> None:
    schema = pa.schema([("event_timestamp", INSTANT), ("created", INSTANT), ("rate", pa.float64())])
    result = [("2017-01-02", "2017-01-03", 2.0), ("2017-01-01", "2017-01-01", 1.0), ("2017-01-02", "2017-01-02", 9.0)][
        : 3 if created else 2
    ]
    lake.write(
        "rates",
        [{"event_timestamp": at(when), "created": at(made), "rate": rate} for when, made, rate in result],
        schema,
    )
    lake.release("rates")
    source = GoldTable(table="gold.rates", created_timestamp_column=created)
    view = FeatureView(
        name="rates", entities=[], schema=[Field(name="rate", dtype=Float64)], source=source, ttl=timedelta(days=1)
    )
    label_rows = labels([7, 8, 9, 7], ["2017-01-02 12:00", "2017-01-01", "2016-12-31", "2017-01-03 00:00:01"])
    assert join([view], ["rates:rate"], label_rows).rate.fillna(-1).to_list() == [2.0, 1.0, -1, -1]


def test_only_what_is_asked_for_needs_a_type_that_is_held(lake: Lake, join: Join) -> None:
    lake.write(
        "rates",
        [{"shop": "a", "event_timestamp": at("2017-01-01"), "rate": 1.0}],
        pa.schema([("shop", pa.string()), ("event_timestamp", INSTANT), ("rate", pa.float64())]),
    )
    lake.release("rates")
    entity = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
    fields = [
        Field(name="shop", dtype=String),
        Field(name="rate", dtype=Float64),
        Field(name="list", dtype=Array(Int64)),
    ]
    view = FeatureView(name="rates", entities=[entity], schema=fields, source=GoldTable(table="gold.rates"))
    label_rows = pd.DataFrame({"shop": ["a"], "event_timestamp": pd.to_datetime(["2017-01-02"])})
    assert join([view], ["rates:rate"], label_rows).rate.to_list() == [1.0]


def test_an_on_demand_view_of_pandas(cinema: Lake) -> None:
    @on_demand_feature_view(
        sources=[ACTIVITY], schema=[Field(name="twice", dtype=Float64)], mode="pandas", write_to_online_store=False
    )
    def doubled(frame: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"twice": frame["paid_7d"] * 2})

    config = SimpleNamespace(offline_store=ReleaseOfflineStoreConfig(join="duckdb"))
    registry = SimpleNamespace(list_on_demand_feature_views=lambda *_, **__: [doubled])
    label_rows = labels([1, 2], ["2017-01-03", "2017-01-31"])
    refs = ["guest_activity:paid_7d", "doubled:twice"]
    result = ReleaseOfflineStore.get_historical_features(config, [ACTIVITY], refs, label_rows, registry, "test").to_df()
    assert result.twice.to_list() == [20.0, 15.54]


def test_no_labels(cinema: Lake, join: Join) -> None:
    label_rows = labels([1], ["2017-01-03"]).head(0)
    for empty in (label_rows, "SELECT 1::BIGINT AS guest_id, now() AS event_timestamp WHERE false"):
        result = join([ACTIVITY, PROFILE], ["guest_activity:paid_7d", "guest_profile:age_band"], empty)
        assert [*result.columns] == ["guest_id", "event_timestamp", "paid_7d", "age_band"]
        assert not len(result)


def test_no_release_no_table_no_column(lake: Lake, join: Join) -> None:
    inputs, refs = labels([1], ["2017-01-01"]), ["guest_activity:paid_7d"]
    with pytest.raises(ReleaseError, match=r"there is no release below .* Run the DAG"):
        join([ACTIVITY], refs, inputs)
    lake.write("guest_profile", [])
    lake.release("guest_profile")
    with pytest.raises(SourceError, match=r"release 1 has no table gold.guest_activity. It has gold.guest_profile"):
        join([ACTIVITY], refs, inputs)
    lake.write(
        "guest_activity",
        [{"guest_id": 1, "event_timestamp": datetime(2017, 1, 1, tzinfo=UTC)}],
        lake.schema("guest_activity").remove(2),
    )
    lake.release("guest_activity")
    with pytest.raises(
        SourceError, match=r"gold.guest_activity has no column paid_7d in release 2 \(Delta version 0\)"
    ):
        join([ACTIVITY], refs, inputs)


def test_an_empty_table_gives_null(lake: Lake, join: Join) -> None:
    lake.write("guest_profile", [])
    lake.release("guest_profile")
    assert join([PROFILE], ["guest_profile:age_band"], labels([1], ["2017-01-01"])).age_band.to_list() == [None]


RATES = pa.schema(
    [("shop", pa.string()), ("event_timestamp", INSTANT), ("rate", pa.float64()), ("share", pa.float64())]
)


def rates(*values: tuple[str, str, float, float]) -> list[dict[str, Any]]:
    return [
        {"shop": shop, "event_timestamp": at(when), "rate": rate, "share": share} for shop, when, rate, share in values
    ]


def rates_view(**more: Any) -> FeatureView:
    entity = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
    fields = [Field(name="shop", dtype=String), Field(name="rate", dtype=Float64), Field(name="share", dtype=Float64)]
    return FeatureView(name="rates", entities=[entity], schema=fields, source=GoldTable(table="gold.rates", **more))


def shop_labels(shops: list[str | None], times: list[str]) -> pd.DataFrame:
    return pd.DataFrame({"shop": shops, "event_timestamp": pd.to_datetime(times)})


@pytest.mark.parametrize(
    "kind", ["partitioned", "files of which one lacks a column", "a column with a name of DuckDB's own"]
)
@pytest.mark.parametrize("features", [["rate"], ["rate", "share"]])
def test_however_the_table_is_stored(lake: Lake, join: Join, kind: str, features: list[str]) -> None:
    message = rates(
        ("a", "2017-01-01", 1.0, 0.1),
        ("b", "2017-01-01", 2.0, 0.2),
        ("a", "2017-01-03", 3.0, 0.3),
        ("b", "2017-01-04", 4.0, 0.4),
    )
    if kind == "partitioned":
        lake.write("rates", message, RATES, by=["shop"])
    elif kind == "files of which one lacks a column":
        lake.write("rates", message[:2], RATES.remove(3))
        lake.append("rates", message[2:], RATES)
        message[0]["share"] = message[1]["share"] = -1.0
    else:
        lake.write(
            "rates",
            [{**row, "File_Row_Number": 7} for row in message],
            RATES.append(pa.field("File_Row_Number", pa.int64())),
        )
    lake.release("rates")
    inputs = shop_labels(
        ["b", "a", "b", "a", "c"], ["2017-01-05", "2017-01-02", "2017-01-02", "2017-01-04", "2017-01-04"]
    )
    result = join([rates_view()], [f"rates:{name}" for name in features], inputs)
    for name in features:
        assert result[name].fillna(-1).to_list() == [
            message[3][name],
            message[0][name],
            message[1][name],
            message[2][name],
            -1,
        ]


def test_more_text_than_arrow_can_take_rows_from(lake: Lake, join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    lake.write("rates", rates(("a", "2017-01-01", 1.0, 0.1), ("b", "2017-01-02", 2.0, 0.2)), RATES)
    lake.release("rates")
    label_rows = shop_labels(
        ["b", None, "a", "b", "a"], ["2017-01-03", "2017-01-03", "2017-01-01", "2017-01-01", "2017-01-02"]
    )
    monkeypatch.setattr(as_of, "MAX_TAKE_BYTES", 0)
    assert join([rates_view()], ["rates:rate", "rates:share"], label_rows).rate.fillna(-1).to_list() == [
        2.0,
        -1,
        1.0,
        -1,
        1.0,
    ]


def test_a_label_that_gets_two_rows_is_a_defect_that_is_reported() -> None:
    with pytest.raises(RuntimeError, match=r"rates: 2 labels gave 2 rows, or some gave several\. .* please report it"):
        as_of._positions(pa.chunked_array([[7, 7]]), pa.chunked_array([[7, 8]]), "rates")


@pytest.mark.parametrize("when", ["1970-01-01", "1969-12-31", "2017-01-02"])
def test_a_nanosecond_before_a_row_is_before_it(lake: Lake, join: Join, when: str) -> None:
    lake.write("rates", rates(("a", when, 1.0, 0.1)), RATES)
    lake.release("rates")
    times = [pd.Timestamp(when) + pd.Timedelta(n, "ns") for n in (-1, 0, 1)]
    label_rows = pd.DataFrame({"shop": ["a"] * 3, "event_timestamp": pd.Series(times).astype("datetime64[ns]")})
    assert join([rates_view()], ["rates:rate"], label_rows).rate.fillna(-1).to_list() == [-1, 1.0, 1.0]


def test_training_sets_of_two_releases_at_once(cinema: Lake) -> None:
    cinema.write("guest_activity", [activity(1, "2017-01-02", "55.00")])
    cinema.release(*VIEWS)
    refs, inputs = ["guest_activity:paid_7d", "guest_activity:paid_30d"], labels([1], ["2017-01-03"])
    older, newer = (
        ReleaseOfflineStore.get_historical_features(
            SimpleNamespace(offline_store=ReleaseOfflineStoreConfig(join="duckdb", release=number)),
            [ACTIVITY],
            refs,
            inputs,
            NO_VIEWS,
            "test",
        ).pieces(1)
        for number in (1, 2)
    )
    result = [[next(batches)["paid_7d"].to_pylist() for batches in (older, newer)]]
    assert result == [[[10.0], [55.0]]]


def test_writing_is_refused(cinema: Lake) -> None:
    registry.apply()
    store = registry.open_store()
    with pytest.raises(NotImplementedError, match="published only by the DAG `millrace`"):
        store._get_provider().offline_store.offline_write_batch(store.config, ACTIVITY, pa.table({}), None)


def test_types_in_the_view_are_the_contracts(cinema: Lake) -> None:
    types = {field.name: str(field.dtype) for field in ACTIVITY.schema}
    assert (types["paid_7d"], types["seats_7d"], types["last_booked_at"]) == (
        str(Float64),
        str(Int64),
        "UnixTimestamp",
    )
    assert [key.name for key in definitions.guest_movie.entity_columns] == ["guest_id", "movie_id"]


EVERYTHING = {
    "n": pa.int64(),
    "money": pa.decimal128(18, 2),
    "wide": pa.decimal128(38, 10),
    "x": pa.float64(),
    "text": pa.string(),
    "yes": pa.bool_(),
    "seen": INSTANT,
}
"""A column of each type that a feature can have; n is larger than a double can tell apart."""


def hostile(
    shop: str,
    when: str,
    n: int | None,
    money: str | None,
    wide: str,
    x: float | None,
    text: str | None,
    yes: bool | None,
    seen: str | None,
) -> dict[str, Any]:
    numbers = {"n": n, "money": money and Decimal(money), "wide": Decimal(wide), "x": x}
    return {"shop": shop, "at": at(when), **numbers, "text": text, "yes": yes, "seen": seen and at(seen)}


def test_values_are_the_same_whoever_joins(lake: Lake) -> None:
    wide = "1234567890123456789012345678.0000000001"
    rows = [
        hostile(
            "Ærø",
            "2017-01-02",
            2**63 - 1,
            "-9999999999999999.99",
            wide,
            float("inf"),
            "",
            True,
            "1970-01-01 00:00:00.999999",
        ),
        hostile(
            "Ærø", "2017-01-03", None, None, "-" + wide, float("nan"), "\U0001f600\x00", None, "1969-12-31 23:59:59.5"
        ),
        hostile("", "2017-01-02", -(2**63), "0.01", "0", -0.0, None, False, None),
        hostile("日本", "2017-01-02", 2**53 + 1, "0.10", "0.0000000001", None, "é", True, "9999-12-31 23:59:59.999999"),
    ]
    lake.write("takings", rows, pa.schema([("shop", pa.string()), ("at", INSTANT), *EVERYTHING.items()]))
    lake.release("takings")
    served = {
        "n": Int64,
        "money": Float64,
        "wide": Float64,
        "x": Float64,
        "text": String,
        "yes": Bool,
        "seen": UnixTimestamp,
    }
    entity = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
    fields = [Field(name=name, dtype=dtype) for name, dtype in {"shop": String, **served}.items()]
    view = FeatureView(
        name="takings", entities=[entity], schema=fields, source=GoldTable(table="gold.takings", timestamp_field="at")
    )
    shops, times = (
        ["Ærø", "日本", "", "Ærø", "ærø", None, "Ærø"],
        ["2017-01-02", "2017-02-01", "2017-02-01", "2017-02-01", "2017-02-01", "2017-02-01", "2017-01-01"],
    )
    label_rows = pd.DataFrame({"shop": shops, "event_timestamp": pd.to_datetime(times)})

    def joined(name: str) -> pa.Table:
        refs = [f"takings:{name}" for name in served]
        with joined_by(name) as offline:
            config = SimpleNamespace(offline_store=offline)
            return ReleaseOfflineStore.get_historical_features(
                config, [view], refs, label_rows, NO_VIEWS, "test"
            ).to_arrow()

    by_duckdb, *others = map(joined, JOINS)
    assert by_duckdb["n"].to_pylist() == [2**63 - 1, 2**53 + 1, -(2**63), None, None, None, None]
    assert by_duckdb["seen"].to_pylist()[3] == at("1969-12-31 23:59:59")
    assert others
    for other in others:
        assert other.schema == by_duckdb.schema
        assert str(other.to_pylist()) == str(
            by_duckdb.to_pylist()
        )  # as text, in which nan is like nan, and -0.0 is not like 0.0


@pytest.mark.parametrize("session", [None, "etl.engine.sesion", "nowhere.at.all", "plain"])
def test_a_spark_whose_session_nobody_opens(cinema: Lake, session: str | None) -> None:
    config = SimpleNamespace(offline_store=ReleaseOfflineStoreConfig(join="spark", session=session))
    with pytest.raises(SparkJoinError, match=r"such as etl\.engine\.session|Set `session: etl\.engine\.session`"):
        ReleaseOfflineStore.get_historical_features(
            config, [ACTIVITY], ["guest_activity:paid_7d"], labels([1], ["2017-01-03"]), NO_VIEWS, "test"
        )


def test_the_repository_says_who_opens_the_session(cinema: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.apply()
    monkeypatch.setenv("MILLRACE_JOIN", "spark")
    refs = ["guest_activity:paid_7d", "guest_profile:age_band"]
    result = registry.open_store().get_historical_features(labels([2, 1], ["2017-01-31", "2017-01-08"]), refs).to_df()
    assert (result.paid_7d.to_list(), result.age_band.to_list()) == ([7.77, 10.0], [None, "25-34"])


def test_cudf_that_cannot_run_is_reported_before_anything_is_joined(
    cinema: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "find_spec", lambda _name: None)
    config = SimpleNamespace(offline_store=ReleaseOfflineStoreConfig(join="cudf"))
    with pytest.raises(frames.FramesError, match="cudf was requested"):
        ReleaseOfflineStore.get_historical_features(
            config, [ACTIVITY], ["guest_activity:paid_7d"], labels([1], ["2017-01-03"]), NO_VIEWS, "test"
        )


@pytest.mark.parametrize("join", ["polars", "pandas"])
def test_an_unknown_join_is_refused_with_the_configuration(join: Any) -> None:
    with pytest.raises(ValueError, match="Input should be 'auto', 'duckdb', 'cudf' or 'spark'"):
        ReleaseOfflineStoreConfig(join=join)

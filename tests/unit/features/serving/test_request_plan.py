"""The short way to an online answer gives what Feast's own way gives, to the protobuf and to the last byte of JSON, or
leaves the request to it.
"""

import inspect
import json
import math
import time
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fastapi.responses import JSONResponse
from feast import (
    Entity,
    FeatureService,
    FeatureStore,
    FeatureView,
    Field,
    OnDemandFeatureView,
    RepoConfig,
    RequestSource,
    metrics,
)
from feast.aggregation import Aggregation
from feast.feature_server_utils import convert_response_to_dict
from feast.infra.online_stores.online_store import OnlineStore
from feast.online_response import OnlineResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import RepeatedValue, Value
from feast.transformation.pandas_transformation import PandasTransformation
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp
from feast.value_type import ValueType
from hypothesis import given, settings
from hypothesis import strategies as st

from features.online import backends, generation
from features.online import store as online_store
from features.serving.response import Answer
from features.source import GoldTable
from features.type_mapping import KeyTypeError

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
shop = Entity(name="shop", join_keys=["shop_code"], value_type=ValueType.STRING)
SOURCE = GoldTable(table="gold.guest_activity", timestamp_field="event_timestamp")
NOW = datetime.now(UTC).replace(microsecond=0)


def view(name: str, entities: list[Entity], ttl: timedelta = timedelta(0), **fields: Any) -> FeatureView:
    keys = [Field(name=entity.join_key, dtype={"customer": Int64, "shop": String}[entity.name]) for entity in entities]
    return FeatureView(
        name=name,
        entities=entities,
        schema=[*keys, *(Field(name=field, dtype=dtype) for field, dtype in fields.items())],
        source=SOURCE,
        ttl=ttl,
    )


KINDS = {
    "age": String,
    "visits": Int64,
    "small": Int32,
    "share": Float32,
    "score": Float64,
    "is_open": Bool,
    "photo": Bytes,
    "seen_at": UnixTimestamp,
}
profile = view("profile", [customer], **KINDS)
stock = view("stock", [customer, shop], amount=Float64, last_at=UnixTimestamp)
brief = view("brief", [customer], timedelta(days=1), clicks=Int64)
twin = view("twin", [customer], age=String)
coded = view("coded", [customer], shop_code=String)
double = view("double", [customer], seen_at=UnixTimestamp, factor=Float64)
total = view("total", [], everything=Int64)
request = RequestSource(
    name="request", schema=[Field(name="request_time", dtype=UnixTimestamp), Field(name="factor", dtype=Float64)]
)
moment = RequestSource(name="moment", schema=[Field(name="request_time", dtype=UnixTimestamp)])


def since(inputs: dict[str, list]) -> dict[str, list]:
    seen, requested = inputs["seen_at"], inputs["request_time"]
    result = [
        None if visit is None else f"{other} {visit:%Y-%m-%d %H:%M:%S%z} {sorted(inputs)}"
        for visit, other in zip(seen, requested, strict=True)
    ]
    inputs["seen_at"].reverse()
    return {"since": result, "elapsed__since": result}


def scaled(inputs: dict[str, list]) -> dict[str, list]:
    amounts = inputs["stock__amount"]
    products = [
        None if amount is None else amount * factor for amount, factor in zip(amounts, inputs["factor"], strict=True)
    ]
    whole = [None if number is None or abs(number) > 1e18 or number != number else int(number) for number in products]
    flags = [number is not None for number in products]
    result = {"product": products, "whole": whole, "is_known": flags, "label": [str(number) for number in products]}
    return result | {f"scales__{name}": values for name, values in result.items()}


def pandas_sum(frame: pd.DataFrame) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame({"more": frame["visits"] + 1})


def single(inputs: dict[str, Any]) -> dict[str, Any]:
    return {"one": float(inputs["visits"] or 0)}


def few(inputs: dict[str, list]) -> dict[str, list]:
    return {"few": [1.0]}


def listed(inputs: dict[str, list]) -> dict[str, list]:
    return {"listed": [["a", str(visit)] for visit in inputs["visits"]]}


def stored_udf(inputs: dict[str, list]) -> dict[str, list]:
    return {"twice": [None if visit is None else 2 * visit for visit in inputs["visits"]]}


def computed(name: str, sources: list[Any], udf: Any, **fields: Any) -> OnDemandFeatureView:
    mode, more = (
        fields.pop("mode", "python"),
        {
            option: fields.pop(option)
            for option in ("singleton", "write_to_online_store", "entities")
            if option in fields
        },
    )
    schema = [Field(name=field, dtype=dtype) for field, dtype in fields.items()]
    inputs = (
        {"udf": udf, "udf_string": inspect.getsource(udf)}
        if mode == "python"
        else {"feature_transformation": PandasTransformation(udf=udf, udf_string=inspect.getsource(udf))}
    )
    return OnDemandFeatureView(name=name, sources=sources, schema=schema, mode=mode, **more, **inputs)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    elapsed = computed("elapsed", [profile[["seen_at"]], moment], since, since=String)
    scales = computed("scales", [stock, request], scaled, product=Float64, whole=Int64, is_known=Bool, label=String)
    stored = computed(
        "stored", [profile[["visits"]]], stored_udf, twice=Int64, write_to_online_store=True, entities=[customer]
    )
    summed = OnDemandFeatureView(
        name="summed",
        sources=[profile[["visits"]]],
        schema=[Field(name="sum_visits", dtype=Int64)],
        mode="python",
        aggregations=[Aggregation(column="visits", function="sum")],
    )
    fewer = computed("few", [profile[["visits"]]], few, few=Float64)
    lists = computed("lists", [profile[["visits"]]], listed, listed=Array(String))
    panda = computed("panda", [profile[["visits"]]], pandas_sum, more=Int64, mode="pandas")
    alone = computed("alone", [profile[["visits"]]], single, one=Float64, singleton=True)

SERVICES = {
    "all": FeatureService(name="all", features=[profile, stock, brief, elapsed, scales]),
    "some": FeatureService(name="some", features=[profile[["visits", "seen_at"]], scales[["whole"]]]),
    "renamed": FeatureService(name="renamed", features=[profile.with_name("p2"), elapsed.with_name("e2")]),
    "rekeyed": FeatureService(name="rekeyed", features=[profile.with_join_key_map({"customer_id": "buyer_id"})]),
}
REFS = [
    *(
        f"{view_.name}:{feature.name}"
        for view_ in (profile, stock, brief, elapsed, scales)
        for feature in view_.features
    ),
]


def proto(dtype: Any, value: Any) -> Value:
    fields = {
        Int64: "int64_val",
        Int32: "int32_val",
        String: "string_val",
        Float32: "float_val",
        Float64: "double_val",
        Bool: "bool_val",
        Bytes: "bytes_val",
    }
    return Value() if value is None else Value(**{fields.get(dtype, "unix_timestamp_val"): value})


def put(store: FeatureStore, of: FeatureView, keys: dict[str, Any], at: datetime, *values: Any) -> None:
    key = EntityKey(
        join_keys=list(keys),
        entity_values=[proto(String if isinstance(value, str) else Int64, value) for value in keys.values()],
    )
    row = {feature.name: proto(feature.dtype, value) for feature, value in zip(of.features, values, strict=True)}
    store._get_provider().online_store.online_write_batch(store.config, of, [(key, row, at, None)], None)


def open_store(path: Path) -> FeatureStore:
    config = RepoConfig(
        project="test",
        provider="local",
        registry={"path": str(path), "cache_ttl_seconds": 0},
        online_store={"type": "features.online.store.PackedOnlineStore"},
        entity_key_serialization_version=3,
    )
    return FeatureStore(config=config)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeatureStore]:
    """Seven customers, of whom the last has no row; three shops; NULLs, rows that are too old, and events of every
    fraction of a second.
    """
    home = tmp_path_factory.mktemp("plans")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("MILLRACE_HOME", str(home))
        store = open_store(home / "registry.db")
        store.apply(
            [
                customer,
                shop,
                profile,
                stock,
                brief,
                twin,
                double,
                coded,
                total,
                elapsed,
                scales,
                panda,
                alone,
                stored,
                summed,
                fewer,
                lists,
                *SERVICES.values(),
            ]
        )
        when = datetime(2017, 1, 1, tzinfo=UTC)
        put(store, profile, {"customer_id": 1}, when, "25-34", 3, 4, 0.1, 0.1, True, b"\x00\xff>", 1_500_000_000)
        put(
            store,
            profile,
            {"customer_id": 2},
            when + timedelta(microseconds=1),
            "\u00e9 \u20ac",
            0,
            0,
            0.0,
            -0.0,
            False,
            b"",
            0,
        )
        put(store, profile, {"customer_id": 3}, when + timedelta(milliseconds=250), *[None] * 8)
        put(
            store,
            profile,
            {"customer_id": 4},
            datetime(1969, 7, 20, 20, 17, 40, 500_000, UTC),
            "",
            -(2**63),
            -(2**31),
            1e30,
            math.inf,
            True,
            b"a",
            -1,
        )
        put(
            store,
            profile,
            {"customer_id": 5},
            when,
            "x",
            2**63 - 1,
            1,
            math.inf,
            1e300,
            None,
            None,
            np.iinfo(np.int64).min,
        )
        for each, code, amount in (
            (1, "a", 1.5),
            (1, "b", None),
            (2, "a", 1e17),
            (2, "b", math.inf),
            (12, "a", -0.1),
            (1, "2a", 3.0),
        ):
            put(store, stock, {"customer_id": each, "shop_code": code}, when, amount, 1_500_000_000 + each)
        put(store, double, {"customer_id": 1}, when, 1_400_000_000, 7.5)
        put(store, coded, {"customer_id": 1}, when, "b")
        put(store, brief, {"customer_id": 1}, NOW - timedelta(hours=12), 5)
        put(store, brief, {"customer_id": 2}, NOW - timedelta(days=2), 6)
        yield store


def feasts(
    store: FeatureStore, features: Any, rows: Any, full_names: bool = False, version: bool = False
) -> OnlineResponse:
    """Feast's own way, on the same store."""
    ours = store._get_provider().online_store
    inputs = online_store._with_request_time(rows)
    return OnlineStore.get_online_features(
        ours, store.config, features, inputs, store.registry, store.project, full_names, version
    )


def outcome(call: Any, *arguments: Any) -> Any:
    try:
        return call(*arguments)
    except Exception as error:
        return type(error), str(error)


def http(response: OnlineResponse) -> bytes:
    return JSONResponse(convert_response_to_dict(response.proto)).body


def typed(message: dict[str, list[Any]]) -> list[Any]:
    return [(name, [(type(value), repr(value)) for value in values]) for name, values in message.items()]


def both(store: FeatureStore, features: Any, rows: Any, full_names: bool = False) -> tuple[Any, Any]:
    """Our answer and Feast's, of the same second: where `request_time` is absent, each takes its own now, and keeps its
    seconds.
    """
    while True:
        second = int(datetime.now(UTC).timestamp())
        answers = (
            outcome(store.get_online_features, features, rows, full_names),
            outcome(feasts, store, features, rows, full_names),
        )
        if second == int(datetime.now(UTC).timestamp()):
            return answers


def check(store: FeatureStore, features: Any, rows: Any, full_names: bool = False) -> Any:
    """The answer, or the error, after it was found to be Feast's."""
    ours, feast = both(store, features, rows, full_names)
    if isinstance(feast, tuple):
        assert ours == feast
        return feast
    assert isinstance(ours, OnlineResponse), ours
    assert typed(ours.to_dict()) == typed(feast.to_dict())
    assert typed(ours.to_dict(True)) == typed(feast.to_dict(include_event_timestamps=True))
    pd.testing.assert_frame_equal(ours.to_df(True), feast.to_df(True))
    assert ours.to_arrow(True).equals(feast.to_arrow(True), check_metadata=True)
    if isinstance(ours, Answer):
        assert json.loads(ours.to_json()) == json.loads(http(feast))
        assert list(json.loads(ours.to_json())) == list(json.loads(http(feast)))
    assert ours.proto == feast.proto
    assert ours._feature_types == feast._feature_types
    return ours


WHEN = datetime(2018, 1, 2, 3, 4, 5, tzinfo=UTC)
moments = st.sampled_from(
    [
        WHEN,
        WHEN.replace(tzinfo=None),
        WHEN.astimezone(timezone(timedelta(hours=5, minutes=30))),
        datetime(1969, 1, 1, microsecond=7),
    ]
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[Any, dict[str, list[Any]], bool]:
    """What to ask, of whom, and by which names."""
    requested: Any = draw(
        st.one_of(
            st.sampled_from(["all", "some"]), st.lists(st.sampled_from(REFS), min_size=1, max_size=6, unique=True)
        )
    )
    count = draw(st.integers(1, 5))
    each = st.lists
    rows = {
        "customer_id": draw(each(st.sampled_from([1, 2, 3, 4, 5, 7, 12]), min_size=count, max_size=count)),
        "shop_code": draw(each(st.sampled_from(["a", "b", "2a", "none"]), min_size=count, max_size=count)),
        "factor": draw(each(st.sampled_from([2.0, 0.5, 3, 0.0]), min_size=count, max_size=count)),
        "request_time": draw(each(moments, min_size=count, max_size=count)),
    }
    names = draw(st.permutations(list(rows)))
    return (
        requested,
        {name: rows[name] for name in names[: draw(st.sampled_from([4, 4, 4, 3, 2]))]},
        draw(st.booleans()),
    )


@settings(max_examples=150, deadline=None)
@given(selection=requests(), as_rows=st.booleans())
def test_it_is_what_feast_answers(store: FeatureStore, selection: Any, as_rows: bool) -> None:
    what, inputs, full_names = selection
    features = SERVICES[what] if isinstance(what, str) else what
    rows = (
        [dict(zip(inputs, values, strict=True)) for values in zip(*inputs.values(), strict=True)] if as_rows else inputs
    )
    check(store, features, rows, full_names)


EVERYTHING = {
    "customer_id": [1, 2, 3, 4, 5, 7, 1],
    "shop_code": ["a", "a", "b", "a", "b", "a", "b"],
    "factor": [1.5] * 7,
    "request_time": [WHEN] * 7,
}


@pytest.mark.parametrize("full_names", [False, True])
@pytest.mark.parametrize("what", ["all", "some"])
def test_services_take_the_short_way(store: FeatureStore, what: str, full_names: bool) -> None:
    assert isinstance(check(store, SERVICES[what], EVERYTHING, full_names), Answer)
    assert isinstance(
        check(store, SERVICES[what], {name: values[:1] for name, values in EVERYTHING.items()}, full_names), Answer
    )


ONE = {"customer_id": [1]}


@pytest.mark.parametrize(
    ("features", "rows", "short"),
    [
        (["profile:age"], ONE, True),
        (["profile:age"], [{"customer_id": 1}, {"customer_id": 7}], True),
        (["profile:age"], {"customer_id": (1, 2)}, True),
        (["profile:age"], {"customer_id": [np.int64(1), np.int32(2)]}, True),
        (["profile:age"], {"customer_id": [Value(int64_val=1)]}, True),
        (["profile:age"], {"customer_id": [1], "age": ["x"]}, None),
        (["profile:age"], {"customer_id": [1], "shop_code": [5], "request_time": [WHEN], "other": [3]}, True),
        (["profile:age", "stock:amount"], {"shop_code": ["\u00e9", "a"], "customer_id": [1, 1]}, True),
        (["profile:age"], {"customer_id": RepeatedValue(val=[Value(int64_val=1)])}, False),
        (["profile:age"], {"customer": [1]}, False),
        (["elapsed:since"], {"customer_id": [1, 2], "request_time": ["2018-01-02", "2018-01-03"]}, None),
        (["profile:seen_at", "elapsed:since"], {"customer_id": [1], "request_time": [1_500_000_000]}, None),
        (["profile:seen_at", "elapsed:since"], {"customer_id": [1], "request_time": [None]}, None),
        (["profile:seen_at", "elapsed:since"], {"customer_id": [1, 2], "request_time": [None, WHEN]}, None),
        (["total:everything", "profile:age"], ONE, False),
        (["panda:more"], ONE, False),
        (["alone:one"], ONE, False),
        (["stored:twice"], ONE, False),
        (["lists:listed"], ONE, None),
        (["double:seen_at", "elapsed:since"], {"customer_id": [1], "request_time": [WHEN]}, None),
        (
            ["double:factor", "scales:product"],
            {"customer_id": [1], "shop_code": ["a"], "factor": [2.0], "request_time": [WHEN]},
            None,
        ),
        (["double:factor"], {"customer_id": [1], "factor": [2.0]}, True),
        (["coded:shop_code"], {"customer_id": [1], "shop_code": ["a"]}, None),
        (["profile:age"], {"customer_id": [1, 2], "customer": [2, 2]}, False),
        (["profile:age"], {"customer": [1, 2], "customer_id": [2, 2]}, False),
        (SERVICES["rekeyed"], {"buyer_id": [1], "customer_id": [2]}, False),
        (
            ["scales:product", "scales:whole"],
            {"customer_id": [2], "shop_code": ["b"], "factor": [0.0], "request_time": [WHEN]},
            None,
        ),
        (["summed:sum_visits"], ONE, None),
        (["profile:age", "twin:age"], ONE, None),
        (SERVICES["rekeyed"], {"buyer_id": [1, 7]}, False),
        (SERVICES["renamed"], {"customer_id": [1], "request_time": [WHEN]}, None),
    ],
)
@pytest.mark.parametrize("full_names", [False, True])
@pytest.mark.filterwarnings("ignore:Using entity name is deprecated")
def test_which_way_is_taken(
    store: FeatureStore, features: Any, rows: Any, short: bool | None, full_names: bool
) -> None:
    """`short` is None where it depends on the names, or where there is an error."""
    message = check(store, features, rows, full_names)
    if short is not None and isinstance(message, OnlineResponse):
        assert isinstance(message, Answer) == short


@pytest.mark.parametrize(
    ("features", "rows", "error"),
    [
        (["profile:agee"], ONE, KeyError),
        (["profil:age"], ONE, Exception),
        (["age"], ONE, ValueError),
        (["profile:age", "profile:age"], ONE, Exception),
        ([], ONE, ValueError),
        (None, ONE, Exception),
        (FeatureService(name="unknown", features=[profile]), ONE, Exception),
        (["profile:age"], {}, Exception),
        (["profile:age"], [], IndexError),
        (["profile:age"], {"customer_id": []}, KeyError),
        (["profile:age"], {"shop_code": ["a"]}, KeyError),
        (["stock:amount"], {"customer_id": [1]}, KeyError),
        (["profile:age"], {"customer_id": [1, 2], "shop_code": ["a"]}, ValueError),
        (["profile:age"], [{"customer_id": 1}, {"customer_id": 2, "shop_code": "a"}], ValueError),
        (["profile:age"], [{"customer_id": 1, "shop_code": "a"}, {"customer_id": 2}], ValueError),
        (["profile:age"], {"customer_id": [2**63]}, ValueError),
        (["profile:age"], {"customer_id": [-(2**63) - 1, 1]}, ValueError),
        (["stock:amount"], {"customer_id": [1], "shop_code": ["\ud800"]}, UnicodeEncodeError),
        (["profile:age"], {"customer_id": [1], "shop_code": ["\ud800"]}, UnicodeEncodeError),
        (["profile:age"], {"customer_id": 1}, AttributeError),
        (["profile:age"], {"customer_id": [1], "other": [object()]}, ValueError),
        (["scales:product"], {"customer_id": [1], "shop_code": ["a"]}, Exception),
        (
            ["scales:product"],
            {"customer_id": [1], "shop_code": ["a"], "factor": ["x"], "request_time": [WHEN]},
            TypeError,
        ),
    ],
)
def test_errors_are_feasts(store: FeatureStore, features: Any, rows: Any, error: type[Exception]) -> None:
    message = check(store, features, rows)
    assert isinstance(message, tuple), message
    assert issubclass(message[0], error)


@pytest.mark.parametrize(
    ("features", "rows", "view"),
    [
        (["profile:age"], {"customer_id": [True, 2]}, "profile"),
        (["profile:age"], {"customer_id": ["1", "2"]}, "profile"),
        (["profile:age"], {"customer_id": [1.9, 2]}, "profile"),
        (["profile:age"], {"customer_id": [1, pd.Timestamp(2, unit="s")]}, "profile"),
        (["profile:age"], {"customer_id": [float("nan")]}, "profile"),
        (["profile:age"], {"customer_id": [[1]]}, "profile"),
        (["profile:age"], {"customer_id": [Value(string_val="1")]}, "profile"),
        (["profile:age", "stock:amount"], {"shop_code": [2, 3], "customer_id": [1, 1]}, "stock"),
        (["profile:age"], {"customer": ["1"]}, "profile"),
    ],
)
@pytest.mark.filterwarnings("ignore:Using entity name is deprecated")
def test_a_key_of_another_type_is_not_converted_as_feast_would(
    store: FeatureStore, features: Any, rows: Any, view: str
) -> None:
    """Feast answers 1.9 with the features of 1."""
    with pytest.raises(KeyTypeError, match=f"of the feature view {view} is "):
        store.get_online_features(features, rows)


def test_the_request_is_now_for_both(store: FeatureStore) -> None:
    before = datetime.now(UTC)
    ours, feast = both(store, ["elapsed:since"], ONE)
    assert isinstance(ours, Answer)
    assert ours.to_dict() == feast.to_dict()
    assert {f"{before:%Y-%m-%d}", f"{datetime.now(UTC):%Y-%m-%d}"} & set(ours.to_dict()["since"][0].split())


def test_a_row_that_is_too_old_is_none(store: FeatureStore) -> None:
    result = check(store, ["brief:clicks"], {"customer_id": [1, 2, 3]})
    assert result.to_dict()["clicks"] == [5, None, None]
    path = backends.current()
    assert path is not None
    with generation.previewing(path, NOW + timedelta(days=1)):
        assert check(store, ["brief:clicks"], {"customer_id": [1, 2, 3]}).to_dict()["clicks"] == [None] * 3


def test_a_view_or_a_feature_that_is_not_stored_yet(store: FeatureStore) -> None:
    assert isinstance(check(store, ["twin:age"], ONE), Answer)
    result = check(store, ["twin:age", "brief:clicks"], {"customer_id": [1, 7]}).to_dict()
    assert result == {"customer_id": [1, 7], "age": [None, None], "clicks": [5, None]}


def test_the_answer_is_the_callers_own(store: FeatureStore) -> None:
    """Neither what the caller does to the entities, nor to what it was told, nor what a function does to its inputs,
    changes the answer.
    """
    entities = {name: list(values) for name, values in EVERYTHING.items()}
    answer = store.get_online_features(SERVICES["all"], entities)
    before = answer.to_dict()
    for values in entities.values():
        values.clear()
    for values in answer.to_dict().values():
        values.clear()
    assert answer.to_dict() == before
    assert len(before["seen_at"]) == 7


def test_an_applied_change_is_seen(store: FeatureStore, tmp_path: Path) -> None:
    own = open_store(tmp_path / "registry.db")
    own.apply([customer, profile, FeatureService(name="some", features=[profile[["visits"]]])])
    for _ in range(2):
        assert list(own.get_online_features(own.get_feature_service("some"), ONE).to_dict()) == [
            "customer_id",
            "visits",
        ]
    open_store(tmp_path / "registry.db").apply([FeatureService(name="some", features=[profile[["age"]]])])
    own.refresh_registry()
    for _ in range(2):
        assert list(own.get_online_features(own.get_feature_service("some"), ONE).to_dict()) == ["customer_id", "age"]


def test_moments_without_a_zone_are_utc(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    requested = {"customer_id": [1, 2], "request_time": [WHEN.replace(tzinfo=None), datetime(2018, 1, 2, 3)]}
    before = store.get_online_features(["elapsed:since"], requested).to_dict()
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    try:
        assert check(store, ["elapsed:since"], requested).to_dict() == before
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_function_that_returns_other_rows(store: FeatureStore) -> None:
    """Feast takes as many as it gets."""
    ours, feast = (
        ask(["few:few"], {"customer_id": [1, 2]})
        for ask in (store.get_online_features, lambda *arguments: feasts(store, *arguments))
    )
    assert ours.proto == feast.proto
    assert ours.to_dict() == feast.to_dict() == {"customer_id": [1, 2], "few": [1.0]}


def test_feasts_metrics_and_versions_are_left_to_feast(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not isinstance(
        store.get_online_features(["profile:age"], ONE, include_feature_view_version_metadata=True), Answer
    )
    monkeypatch.setattr(metrics, "_config", SimpleNamespace(online_features=True))
    monkeypatch.setattr(metrics, "track_online_store_read", lambda _seconds: None)
    monkeypatch.setattr(metrics, "track_feature_statuses", lambda *_: None)
    assert not isinstance(store.get_online_features(["profile:age"], ONE), Answer)

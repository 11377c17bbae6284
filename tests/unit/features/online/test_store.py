"""Serving: the online answer equals the offline one, older events never win, and no kill takes the former generation
offline.
"""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from feast import Entity, FeatureView, Field
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Bool, Float32, Float64, Int64, String
from feast.value_type import ValueType

from features import registry
from features.online import backends, generation, materialize, sqlite
from features.online import store as online_store
from features.online.generation import OnlineStoreDamagedError, OnlineStoreEmptyError, OnlineStoreOwnedError
from features.registry import RegistryOwnedError
from features.type_mapping import KeyTypeError
from lake import release
from tests.projects import GROCERY
from tests.unit.features.conftest import VIEWS, Lake, activity, at, definitions, demand

PUSHED = {f"{what}_{days}d": [1] for what in ("paid", "seats", "bookings") for days in (7, 30, 90)} | {
    "saved_share_30d": [0.0]
}


def online(store: Any, feature: str, **keys: Any) -> Any:
    name = feature.split(":")[1]
    return store.get_online_features(features=[feature], entity_rows=[keys]).to_dict()[name][0]


def push(store: Any, guest: int, when: datetime, spend: float) -> None:
    row = {
        **PUSHED,
        "guest_id": [guest],
        "event_timestamp": [when],
        "last_booked_at": [at("2017-01-01")],
        "paid_7d": [spend],
    }
    store.write_to_online_store("guest_activity", pd.DataFrame(row))


def test_online_is_offline_at_the_horizon(cinema: Lake) -> None:
    materialize.materialize(release.read())
    store = registry.open_store()
    service = store.get_feature_service("suggestion_v1")
    entities = [(guest, movie) for guest in (1, 2, 12, 404) for movie in (3, 23, 405)]
    labels = pd.DataFrame(entities, columns=["guest_id", "movie_id"]).assign(
        event_timestamp=at("2017-02-01"), request_time=at("2017-02-01 06:00")
    )
    rows = [{"guest_id": guest, "movie_id": movie, "request_time": at("2017-02-01 06:00")} for guest, movie in entities]

    trained = store.get_historical_features(labels, service).to_arrow().to_pydict()
    served = store.get_online_features(features=service, entity_rows=rows).to_dict()

    assert len(served) == 32
    assert {name: trained[name] for name in served} == served
    assert served["paid_7d"][:3] == [0.05] * 3
    assert served["sold_7d"][0] == 0


def test_rows_after_the_horizon_wait(cinema: Lake) -> None:
    materialize.materialize(release.read())
    store = registry.open_store()
    assert online(store, "guest_activity:paid_7d", guest_id=1) == 0.05
    cinema.release(*VIEWS, horizon="2999-01-01")
    materialize.materialize(release.read())
    assert online(store, "guest_activity:paid_7d", guest_id=1) == 99.0


def test_the_same_release_is_no_work_until_the_store_is_deleted(cinema: Lake) -> None:
    first = materialize.materialize(release.read()).views
    again = materialize.materialize(release.read()).views
    assert [(report.view, report.rows, report.generation) for report in again] == [
        (report.view, report.rows, report.generation) for report in first
    ]
    assert {report.status for report in again} == {"unchanged"}
    backends.configured().remove_all()
    assert backends.metadata() is None
    assert {report.status for report in materialize.materialize(release.read()).views} == {"published"}


def test_another_projects_features_and_definitions_are_left_alone(
    cinema: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    materialize.materialize(release.read())
    before, definitions = backends.metadata(), registry.path().read_bytes()
    monkeypatch.setenv("MILLRACE_PROJECT", str(GROCERY))
    with pytest.raises(OnlineStoreOwnedError, match=r"and this is grocery\. Nothing was changed\. Set MILLRACE_ONLINE"):
        materialize.materialize(release.read(), fresh=True)
    with pytest.raises(OnlineStoreOwnedError, match="and this is grocery"):
        materialize.materialize_until(release.read(), at("2017-01-10"))
    with pytest.raises(RegistryOwnedError, match=r"and this is grocery\. Nothing was changed\. Set MILLRACE_REGISTRY"):
        registry.apply()
    assert (backends.metadata(), registry.path().read_bytes()) == (before, definitions)


def test_the_report_counts_entities(cinema: Lake) -> None:
    seen: list[tuple[str, int]] = []
    reports = materialize.materialize(release.read(), lambda view, rows: seen.append((view, rows))).views
    assert {report.view: report.rows for report in reports} == {
        "guest_activity": 2,
        "guest_movie": 3,
        "guest_profile": 2,
        "movie_demand": 2,
    }
    assert sorted(seen) == sorted((report.view, report.rows) for report in reports)
    about = backends.metadata()
    assert about is not None
    assert (about.release, about.horizon, about.tables) == (1, "2017-02-01", release.read().tables)


def test_an_instant_before_1970_is_rounded_down_as_in_training(cinema: Lake) -> None:
    cinema.write("guest_activity", [activity(1, "2017-01-02", last="1969-12-31 23:59:58.5")])
    cinema.release(*VIEWS)
    assert materialize.materialize(release.read()).consistency is not None
    assert online(registry.open_store(), "guest_activity:last_booked_at", guest_id=1) == at("1969-12-31 23:59:58")


def test_an_open_store_sees_the_next_generation(cinema: Lake) -> None:
    materialize.materialize(release.read())
    store = registry.open_store()
    assert online(store, "guest_activity:paid_7d", guest_id=2) == 7.77
    for spend in ("8.00", "9.00", "10.00"):
        cinema.write("guest_activity", [activity(2, "2017-01-05", spend)])
        cinema.release(*VIEWS)
        materialize.materialize(release.read())
        assert online(store, "guest_activity:paid_7d", guest_id=2) == float(spend)
        assert online(store, "guest_activity:paid_7d", guest_id=1) is None


@pytest.mark.parametrize("step", ["_load_view", "LakeReader"])
def test_a_failure_while_filling_leaves_the_former_generation(
    cinema: Lake, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    _fails_and_recovers(cinema, monkeypatch, materialize, step)


@pytest.mark.parametrize("step", ["sync", "_point_to", "write_whole", "_clean"])
def test_a_failure_while_publishing_leaves_the_former_generation(
    cinema: Lake, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    _fails_and_recovers(cinema, monkeypatch, sqlite, step)


def _fails_and_recovers(cinema: Lake, monkeypatch: pytest.MonkeyPatch, module: Any, step: str) -> None:
    materialize.materialize(release.read())
    store = registry.open_store()
    before = backends.current()
    cinema.write("guest_activity", [activity(2, "2017-01-05", "8.00")])
    cinema.release(*VIEWS)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, step, killed)
        with pytest.raises(KeyboardInterrupt):
            materialize.materialize(release.read())
    assert backends.current() == before
    assert online(store, "guest_activity:paid_7d", guest_id=2) == 7.77
    assert {report.status for report in materialize.materialize(release.read()).views} == {"published"}
    assert online(store, "guest_activity:paid_7d", guest_id=2) == 8.0


def test_an_older_event_does_not_overwrite(cinema: Lake) -> None:
    materialize.materialize(release.read())
    store = registry.open_store()
    push(store, 1, at("2017-01-08"), 1.0)
    assert online(store, "guest_activity:paid_7d", guest_id=1) == 0.05
    push(store, 1, at("2017-01-09"), 2.0)
    assert online(store, "guest_activity:paid_7d", guest_id=1) == 2.0
    push(store, 1, datetime(2017, 1, 10), 3.0)
    push(store, 1, at("2017-01-09 12:00"), 4.0)
    assert online(store, "guest_activity:paid_7d", guest_id=1) == 3.0


def test_of_equal_events_the_later_created_wins(cinema: Lake) -> None:
    registry.apply()
    store = registry.open_store()
    view, online = definitions.guest_profile, store._get_provider().online_store
    key = EntityKey(join_keys=["guest_id"], entity_values=[Value(int64_val=7)])
    when, noon = at("2017-01-01"), at("2017-01-01 12:00")
    for age, created in (("65+", noon), ("19-24", noon - timedelta(hours=1)), ("25-34", noon), ("45-54", None)):
        online.online_write_batch(store.config, view, [(key, {"age_band": Value(string_val=age)}, when, created)], None)
        [(result, values)] = online.online_read(store.config, view, [key], ["age_band", "tier"])
        assert result == when
        assert values["age_band"].string_val == {"65+": "65+", "19-24": "65+", "25-34": "25-34", "45-54": "45-54"}[age]
        assert values["tier"] == Value()


def test_a_push_comes_online_without_a_materialization(cinema: Lake) -> None:
    registry.apply()
    store = registry.open_store()
    with pytest.raises(OnlineStoreEmptyError, match=r"no features are online in .* Run the DAG"):
        online(store, "guest_activity:paid_7d", guest_id=1)
    store._get_provider().online_store.online_write_batch(store.config, definitions.guest_profile, [], None)
    with pytest.raises(OnlineStoreEmptyError):
        online(store, "guest_activity:paid_7d", guest_id=1)
    push(store, 1, at("2017-01-08"), 1.5)
    assert online(store, "guest_activity:paid_7d", guest_id=1) == 1.5
    assert online(store, "guest_profile:age_band", guest_id=1) is None
    assert {report.status for report in materialize.materialize(release.read()).views} == {"published"}


def test_feasts_own_materialize_gives_the_same(cinema: Lake) -> None:
    registry.apply()
    store = registry.open_store()
    store.materialize(at("2016-01-01"), at("2017-02-01"))
    entities = {"guest_id": [1, 2, 12], "movie_id": [3, 23, 3], "request_time": [at("2017-02-01")] * 3}
    service = store.get_feature_service("suggestion_v1")
    feasts = store.get_online_features(features=service, entity_rows=entities).to_dict()
    materialize.materialize(release.read())
    assert store.get_online_features(features=service, entity_rows=entities).to_dict() == feasts


def test_the_request_is_now_unless_given(cinema: Lake) -> None:
    materialize.materialize(release.read())
    store = registry.open_store()
    expected = (datetime.now(UTC) - at("2017-01-01 09:30:15")) / timedelta(days=1)
    assert online(store, "guest_recency:days_since_last_booking", guest_id=1) == pytest.approx(expected, abs=0.01)
    assert online(store, "guest_recency:days_since_last_booking", guest_id=404) is None
    full = store.get_online_features(
        ["guest_recency:days_since_last_booking"],
        [{"guest_id": 1, "request_time": at("2017-01-02 09:30:15")}],
        True,
    )
    assert full.to_dict()["guest_recency__days_since_last_booking"] == [1.0]


def test_async_reads_answer_the_same(cinema: Lake) -> None:
    materialize.materialize(release.read())
    store = registry.open_store()
    service = store.get_feature_service("suggestion_v1")
    rows = [{"guest_id": guest, "movie_id": 3, "request_time": at("2017-02-01 06:00")} for guest in (1, 2, 12, 404)]
    requests = [
        (service, rows, False),
        (service, rows, True),
        (["guest_activity:paid_7d"], [{"guest_id": 2}], False),
    ]

    async def served() -> list[Any]:
        return await asyncio.gather(*(store.get_online_features_async(*request) for request in requests * 3))

    expected = [store.get_online_features(*request) for request in requests]
    answers = asyncio.run(served())
    assert [answer.to_dict() for answer in answers] == [answer.to_dict() for answer in expected] * 3
    assert [answer.proto for answer in answers] == [answer.proto for answer in expected] * 3
    with pytest.raises(KeyTypeError):
        asyncio.run(store.get_online_features_async(["guest_activity:paid_7d"], [{"guest_id": "2"}]))


def test_async_reads_of_one_view_and_async_pushes(cinema: Lake) -> None:
    materialize.materialize(release.read())
    store = registry.open_store()
    key = EntityKey(join_keys=["guest_id"], entity_values=[Value(int64_val=1)])
    provider, view = store._get_provider(), definitions.guest_profile
    arguments = (store.config, view, [key], ["age_band"])
    assert asyncio.run(provider.online_read_async(*arguments)) == provider.online_read(*arguments)
    rows = {
        "guest_id": [1],
        "age_band": ["65+"],
        "tier": [None],
        "party_size": [None],
        "children": [None],
        "event_timestamp": [at("2017-01-09")],
    }
    asyncio.run(store.write_to_online_store_async("guest_profile", pd.DataFrame(rows)))
    assert online(store, "guest_profile:age_band", guest_id=1) == "65+"


def test_value_service_needs_a_guest_only(cinema: Lake) -> None:
    materialize.materialize(release.read())
    store = registry.open_store()
    answer = store.get_online_features(store.get_feature_service("guest_value_v1"), [{"guest_id": 1}]).to_dict()
    assert (answer["paid_7d"], answer["age_band"], len(answer)) == ([0.05], ["25-34"], 16)


def test_dropped_views_and_teardown(cinema: Lake) -> None:
    materialize.materialize(release.read())
    store = registry.open_store()
    served = store._get_provider().online_store
    served.update(store.config, [definitions.guest_profile], [], [], [], partial=False)
    fresh = registry.open_store()
    assert online(fresh, "guest_profile:age_band", guest_id=1) is None
    assert online(fresh, "guest_activity:paid_7d", guest_id=1) == 0.05
    served.teardown(store.config, [], [])
    with pytest.raises(OnlineStoreEmptyError):
        online(fresh, "guest_activity:paid_7d", guest_id=1)


def test_what_has_outlived_its_ttl_is_not_served(cinema: Lake) -> None:
    materialize.materialize(release.read())
    store = registry.open_store()
    view = store.get_feature_view("guest_profile")
    view.ttl = datetime.now(UTC) - at("2017-01-05")
    store.registry.apply_feature_view(view, store.project)
    fresh = registry.open_store()
    assert [online(fresh, "guest_profile:tier", guest_id=guest) for guest in (1, 12)] == [None, "Silver"]


@pytest.mark.parametrize(("older", "served"), [(timedelta(0), "25-34"), (timedelta(microseconds=1), None)])
def test_a_row_is_served_until_it_is_as_old_as_its_ttl(cinema: Lake, older: timedelta, served: str | None) -> None:
    """As in training, where a label sees a row that is just as old."""
    materialize.materialize(release.read())
    store = registry.open_store()
    view = store.get_feature_view("guest_profile")
    view.ttl = timedelta(days=2)
    store.registry.apply_feature_view(view, store.project)
    now, name = at("2017-01-03") + older, backends.current()
    assert name is not None
    with generation.previewing(name, now):
        assert online(registry.open_store(), "guest_profile:age_band", guest_id=1) == served
    labels = pd.DataFrame({"guest_id": [1], "event_timestamp": [now]})
    trained = registry.open_store().get_historical_features(labels, ["guest_profile:age_band"]).to_arrow()
    assert trained["age_band"].to_pylist() == [served]


@pytest.mark.parametrize("short_way", [True, False])
def test_a_request_reads_one_generation(cinema: Lake, monkeypatch: pytest.MonkeyPatch, short_way: bool) -> None:
    """A release that is published between two views of a request is answered from at the next request, whether the
    answer is ours or Feast's.
    """
    if not short_way:
        monkeypatch.setattr(online_store.Plans, "answer", lambda *_: None)
    materialize.materialize(release.read())
    store = registry.open_store()
    cinema.write("guest_activity", [activity(1, "2017-01-09", "8.00")])
    cinema.write("movie_demand", [demand(3, "2017-01-20", 8)])
    cinema.release(*VIEWS)
    features = ["guest_activity:paid_7d", "movie_demand:sold_7d"]
    row = [{"guest_id": 1, "movie_id": 3}]
    rows, calls = online_store.Query.rows, []

    def publishing(query: Any, keys: Any) -> Any:
        result = rows(query, keys)
        calls.append(query.features)
        if len(calls) == 1:
            monkeypatch.setattr(online_store.Query, "rows", rows)
            materialize.materialize(release.read())
            monkeypatch.setattr(online_store.Query, "rows", publishing)
        return result

    monkeypatch.setattr(online_store.Query, "rows", publishing)
    answers = [store.get_online_features(features, row).to_dict() for _ in range(2)]
    assert calls == [("paid_7d",), ("sold_7d",)] * 2
    assert [(answer["paid_7d"], answer["sold_7d"]) for answer in answers] == [([0.05], [0]), ([8.0], [8])]


def test_a_request_that_fails_keeps_to_nothing(cinema: Lake) -> None:
    materialize.materialize(release.read())
    store = registry.open_store()
    for _ in range(2):
        with pytest.raises(KeyError):
            store.get_online_features(["guest_activity:paid_7d", "guest_movie:visits_90d"], [{"guest_id": 1}])
    cinema.write("guest_activity", [activity(2, "2017-01-05", "8.00")])
    cinema.release(*VIEWS)
    materialize.materialize(release.read())
    assert online(store, "guest_activity:paid_7d", guest_id=2) == 8.0


def key_of(**values: Any) -> EntityKey:
    return EntityKey(
        join_keys=list(values),
        entity_values=[
            Value(**{"string_val" if isinstance(value, str) else "int64_val": value}) for value in values.values()
        ],
    )


def view_of(name: str, keys: dict[str, ValueType], **fields: Any) -> FeatureView:
    entities = [Entity(name=key, join_keys=[key], value_type=kind) for key, kind in keys.items()]
    dtypes = {ValueType.INT64: Int64, ValueType.STRING: String}
    schema = [Field(name=key, dtype=dtypes[kind]) for key, kind in keys.items()]
    return FeatureView(
        name=name,
        entities=entities,
        schema=[*schema, *(Field(name=field, dtype=dtype) for field, dtype in fields.items())],
    )


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 127, 200])
def test_each_of_many_keys_gets_its_own_row(cinema: Lake, count: int) -> None:
    """In the order asked, whether a key is asked twice, is unknown, or has the parts of another one."""
    view = view_of("pairs", {"a": ValueType.INT64, "b": ValueType.STRING}, value=String)
    online, store = online_store.PackedOnlineStore(), registry.open_store()
    known = {(a, f"{b}"): f"{a} of {b}" for a in range(9) for b in range(9)}
    online.online_write_batch(
        store.config,
        view,
        [
            (key_of(a=a, b=b), {"value": Value(string_val=value)}, at("2017-01-01"), None)
            for (a, b), value in known.items()
        ],
        None,
    )
    requested = [(i * 7 % 11, f"{i * 5 % 10}") for i in range(count)]
    read = online.online_read(store.config, view, [key_of(b=b, a=a) for a, b in requested])
    assert [values and values["value"].string_val for _, values in read] == [known.get(key) for key in requested]


def test_a_table_older_than_the_definitions_gives_their_types(cinema: Lake) -> None:
    before = view_of("typed", {"a": ValueType.INT64}, narrow=Int64, is_open=Bool, share=Float32, former=String)
    after = view_of("typed", {"a": ValueType.INT64}, narrow=Float64, is_open=Bool, share=Float32, new=String)
    online, store = online_store.PackedOnlineStore(), registry.open_store()
    inputs = {
        "narrow": Value(int64_val=3),
        "is_open": Value(bool_val=True),
        "share": Value(float_val=0.1),
        "former": Value(string_val="x"),
    }
    online.online_write_batch(store.config, before, [(key_of(a=1), inputs, at("2017-01-01"), None)], None)
    [(_, values)] = online.online_read(store.config, after, [key_of(a=1)])
    assert values == {
        "narrow": Value(double_val=3.0),
        "is_open": Value(bool_val=True),
        "share": Value(float_val=0.1),
        "new": Value(),
    }
    query = online._query(after, ("share", "is_open", "new", "narrow"))
    assert query.features == ("share", "is_open", "new", "narrow")
    [[_, share, is_open, new, narrow]] = query.rows([(1,)])
    assert (share, is_open, new, narrow) == (pytest.approx(0.1), True, None, 3.0)
    assert [type(value) for value in (share, is_open, narrow)] == [float, bool, float]


def in_its_place(content: Callable[[bytes], bytes]) -> None:
    """Give the generation in use another content, in a new file, as a restored one would be."""
    path = sqlite.path_of(backends.current() or "")
    damaged = path.with_suffix(".new")
    damaged.write_bytes(content(path.read_bytes()))
    damaged.replace(path)


@pytest.mark.parametrize(
    "content",
    [
        lambda _: b"",
        lambda whole: whole[: len(whole) // 2],
        lambda whole: whole[:10],
        lambda whole: bytes(len(whole)),
        lambda _: b"\x89PNG" * 1000,
    ],
    ids=["empty", "cut", "cut early", "zeros", "another"],
)
def test_a_torn_generation_is_an_error_and_the_next_materialization_replaces_it(
    cinema: Lake, content: Callable[[bytes], bytes]
) -> None:
    materialize.materialize(release.read())
    in_its_place(content)
    store = registry.open_store()
    for _ in range(2):
        with pytest.raises(
            OnlineStoreDamagedError, match=r"the generation release-1-\S+ in .*: millrace serve$"
        ) as raised:
            online(store, "guest_activity:paid_7d", guest_id=1)
        assert str(sqlite.folder()) not in str(raised.value)
    with pytest.raises(OnlineStoreDamagedError):
        backends.metadata()
    with pytest.raises(OnlineStoreDamagedError):
        push(store, 1, at("2017-01-08"), 1.5)
    assert {report.status for report in materialize.materialize(release.read()).views} == {"published"}
    assert online(store, "guest_activity:paid_7d", guest_id=1) == 0.05
    assert online(store, "guest_profile:age_band", guest_id=1) == "25-34"


def test_a_generation_that_lacks_a_view_is_torn(cinema: Lake) -> None:
    """By its own account it has the view: nobody dropped it."""
    materialize.materialize(release.read())
    with closing(sqlite3.connect(sqlite.path_of(backends.current() or ""))) as connection:
        connection.execute("DROP TABLE guest_profile")
    for feature in (
        "guest_profile:age_band",
        "guest_activity:paid_7d",
    ):  # nothing is served of a torn generation that is opened
        with pytest.raises(OnlineStoreDamagedError, match="is torn: it lacks guest_profile"):
            online(registry.open_store(), feature, guest_id=1)
    materialize.materialize(release.read())
    assert online(registry.open_store(), "guest_profile:age_band", guest_id=1) == "25-34"


def test_a_view_whose_rows_were_all_deleted_is_torn(cinema: Lake) -> None:
    materialize.materialize(release.read())
    with closing(sqlite3.connect(sqlite.path_of(backends.current() or ""), isolation_level=None)) as connection:
        connection.execute("DELETE FROM guest_activity")
    with pytest.raises(OnlineStoreDamagedError, match="is torn: it lacks guest_activity"):
        online(registry.open_store(), "guest_activity:paid_7d", guest_id=1)
    materialize.materialize(release.read())
    assert online(registry.open_store(), "guest_activity:paid_7d", guest_id=1) == 0.05


def test_a_reader_that_is_open_notices_that_the_tables_went(cinema: Lake) -> None:
    materialize.materialize(release.read())
    store = registry.open_store()
    assert online(store, "guest_activity:paid_7d", guest_id=1) == 0.05
    with closing(sqlite3.connect(sqlite.path_of(backends.current() or ""))) as connection:
        for table in (*VIEWS, "_generation"):
            connection.execute(f"DROP TABLE {table}")
    with pytest.raises(OnlineStoreDamagedError):
        online(store, "guest_activity:paid_7d", guest_id=1)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        bytes(40),
        b"[1]",
        b"[]",
        b"{}",
        b"null",
        b'"text"',
        b"[[",
        b"\xff\x00\x9a\x13",
        b'["../../../../etc/passwd"]',
        b'["../x.sqlite"]',
        b'["/tmp/x.sqlite"]',
        b'["x.sqlite\\n"]',
    ],
)
def test_a_pointer_that_names_no_generation_is_an_error_and_is_replaced(cinema: Lake, content: bytes) -> None:
    materialize.materialize(release.read())
    store = registry.open_store()
    assert online(store, "guest_activity:paid_7d", guest_id=1) == 0.05
    sqlite.pointer().unlink()
    sqlite.pointer().write_bytes(content)
    for read in (
        backends.metadata,
        backends.current,
        lambda: online(store, "guest_activity:paid_7d", guest_id=1),
    ):
        with pytest.raises(
            OnlineStoreDamagedError, match=r"^the pointer current\.json in .* is .*: millrace serve$"
        ) as raised:
            read()
        assert str(sqlite.folder()) not in str(raised.value)
    materialize.materialize(release.read())
    assert online(store, "guest_activity:paid_7d", guest_id=1) == 0.05

"""The feature server, as HTTP clients see it: the SDK's answers, what it refuses, and errors that say what to do."""

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from feast import FeatureService
from feast.feature_server import get_app
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features import registry
from features.online import backends, materialize, sqlite
from features.serving import online, options, served, token
from features.serving.app import app
from features.serving.options import LARGEST_BODY, MOST_ENTITIES, Options
from lake import release
from lake.settings import SettingError
from tests.unit.features.conftest import VIEWS, Lake, activity, fill

BASE = "http://127.0.0.1:6566"
Servers = tuple[TestClient, TestClient]


def client_of(application: Any) -> TestClient:
    return TestClient(application, base_url=BASE, raise_server_exceptions=False)


@pytest.fixture
def client(cinema: Lake, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setattr(served, "KEEP_SECONDS", 0.0)
    with client_of(app()) as client:
        yield client


def ask(client: TestClient, **body: Any) -> Any:
    return client.post("/get-online-features", json=body)


def values(answer: Any) -> dict[str, list[Any]]:
    content = answer.json()
    columns = [vector["values"] for vector in content["results"]]
    return dict(zip(content["metadata"]["feature_names"], columns, strict=True))


def test_nothing_is_online_yet(client: TestClient) -> None:
    answer = ask(client, features=["guest_activity:paid_7d"], entities={"guest_id": [1]})
    assert answer.status_code == 503
    assert "no features are online" in answer.json()["detail"]
    assert "Run the DAG `millrace`" in answer.json()["detail"]
    assert str(sqlite.folder().parent) not in answer.text


def test_it_says_what_the_sdk_says(client: TestClient) -> None:
    materialize.materialize(release.read())
    rows = {"guest_id": [1, 2, 404], "movie_id": [3, 3, 3], "request_time": ["2017-02-01T06:00:00+00:00"] * 3}
    over_http = values(ask(client, feature_service="suggestion_v1", entities=rows))
    store = registry.open_store()
    by_sdk = store.get_online_features(store.get_feature_service("suggestion_v1"), rows).to_dict()
    same = [name for name in by_sdk if name not in ("last_booked_at", "last_seen_at", "recall_began_at")]
    assert [over_http[name] for name in same] == [by_sdk[name] for name in same]
    assert over_http["paid_7d"] == [0.05, 7.77, None]
    assert over_http["days_since_last_booking"][0] == by_sdk["days_since_last_booking"][0] > 30


def test_the_next_generation_needs_no_restart(client: TestClient, cinema: Lake) -> None:
    materialize.materialize(release.read())
    body = {"features": ["guest_activity:paid_7d"], "entities": {"guest_id": [2]}}
    assert values(ask(client, **body))["paid_7d"] == [7.77]
    cinema.write("guest_activity", [activity(2, "2017-01-05", "8.00")])
    cinema.release(*VIEWS)
    materialize.materialize(release.read())
    assert values(ask(client, **body))["paid_7d"] == [8.0]


def test_ready_is_red_while_nothing_is_online_and_health_is_not(client: TestClient, cinema: Lake) -> None:
    assert client.get("/health").status_code == 200
    before = client.get("/ready")
    assert (before.status_code, before.json()["error_type"]) == (503, "OnlineStoreEmptyError")
    assert "no features are online" in before.json()["detail"]
    materialize.materialize(release.read())
    after = client.get("/ready")
    assert after.status_code == 200
    assert (after.json()["status"], after.json()["release"], after.json()["horizon"]) == ("ready", 1, "2017-02-01")
    assert client.head("/ready").content == b""


def test_metrics_say_how_old_is_what_is_served(client: TestClient, cinema: Lake) -> None:
    before = samples(client)
    assert before["millrace_features_ready"] == 0
    assert "millrace_features_release" not in before
    started = time.time()
    materialize.materialize(release.read())
    cinema.release(*VIEWS, horizon="2017-02-02")
    materialize.materialize(release.read())
    after = samples(client)
    assert after["millrace_features_ready"] == 1
    assert after["millrace_features_release"] == 2
    assert after["millrace_features_horizon_timestamp_seconds"] == 1485993600  # 2017-02-02T00:00:00Z
    assert after["millrace_features_data_age_seconds"] == pytest.approx(time.time() - 1485993600, abs=300)
    assert started - 1 <= after["millrace_features_published_timestamp_seconds"] <= time.time() + 1
    assert sum(name.startswith("millrace_features_generation_info{generation=") for name in after) == 1


def test_metrics_are_answered_while_another_worker_starts(client: TestClient) -> None:
    """Its file of counts exists, and nothing is in it yet."""
    assert client.get("/health").status_code == 200
    name = 'millrace_features_requests_total{route="/health",service="",status="200"}'
    before = samples(client)[name]
    file = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"], "counter_0.db")
    file.touch(exist_ok=False)
    try:
        assert samples(client)[name] == before
    finally:
        file.unlink()


@pytest.mark.parametrize("damage", ["generation", "pointer", "table of contents"])
def test_what_is_damaged_is_unavailable_until_it_is_served_anew(client: TestClient, cinema: Lake, damage: str) -> None:
    materialize.materialize(release.read())
    path = sqlite.path_of(backends.current() or "")
    if damage == "pointer":
        sqlite.pointer().write_bytes(b"")
    elif damage == "generation":
        path.write_bytes(b"")
    else:
        with closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("UPDATE _generation SET about = ?", ['{"release": 1, "horizon": "soon"}'])
    ready = client.get("/ready")
    assert (ready.status_code, samples(client)["millrace_features_ready"]) == (503, 0)
    assert str(sqlite.folder().parent.parent) not in ready.text
    if damage != "table of contents":
        assert "millrace serve" in ready.json()["detail"]
        answer = ask(client, **ONE)
        assert (answer.status_code, answer.json()["error_type"]) == (503, "OnlineStoreDamagedError")
        assert str(sqlite.folder().parent.parent) not in answer.text
    materialize.materialize(release.read())
    assert client.get("/ready").status_code == 200
    assert values(ask(client, **ONE))["paid_7d"] == [0.05]


def samples(client: TestClient) -> dict[str, float]:
    """Samples of /metrics by name and labels."""
    answer = client.get("/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=")
    lines = [line.rpartition(" ") for line in answer.text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Our server, which may be written to, and Feast's own on the same features, which nobody changes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_HOME", str(tmp_path_factory.mktemp("servers")))
        for name in ("MILLRACE_LAKE", "MILLRACE_RELEASE", "MILLRACE_ENGINE", "MILLRACE_ONLINE"):
            patch.delenv(name, raising=False)
        fill(Lake())
        registry.apply()
        materialize.materialize(release.read())
        with client_of(app(Options())) as ours, client_of(get_app(registry.open_store())) as theirs:
            yield ours, theirs


@pytest.fixture(scope="module")
def writable(servers: Servers) -> Iterator[TestClient]:
    """Another server of the same features, which takes writes."""
    with client_of(app(Options(writes=True))) as client:
        yield client


ROWS = {
    "guest_id": [1, 2, 12, 404, 1],
    "movie_id": [3, 23, 3, 3, 3],
    "request_time": ["2017-02-01T06:00:00+00:00"] * 5,
}
PAIR = {"guest_id": [1], "movie_id": [3]}
TYPE = {"Content-Type": "application/json"}
AGE = b'{"features": ["guest_profile:age_band"], "entities": {"guest_id": [1]}}'
ACTIVITY = {
    "features": ["guest_activity:paid_7d", "guest_activity:last_booked_at"],
    "entities": {"guest_id": [1, 404]},
}
ONE = {"features": ["guest_activity:paid_7d"], "entities": {"guest_id": [1]}}


@pytest.mark.parametrize(
    "body",
    [
        {"feature_service": "suggestion_v1", "entities": ROWS},
        {"feature_service": "suggestion_v1", "entities": ROWS, "full_feature_names": True},
        {"feature_service": "guest_value_v1", "entities": {"guest_id": [12]}},
        ACTIVITY,
        {**ACTIVITY, "feature_service": None},
        {
            **ACTIVITY,
            "feature_service": "",
            "full_feature_names": False,
            "include_feature_view_version_metadata": False,
        },
        {**ACTIVITY, "entities": {"guest_id": list(range(5000))}},
        {**ACTIVITY, "include_feature_view_version_metadata": True},
        {"feature_service": "guest_value_v1", "features": ["no:such"], "entities": {"guest_id": [1]}},
        {"features": ["guest_profile:age_band"], "entities": PAIR},
        {
            "features": ["guest_recency:days_since_last_booking"],
            "entities": {"guest_id": [1], "request_time": [1485928800]},
        },
    ],
)
def test_it_answers_as_feasts_own_server(servers: Servers, body: Any) -> None:
    ours, theirs = (server.post("/get-online-features", json=body) for server in servers)
    assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())
    assert ours.status_code == 200
    assert ours.headers["content-type"] == theirs.headers["content-type"]


@pytest.mark.parametrize("pieces", [[AGE], [AGE[:9], AGE[9:20], AGE[20:]]])
def test_a_body_may_come_in_pieces(servers: Servers, pieces: list[bytes]) -> None:
    for kind in ("application/json", "application/json; charset=utf-8"):
        answer = servers[0].post("/get-online-features", content=iter(pieces), headers={"Content-Type": kind})
        assert values(answer)["age_band"] == ["25-34"]


MISTAKES: list[tuple[Any, int, str]] = [
    ([], 422, "must be a JSON object. Got: a list of 0"),
    ("text", 422, 'Got: "text"'),
    ({**ONE, "more": 1}, 422, 'a field "more", which is unknown'),
    ({"feature_servce": "suggestion_v1", "entities": PAIR}, 422, 'Did you mean "feature_service"?'),
    ({**ONE, "full_feature_names": "true"}, 422, 'full_feature_names must be true or false. Got: "true"'),
    ({**ONE, "full_feature_names": 1}, 422, "full_feature_names must be true or false. Got: 1"),
    (
        {**ONE, "include_feature_view_version_metadata": 0},
        422,
        "include_feature_view_version_metadata must be true or false",
    ),
    ({**ONE, "features": "guest_activity:paid_7d"}, 422, "features must be a list of texts"),
    ({**ONE, "features": [5]}, 422, "features must be a list of texts"),
    ({**ONE, "features": []}, 422, "must name what to read"),
    ({"entities": PAIR}, 422, "must name what to read"),
    ({"feature_service": 5, "entities": PAIR}, 422, "feature_service must be the name of a feature service. Got: 5"),
    (
        {"feature_service": "suggestion_v9", "entities": PAIR},
        404,
        'no feature service "suggestion_v9". Did you mean "suggestion_v1"?',
    ),
    (
        {**ONE, "features": ["guest_actvity:paid_7d"]},
        404,
        'no feature view "guest_actvity". Did you mean "guest_activity"?',
    ),
    (
        {**ONE, "features": ["guest_activity:paid_8d"]},
        404,
        'guest_activity has no feature "paid_8d". Did you mean "paid_',
    ),
    ({**ONE, "features": ["guest_recency:days_since"]}, 404, 'guest_recency has no feature "days_since"'),
    ({**ONE, "features": ["paid_7d"]}, 422, '"paid_7d" is not of the form "view:feature"'),
    ({**ONE, "features": [""]}, 422, '"" is not of the form'),
    ({**ONE, "features": ["guest_activity@v2:paid_7d"]}, 422, 'Write "guest_activity:paid_7d"'),
    ({**ONE, "features": ["guest_activity:paid_7d"] * 2}, 422, "Name it once"),
    ({"features": ["guest_activity:paid_7d"], "entities": None}, 422, "entities must be an object of columns"),
    ({"features": ["guest_activity:paid_7d"]}, 422, "Got: nothing"),
    (
        {"features": ["guest_activity:paid_7d"], "entities": {}},
        422,
        'entities lack "guest_id", a key of the view guest_activity',
    ),
    (
        {**ONE, "entities": {"movie_id": [1]}},
        422,
        'entities lack "guest_id", a key of the view guest_activity. Got: movie_id',
    ),
    ({**ONE, "entities": {"custmer_id": [1]}}, 422, 'Is that "custmer_id"?'),
    (
        {"features": ["movie_demand:sold_7d"], "entities": {"guest_id": [1]}},
        422,
        'lack "movie_id", a key of the view movie_demand',
    ),
    ({"feature_service": "suggestion_v1", "entities": {"guest_id": [1]}}, 422, 'lack "movie_id"'),
    (
        {**ONE, "entities": {"guest_id": 1}},
        422,
        '"guest_id" must be a list, with a value for each entity. Got: 1',
    ),
    ({**ONE, "entities": {"guest_id": []}}, 422, "entities are empty"),
    (
        {**ONE, "entities": {"guest_id": [1, 2], "movie_id": [1]}},
        422,
        "several lengths: guest_id 2, movie_id 1",
    ),
    ({**ONE, "entities": {"guest_id": [1, None]}}, 422, "Got at position 1: null"),
    ({**ONE, "entities": {"guest_id": ["1"]}}, 422, 'whole numbers from -2^63 to 2^63 - 1. Got at position 0: "1"'),
    (
        {**ONE, "entities": {"guest_id": ["one"]}},
        422,
        '"guest_id", a key of the view guest_activity, must have whole numbers',
    ),
    ({**ONE, "entities": {"guest_id": [True]}}, 422, "Got at position 0: true"),
    ({**ONE, "entities": {"guest_id": [1.0]}}, 422, "Got at position 0: 1.0"),
    ({**ONE, "entities": {"guest_id": [[1]]}}, 422, "Got at position 0: a list of 1"),
    ({**ONE, "entities": {"guest_id": [1, 2**63]}}, 422, "Got at position 1: 9223372036854775808"),
    ({**ONE, "entities": {"guest_id": [-(2**63) - 1]}}, 422, "Got at position 0: -9223372036854775809"),
    (
        {"feature_service": "suggestion_v1", "entities": {**PAIR, "request_time": ["today"]}},
        422,
        '"request_time", which the on-demand view guest_',
    ),
    ({"feature_service": "suggestion_v1", "entities": {**PAIR, "request_time": [None]}}, 422, "ISO 8601"),
    ({"feature_service": "suggestion_v1", "entities": {**PAIR, "request_time": [10**30]}}, 422, "ISO 8601"),
    (
        {**ONE, "entities": {"guest_id": [1] * (MOST_ENTITIES + 1)}},
        413,
        "A request may have 10,000 entities. Got: 10,001",
    ),
    ({**ONE, "features": ["guest_activity:paid_7d"] * 1001}, 413, "A request may name 1,000 features. Got: 1,001"),
]


@pytest.mark.parametrize(("body", "status", "words"), MISTAKES)
def test_a_mistake_is_the_clients_and_says_what_to_do(servers: Servers, body: Any, status: int, words: str) -> None:
    answer = servers[0].post("/get-online-features", json=body)
    content = answer.json()
    assert (answer.status_code, content["status_code"]) == (status, status)
    assert words in content["detail"]
    assert set(content) == {"status_code", "detail", "error_type"}


@pytest.mark.parametrize(
    ("content", "status", "words"),
    [
        (b"", 400, "The body is not JSON"),
        (b"{", 400, "The body is not JSON"),
        (b"\xff", 400, "The body is not JSON"),
        (b"[" * 100_000, 400, "nested too deeply"),
        (b"9" * 5000, 400, "The body is not JSON"),
        (
            b'{"features": ["guest_activity:paid_7d"], "entities": {"guest_id": [NaN]}}',
            422,
            "Got at position 0: NaN",
        ),
        (b'{"features": ["\\ud800:x"], "entities": {}}', 404, "no feature view"),
        (b'{"feature_service": "\\ud800", "entities": {}}', 404, "no feature service"),
        (b'{"features": ["a\\u0000:x"], "entities": {}}', 404, "no feature view"),
        (b'{"\\ud800": 1}', 422, "which is unknown"),
    ],
)
def test_a_body_that_is_hardly_json_is_refused_too(servers: Servers, content: bytes, status: int, words: str) -> None:
    answer = servers[0].post("/get-online-features", content=content, headers=TYPE)
    assert answer.status_code == status
    assert words in answer.json()["detail"]


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded"])
def test_another_content_type_is_refused(servers: Servers, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    answer = servers[0].post("/get-online-features", content=AGE, headers=headers)
    assert answer.status_code == 415
    assert "Content-Type: application/json" in answer.json()["detail"]


ENTITY_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**64), 2**64),
    st.floats(),
    st.text(),
    st.just("\ud800"),
    st.just("2017-02-01"),
    st.lists(st.integers()),
)
PAIRS = st.lists(st.integers(1, 12), min_size=2, max_size=2)
COLUMNS = st.one_of(st.lists(ENTITY_VALUES, max_size=3), PAIRS, ENTITY_VALUES)
NAMES = st.one_of(st.sampled_from(["guest_id", "movie_id", "request_time", "custmer_id"]), st.text(max_size=5))
REFS = st.one_of(
    st.sampled_from(
        [
            "guest_activity:paid_7d",
            "guest_profile:age_band",
            "guest_movie:visits_90d",
            "guest_recency:days_since_last_booking",
            "guest_activity:x",
            "x:y",
            "x",
        ]
    ),
    st.text(max_size=8),
    st.integers(),
)
BODIES = st.fixed_dictionaries(
    {},
    optional={
        "entities": st.one_of(st.dictionaries(NAMES, COLUMNS, max_size=4), ENTITY_VALUES),
        "features": st.one_of(st.lists(REFS, max_size=3), ENTITY_VALUES),
        "feature_service": st.one_of(st.sampled_from(["suggestion_v1", "guest_value_v1"]), ENTITY_VALUES),
        "full_feature_names": st.one_of(st.booleans(), ENTITY_VALUES),
        "include_feature_view_version_metadata": st.one_of(st.booleans(), ENTITY_VALUES),
        "more": ENTITY_VALUES,
    },
)


def post(application: Any, path: str, body: bytes, **headers: str) -> tuple[int, bytes]:
    """Status and body of an answer, straight from the ASGI application."""
    named = {"host": "localhost", "content-type": "application/json", "content-length": str(len(body)), **headers}
    scope = {
        "type": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "method": "POST",
        "http_version": "1.1",
    }
    scope |= {
        "headers": [(name.encode(), value.encode()) for name, value in named.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 6566),
        "state": {},
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(application(scope, receive, send))
    return sent[0]["status"], b"".join(message["body"] for message in sent[1:])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=BODIES)
def test_no_body_makes_the_server_fail(servers: Servers, body: Any) -> None:
    status, content = post(servers[0].app, "/get-online-features", json.dumps(body).encode())
    assert status in (200, 404, 413, 422), content
    if status == 200:
        assert body.keys() <= {
            "entities",
            "features",
            "feature_service",
            "full_feature_names",
            "include_feature_view_version_metadata",
        }
        assert {type(value) for value in body["entities"].get("guest_id", [1])} == {int}
    else:
        assert json.loads(content)["status_code"] == status


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(body=st.one_of(st.binary(max_size=40), st.text('{}[]":,0129eE.-truefalsn \\u', max_size=30).map(str.encode)))
def test_no_bytes_make_the_server_fail(servers: Servers, body: bytes) -> None:
    status, _ = post(servers[0].app, "/get-online-features", body)
    assert status in (400, 422)


WRITE_BODIES = st.fixed_dictionaries(
    {},
    optional={
        "push_source_name": st.text(max_size=4),
        "feature_view_name": st.one_of(st.sampled_from(["guest_activity", "guest_recency"]), st.text(max_size=4)),
        "df": st.dictionaries(st.sampled_from(["guest_id", "event_timestamp", "paid_7d"]), COLUMNS, max_size=4),
        "to": st.sampled_from(["online", "offline", "nowhere"]),
        "start_ts": st.text(max_size=12),
        "end_ts": st.text(max_size=12),
        "feature_views": st.lists(st.sampled_from(["no_view"]), min_size=1, max_size=2),
        "transform_on_write": st.booleans(),
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(path=st.sampled_from(["/push", "/write-to-online-store"]), body=WRITE_BODIES)
def test_no_write_makes_the_server_fail(writable: TestClient, path: str, body: Any) -> None:
    bearer = f"Bearer {token.path().read_text().strip()}"
    status, content = post(writable.app, path, json.dumps(body).encode(), authorization=bearer)
    assert status in (200, 404, 422), content


CLOSED = ("/push", "/write-to-online-store", "/materialize", "/materialize-incremental")
FEASTS = ["/chat", "/read-document", "/retrieve-online-documents", "/search", "/v1/vector_stores", "/ws/chat"]
FEASTS += ["/v1/vector_stores/x/search", "/docs", "/redoc", "/openapi.json", "/static/chat/index.html"]
ODD = ["/", "/push/", "//push", "/PUSH", "/get-online-features/"]


@pytest.mark.parametrize("path", CLOSED)
def test_the_server_is_read_only(servers: Servers, path: str) -> None:
    answer = servers[0].post(path, json={}, headers={"Authorization": "Bearer whatever"})
    assert answer.status_code == 403
    assert "read-only" in answer.json()["detail"]
    assert "MILLRACE_FEATURES_WRITES=1" in answer.json()["detail"]


@pytest.mark.parametrize("path", [*FEASTS, *ODD])
def test_nothing_else_of_feasts_is_served(servers: Servers, writable: TestClient, path: str) -> None:
    for client in (servers[0], writable):
        for method in ("GET", "POST"):
            answer = client.request(method, path, json={} if method == "POST" else None)
            assert (answer.status_code, answer.json()["error_type"]) == (404, "RouteNotFoundError")


def test_every_route_that_feast_mounts_is_either_known_or_closed(servers: Servers) -> None:
    """A new version of Feast may bring others."""
    for route in get_app(registry.open_store()).routes:
        path = route.path.replace("{vector_store_id}", "x")
        answers = [servers[0].request(method, path, headers=TYPE, content=b"{}") for method in ("GET", "POST", "PUT")]
        statuses = {answer.status_code for answer in answers}
        assert statuses <= ({405, 422, 200} if path in ("/get-online-features", "/health") else {403, 404, 405}), path


def test_a_websocket_is_refused(servers: Servers) -> None:
    from starlette.websockets import WebSocketDisconnect

    with pytest.raises(WebSocketDisconnect), servers[0].websocket_connect("/ws/chat"):
        pass


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [("/get-online-features", "GET", "POST"), ("/health", "POST", "GET, HEAD"), ("/metrics", "DELETE", "GET, HEAD")],
)
def test_another_method_is_refused(servers: Servers, path: str, method: str, allowed: str) -> None:
    answer = servers[0].request(method, path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def pushed(age: str) -> dict[str, Any]:
    row = {
        "guest_id": [1],
        "event_timestamp": ["2017-06-01T00:00:00+00:00"],
        "age_band": [age],
        "tier": ["1"],
        "party_size": ["1"],
        "children": ["1"],
    }
    return {"feature_view_name": "guest_profile", "df": row}


def age_of(client: TestClient) -> Any:
    return values(client.post("/get-online-features", content=AGE, headers=TYPE))["age_band"]


WRONG = [None, "Bearer", "Bearer ", "Bearer wrong", "Basic {token}", "{token}", "Bearer {token}x", "Bearer é"]


@pytest.mark.parametrize("header", WRONG)
def test_who_has_no_token_writes_nothing(writable: TestClient, header: str | None) -> None:
    kept = token.path().read_text().strip()
    headers = {} if header is None else {"Authorization": header.format(token=kept).encode()}
    for path in CLOSED:
        answer = writable.post(path, json=pushed("666"), headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, 'Bearer realm="millrace"')
        assert kept not in answer.text
    assert age_of(writable) == ["25-34"]


def test_who_has_the_token_writes(client: TestClient, cinema: Lake) -> None:
    materialize.materialize(release.read())
    with client_of(app(Options(writes=True))) as writer:
        headers = {"Authorization": f"Bearer {token.path().read_text().strip()}"}
        written = writer.post("/write-to-online-store", json=pushed("123"), headers=headers)
        assert written.status_code == 200, written.text
        assert age_of(writer) == ["123"]
        assert samples(writer)["millrace_features_pushed"] == 1


def test_the_token_is_its_owners_alone_and_kept(client: TestClient) -> None:
    kept = token.create().read_text()
    assert token.path().stat().st_mode & 0o777 == 0o600
    assert len(kept.strip()) >= 32
    assert token.create().read_text() == kept
    assert [path.name for path in token.path().parent.iterdir() if "write_token" in path.name] == ["write_token"]
    token.path().chmod(0o640)
    with client_of(app(Options(writes=True))) as writer:
        answer = writer.post("/push", json={}, headers={"Authorization": f"Bearer {kept.strip()}"})
    assert (answer.status_code, answer.json()["error_type"]) == (403, "WritesDisabledError")


def test_the_token_may_be_in_a_file_that_a_setting_names(
    client: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is its owner's to write, and read at each request."""
    kept = tmp_path / "elsewhere" / "token"
    monkeypatch.setenv("MILLRACE_FEATURES_TOKEN_FILE", str(kept))

    def answered(sent: str) -> tuple[int, str]:
        answer = writer.post("/push", json={}, headers={"Authorization": f"Bearer {sent}"})
        return answer.status_code, answer.json()["detail"]

    named = "the file that MILLRACE_FEATURES_TOKEN_FILE names"
    with client_of(app(Options(writes=True))) as writer:
        assert answered("opensesame" * 2) == (403, f"There is no token in {named}. Write one into it.")
        assert not kept.parent.exists()
        kept.parent.mkdir()
        for token_in_use in ("opensesame" * 2, "sesameopen" * 2):
            kept.write_text(token_in_use + "\n")
            kept.chmod(0o600)
            assert answered(token_in_use)[0] == 422  # let in, and read
            assert answered("x" * 20)[0] == 401
        kept.chmod(0o644)
        assert answered("sesameopen" * 2) == (
            403,
            (
                f"The token in {named} is readable by other users or shorter than 16 characters, so nobody may write."
                " Give it mode 0600 and 16 characters or more."
            ),
        )


OURS = ["127.0.0.1:6566", "localhost", "LOCALHOST:1", "localhost.:6566", "[::1]:6566", "features.example.com:443"]


@pytest.mark.parametrize("host", OURS)
def test_a_host_that_is_allowed_is_answered(servers: Servers, host: str) -> None:
    application = app(options.read({"MILLRACE_FEATURES_HOSTS": " Features.example.com, 10.0.0.5 "}))
    assert post(application, "/health", b"", host=host)[0] == 405  # beyond the check of the host
    status, content = post(application, "/get-online-features", AGE, host=host)
    assert status == 200, content


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.evil.example:6566",
        "evil@localhost",
        "localhost:6566:1",
        "",
        "127.0.0.2",
        "10.0.0.5",
    ],
)
def test_another_host_may_be_a_rebound_name_and_is_not_answered(servers: Servers, host: str) -> None:
    for path in ("/get-online-features", "/metrics", "/health", "/push", "/nowhere"):
        status, content = post(servers[0].app, path, AGE, host=host)
        assert (status, json.loads(content)["error_type"]) == (421, "HostNotAllowedError")
    assert "MILLRACE_FEATURES_HOSTS" in json.loads(content)["detail"]


def send(application: Any, messages: list[Any], headers: list[tuple[bytes, bytes]]) -> tuple[list[Any], int]:
    """What an application sends, and how many of the messages it received."""
    coming, sent, received = iter(messages), [], []
    scope = {
        "type": "http",
        "path": "/get-online-features",
        "method": "POST",
        "headers": [(b"content-type", b"application/json"), *headers],
    }

    async def receive() -> Any:
        received.append(next(coming))
        return received[-1]

    async def keep(message: Any) -> None:
        sent.append(message)

    asyncio.run(application(scope, receive, keep))
    return sent, len(received)


HOST = (b"host", b"localhost")


@pytest.mark.parametrize("headers", [[], [HOST, HOST], [HOST, (b"host", b"evil.example")]])
def test_a_request_has_one_host(servers: Servers, headers: list[tuple[bytes, bytes]]) -> None:
    sent, _ = send(servers[0].app, [{"type": "http.request", "body": AGE}], headers)
    assert sent[0]["status"] == 400


def test_a_body_is_bounded_whether_or_not_its_length_is_announced(servers: Servers) -> None:
    piece = {"type": "http.request", "body": b" " * (LARGEST_BODY // 4), "more_body": True}
    sent, received = send(servers[0].app, [piece] * 100, [HOST])
    assert (sent[0]["status"], received) == (413, 5)
    assert "1,048,576 bytes" in json.loads(sent[1]["body"])["detail"]
    sent, received = send(servers[0].app, [piece], [HOST, (b"content-length", str(LARGEST_BODY + 1).encode())])
    assert (sent[0]["status"], received) == (413, 0)
    sent, received = send(servers[0].app, [{"type": "http.request", "body": b" " * (LARGEST_BODY + 1)}], [HOST])
    assert (sent[0]["status"], received) == (413, 1)


def test_a_client_that_goes_away_gets_no_answer_and_is_counted(servers: Servers) -> None:
    name = 'millrace_features_requests_total{route="/get-online-features",service="",status="closed"}'
    before = samples(servers[0]).get(name, 0)
    sent, _ = send(
        servers[0].app,
        [{"type": "http.request", "body": AGE[:9], "more_body": True}, {"type": "http.disconnect"}],
        [HOST],
    )
    assert sent == []
    assert samples(servers[0])[name] == before + 1


def test_requests_are_counted_by_known_names_only(servers: Servers) -> None:
    def counted(route: str, service: str, status: int) -> float:
        labels = f'{{route="{route}",service="{service}",status="{status}"}}'
        return samples(servers[0]).get(f"millrace_features_requests_total{labels}", 0.0)

    seen = [
        ("/get-online-features", "guest_value_v1", 200),
        ("/get-online-features", "", 404),
        ("other", "", 404),
        ("/get-online-features", "guest_value_v1", 422),
    ]
    before = [counted(*labels) for labels in seen]
    lines = len(samples(servers[0]))
    for number in range(5):
        ask(servers[0], feature_service="guest_value_v1", entities={"guest_id": [1, 2, 3]})
        ask(servers[0], feature_service=f"secret{number}", entities={"guest_id": [1]})
        servers[0].get(f"/secret{number}")
        ask(servers[0], feature_service="guest_value_v1", entities={"guest_id": [f"secret{number}"]})
    assert [counted(*labels) - was for labels, was in zip(seen, before, strict=True)] == [5, 5, 5, 5]
    text = servers[0].get("/metrics").text
    assert "secret" not in text
    assert "feast_" not in text
    assert len(samples(servers[0])) <= lines + 60
    timed = 'millrace_features_request_seconds_count{route="/get-online-features",service="guest_value_v1"}'
    assert samples(servers[0])[timed] >= 10
    assert samples(servers[0])['millrace_features_entities_total{service="guest_value_v1"}'] >= 15


def test_a_mistake_of_ours_is_logged_and_not_shown(
    servers: Servers,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError("password=opensesame")

    monkeypatch.setattr(online.OnlineFeatures, "answer", broken)
    answer = ask(servers[0], **ONE)
    assert (answer.status_code, answer.json()["error_type"]) == (500, "ZeroDivisionError")
    assert "opensesame" not in answer.text
    assert "opensesame" in caplog.text


@pytest.mark.parametrize("flag", ["request", "online_features", "audit_logging"])
def test_what_feast_counts_it_answers_itself(servers: Servers, monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    flags = {name: name == flag for name in ("request", "online_features", "audit_logging")}
    monkeypatch.setattr(online, "metrics", SimpleNamespace(_config=SimpleNamespace(**flags)))
    monkeypatch.setattr(online.OnlineFeatures, "answer", None)
    assert ask(servers[0], **ACTIVITY).json() == ask(servers[1], **ACTIVITY).json()
    assert ask(servers[0], **{**ONE, "entities": {"guest_id": [None]}}).status_code == 422


def test_where_somebody_must_allow_it_feast_asks(servers: Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(online, "get_security_manager", lambda: object())
    monkeypatch.setattr(online.OnlineFeatures, "answer", None)
    assert ask(servers[0], **ACTIVITY).json() == ask(servers[1], **ACTIVITY).json()


def test_a_service_that_is_applied_again_is_seen(client: TestClient) -> None:
    materialize.materialize(release.read())
    body = {"feature_service": "guest_value_v1", "entities": {"guest_id": [1], "movie_id": [3]}}
    assert "age_band" in values(ask(client, **body))
    other = registry.open_store()
    activities, popular = (other.get_feature_view(name) for name in ("guest_activity", "movie_demand"))
    other.apply([FeatureService(name="guest_value_v1", features=[activities[["paid_7d"]], popular[["sold_7d"]]])])
    client.app.online.store.refresh_registry()
    assert list(values(ask(client, **body))) == ["guest_id", "movie_id", "paid_7d", "sold_7d"]
    wrong = ask(client, **{**body, "entities": {"guest_id": [1]}})
    assert "a key of the view movie_demand" in wrong.json()["detail"]


@pytest.mark.parametrize("body", [ONE, {"feature_service": "guest_value_v1", "entities": {"guest_id": [1]}}])
def test_a_view_that_was_disabled_is_no_failure(client: TestClient, body: Any) -> None:
    materialize.materialize(release.read())
    other = registry.open_store()
    view = other.get_feature_view("guest_activity")
    view.enabled = False
    other.registry.apply_feature_view(view, other.project)
    client.app.online.store.refresh_registry()
    answer = ask(client, **body)
    assert answer.status_code == 422
    assert "guest_activity' is disabled" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (
            {"MILLRACE_FEATURES_WORKERS": "0"},
            "^MILLRACE_FEATURES_WORKERS is '0'. Set it to a number from 1 to 256, or auto",
        ),
        ({"MILLRACE_FEATURES_WORKERS": "two"}, "is 'two'"),
        ({"MILLRACE_FEATURES_TOKEN": "opensesame"}, "^MILLRACE_FEATURES_TOKEN is not read. .*_TOKEN_FILE$"),
        ({"MILLRACE_FEATURES_WRITES": "yes"}, "^MILLRACE_FEATURES_WRITES is 'yes'. Set it to 1 "),
        (
            {"MILLRACE_FEATURES_HOSTS": "a.example,http://b"},
            "^MILLRACE_FEATURES_HOSTS is 'a.example,http://b'. Set it to names or addresses without a scheme",
        ),
    ],
)
def test_options_that_mean_nothing_are_refused(variables: dict[str, str], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        options.read(variables)


def test_options() -> None:
    assert options.read({}) == Options(frozenset({"localhost", "127.0.0.1", "[::1]"}), 1, False)
    named = {"HOSTS": "A.example:443,", "WORKERS": "3", "WRITES": "1"}
    chosen = options.read({f"MILLRACE_FEATURES_{name}": value for name, value in named.items()})
    assert chosen == Options(frozenset({"localhost", "127.0.0.1", "[::1]", "a.example"}), 3, True)
    assert options.read({"MILLRACE_FEATURES_WORKERS": "auto"}).workers >= 1

"""The feature server, as HTTP clients see it: the SDK's answers, the newest generation without a restart, and errors that say what to do."""

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from feast import FeatureService
from feast.feature_server import get_app

from contracts import release
from features import front, materialize, registry, server
from tests.unit.features.conftest import VIEWS, Lake, activity, stocked


@pytest.fixture
def client(shop: Lake) -> Iterator[TestClient]:
    with TestClient(server.app(), raise_server_exceptions=False) as client:
        yield client


def ask(client: TestClient, **asked: Any) -> Any:
    return client.post("/get-online-features", json=asked)


def values(answer: Any) -> dict[str, list[Any]]:
    told = answer.json()
    return dict(zip(told["metadata"]["feature_names"], (one["values"] for one in told["results"]), strict=True))


def test_nothing_is_online_yet(client: TestClient) -> None:
    answer = ask(client, features=["customer_activity:spend_7d"], entities={"customer_id": [1]})
    assert answer.status_code == 503
    assert "no features are online" in answer.json()["detail"]
    assert "Run the DAG `millrace`" in answer.json()["detail"]


def test_it_says_what_the_sdk_says(client: TestClient) -> None:
    materialize.materialize(release.read())
    rows = {"customer_id": [1, 2, 404], "product_id": [3, 3, 3], "request_time": ["2017-02-01T06:00:00+00:00"] * 3}
    told = values(ask(client, feature_service="recommendation_v1", entities=rows))
    store = registry.open_store()
    served = store.get_online_features(store.get_feature_service("recommendation_v1"), rows).to_dict()
    texts = {"last_basket_at", "last_purchased_at"}
    assert {name: told[name] for name in served if name not in texts} == {name: served[name] for name in served if name not in texts}
    assert told["spend_7d"] == [0.05, 7.77, None]
    assert told["days_since_last_basket"][0] == served["days_since_last_basket"][0] > 30


def test_the_next_generation_needs_no_restart(client: TestClient, shop: Lake) -> None:
    materialize.materialize(release.read())
    asked = {"features": ["customer_activity:spend_7d"], "entities": {"customer_id": [2]}}
    assert values(ask(client, **asked))["spend_7d"] == [7.77]
    shop.write("customer_activity", [activity(2, "2017-01-05", "8.00")])
    shop.release(*VIEWS)
    materialize.materialize(release.read())
    assert values(ask(client, **asked))["spend_7d"] == [8.0]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"features": ["customer_activity:spend_8d"], "entities": {"customer_id": [1]}}, "spend_8d"),
        ({"features": ["customer_actvity:spend_7d"], "entities": {"customer_id": [1]}}, "customer_actvity"),
        ({"feature_service": "recommendation_v9", "entities": {"customer_id": [1]}}, "recommendation_v9"),
        ({"features": ["customer_activity:spend_7d"], "entities": {"product_id": [1]}}, "customer_id"),
        ({"features": ["customer_activity:spend_7d"], "entities": {"customer_id": ["one"]}}, "one"),
    ],
)
def test_what_cannot_be_answered_is_named(client: TestClient, asked: dict[str, Any], told: str) -> None:
    materialize.materialize(release.read())
    answer = ask(client, **asked)
    assert answer.status_code >= 400
    assert told in answer.text


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[TestClient, TestClient]]:
    """Our server and Feast's own on the same features, which nobody changes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_HOME", str(tmp_path_factory.mktemp("servers")))
        for name in ("MILLRACE_LAKE", "MILLRACE_RELEASE", "MILLRACE_ENGINE"):
            patch.delenv(name, raising=False)
        stocked(Lake())
        registry.apply()
        materialize.materialize(release.read())
        with (
            TestClient(server.app(), raise_server_exceptions=False) as ours,
            TestClient(get_app(registry.open_store()), raise_server_exceptions=False) as theirs,
        ):
            yield ours, theirs


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Of each request that came to the front whether it was answered there."""
    taken, answer = [], front.Front._answer

    def noted(self: front.Front, body: bytes) -> tuple[int, bytes | None]:
        status, content = answer(self, body)
        taken.append(content is not None)
        return status, content

    monkeypatch.setattr(front.Front, "_answer", noted)
    return taken


ROWS = {"customer_id": [1, 2, 12, 404, 1], "product_id": [3, 23, 3, 3, 3], "request_time": ["2017-02-01T06:00:00+00:00"] * 5}
PAIR = {"customer_id": [1], "product_id": [3]}
TYPE = {"Content-Type": "application/json"}
AGE = b'{"features": ["customer_profile:age"], "entities": {"customer_id": [1]}}'
ACTIVITY = {"features": ["customer_activity:spend_7d", "customer_activity:last_basket_at"], "entities": {"customer_id": [1, 404]}}


@pytest.mark.parametrize(
    ("asked", "by_front"),
    [
        ({"feature_service": "recommendation_v1", "entities": ROWS}, True),
        ({"feature_service": "recommendation_v1", "entities": ROWS, "full_feature_names": True}, True),
        ({"feature_service": "customer_value_v1", "entities": {"customer_id": [12]}}, True),
        (ACTIVITY, True),
        ({**ACTIVITY, "feature_service": None, "more": 1}, True),
        ({**ACTIVITY, "feature_service": "", "full_feature_names": False, "include_feature_view_version_metadata": False}, True),
        ({**ACTIVITY, "entities": {"customer_id": list(range(5000))}}, True),
        ({**ACTIVITY, "include_feature_view_version_metadata": True}, False),
        ({**ACTIVITY, "include_feature_view_version_metadata": 0}, False),
        ({**ACTIVITY, "full_feature_names": "true"}, False),
        ({**ACTIVITY, "full_feature_names": 2}, False),
        ({**ACTIVITY, "features": "customer_activity:spend_7d"}, False),
        ({**ACTIVITY, "features": dict.fromkeys(ACTIVITY["features"])}, False),
        ({**ACTIVITY, "features": None}, False),
        ({**ACTIVITY, "features": [5]}, False),
        ({**ACTIVITY, "feature_service": 5}, False),
        ({**ACTIVITY, "feature_service": 0}, False),
        ({**ACTIVITY, "entities": None}, False),
        ({**ACTIVITY, "entities": {}}, False),
        ({**ACTIVITY, "entities": {"customer_id": 1}}, False),
        ({**ACTIVITY, "entities": {"customer_id": []}}, False),
        ({**ACTIVITY, "entities": {"customer_id": [None]}}, False),
        ({**ACTIVITY, "entities": {"customer_id": ["one"]}}, False),
        ({**ACTIVITY, "entities": {"customer_id": [1, 2], "product_id": [1]}}, False),
        ({**ACTIVITY, "entities": {"product_id": [1]}}, False),
        ({"features": ["customer_activity:spend_8d"], "entities": PAIR}, False),
        ({"features": ["customer_actvity:spend_7d"], "entities": PAIR}, False),
        ({"features": ["spend_7d"], "entities": PAIR}, False),
        ({"features": [], "entities": PAIR}, False),
        ({"entities": PAIR}, False),
        ({"feature_service": "recommendation_v9", "entities": PAIR}, False),
        ({"feature_service": "recommendation_v1", "entities": {**PAIR, "request_time": ["today"]}}, False),
        ([], False),
        ("text", False),
    ],
)
def test_it_answers_as_feasts_own_server(servers: tuple[TestClient, TestClient], answered: list[bool], asked: Any, by_front: bool) -> None:
    ours, theirs = (one.post("/get-online-features", json=asked) for one in servers)
    assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())
    assert ours.headers["content-type"] == theirs.headers["content-type"]
    assert answered == [by_front]


@pytest.mark.parametrize(
    ("pieces", "headers", "seen"),
    [
        ([b"{"], TYPE, [False]),
        ([b""], TYPE, [False]),
        ([AGE], {}, []),
        ([AGE], {"Content-Type": "text/plain"}, []),
        ([AGE], TYPE, [True]),
        ([AGE[:9], AGE[9:20], AGE[20:]], TYPE, [True]),
        ([AGE[:20], AGE[20:].replace(b"age", b"agee")], TYPE, [False]),
    ],
)
def test_it_reads_bodies_as_feasts_own_server(
    servers: tuple[TestClient, TestClient], answered: list[bool], pieces: list[bytes], headers: dict[str, str], seen: list[bool]
) -> None:
    ours, theirs = (one.post("/get-online-features", content=iter(pieces), headers=headers) for one in servers)
    assert (ours.status_code, ours.json()) == (theirs.status_code, theirs.json())
    assert answered == seen


def test_other_routes_are_feasts(servers: tuple[TestClient, TestClient], answered: list[bool]) -> None:
    client = servers[0]
    assert client.get("/health").status_code == 200
    assert client.request("GET", "/get-online-features", headers=TYPE, content=AGE).status_code == 405
    assert answered == []


@pytest.mark.parametrize(("name", "handed_on"), [(b"age", False), (b"agee", True)])
def test_a_question_may_come_in_pieces(servers: tuple[TestClient, TestClient], name: bytes, handed_on: bool) -> None:
    """What is handed on is received once more from its beginning, and what comes after it as well."""
    store = servers[0].app.user_middleware[0].kwargs["store"]
    pieces = [AGE[:9], AGE[9:20], AGE[20:].replace(b"age", name)]
    messages = [{"type": "http.request", "body": piece, "more_body": piece is not pieces[-1]} for piece in pieces] + [{"type": "http.disconnect"}]
    coming, received, sent = iter(messages), [], []

    async def receive() -> Any:
        return next(coming)

    async def send(message: Any) -> None:
        sent.append(message)

    async def feast(_scope: Any, receive: Any, _send: Any) -> None:
        received.extend([await receive() for _ in messages])

    scope = {"type": "http", "path": "/get-online-features", "method": "POST", "headers": [(b"content-type", b"application/json")]}
    asyncio.run(front.Front(feast, store)(scope, receive, send))
    assert received == (messages if handed_on else [])
    assert [message["type"] for message in sent] == ([] if handed_on else ["http.response.start", "http.response.body"])


@pytest.mark.parametrize("flag", ["request", "online_features", "audit_logging"])
def test_what_feast_counts_it_answers_itself(servers: tuple[TestClient, TestClient], answered: list[bool], monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    flags = {name: name == flag for name in ("request", "online_features", "audit_logging")}
    monkeypatch.setattr(front, "metrics", SimpleNamespace(_config=SimpleNamespace(**flags)))
    assert ask(servers[0], **ACTIVITY).status_code == 200
    assert answered == [False]


def test_where_somebody_must_allow_it_feast_asks(servers: tuple[TestClient, TestClient], answered: list[bool], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(front, "get_security_manager", lambda: object())
    assert ask(servers[0], **ACTIVITY).status_code == 200
    assert answered == [False]


def test_a_service_that_is_applied_anew_is_seen(client: TestClient, answered: list[bool]) -> None:
    materialize.materialize(release.read())
    asked = {"feature_service": "customer_value_v1", "entities": {"customer_id": [1], "product_id": [3]}}
    assert "age" in values(ask(client, **asked))
    other = registry.open_store()
    activities, popular = (other.get_feature_view(name) for name in ("customer_activity", "product_popularity"))
    other.apply([FeatureService(name="customer_value_v1", features=[activities[["spend_7d"]], popular[["units_7d"]]])])
    client.app.user_middleware[0].kwargs["store"].refresh_registry()
    assert list(values(ask(client, **asked))) == ["customer_id", "product_id", "spend_7d", "units_7d"]
    assert answered == [True, True]

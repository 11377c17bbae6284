"""The feature server, as HTTP clients see it: the SDK's answers, the newest generation without a restart, and errors that say what to do."""

from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from contracts import release
from features import materialize, registry, server
from tests.unit.features.conftest import VIEWS, Lake, activity


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

"""`feast ui`, `serve_registry` and `serve_transformations` import all that they need in our .venv, and answer; the UI
has the contracts' words.
"""

from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from fastapi.testclient import TestClient
from feast import FeatureStore, registry_server, transformation_server, ui_server
from feast.protos.feast.registry import RegistryServer_pb2, RegistryServer_pb2_grpc
from feast.protos.feast.serving import TransformationService_pb2, TransformationService_pb2_grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from contracts import catalog
from features import registry
from tests.unit.features.conftest import VIEWS, Lake


@pytest.fixture
def store(lake: Lake) -> FeatureStore:
    registry.apply()
    return registry.open_store()


def test_the_ui_shows_each_features_meaning_and_unit(store: FeatureStore) -> None:
    client = TestClient(ui_server.get_app(store, store.project))
    assert client.get("/").text.startswith("<!doctype html>")
    [project] = client.get("/projects-list.json").json()["projects"]
    assert (project["id"], project["description"]) == ("millrace", "Features of the Millrace lake")
    for name in VIEWS:
        table = catalog.table(f"gold.{name}")
        result = client.get(f"/api/v1/feature_views/{name}", params={"project": "millrace"}).json()["spec"]
        shown = {
            feature["name"]: (feature["description"], feature.get("tags", {}).get("unit"))
            for feature in result["features"]
        }
        declared = {
            column.name: (column.doc, column.unit)
            for column in table.columns
            if column.name not in (*table.key, "event_timestamp")
        }
        assert shown == declared
        assert (result["description"], result["owner"]) == (table.doc, table.owner)
        assert all(description for description, _ in shown.values())


@contextmanager
def listening(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The gRPC servers that are started meanwhile, on a free port of this machine instead of on all of its
    addresses.
    """
    started: list[Any] = []
    make = grpc.server

    def on_loopback(*arguments: Any, **named: Any) -> Any:
        server = make(futures.ThreadPoolExecutor(2), *arguments[1:], **named)
        monkeypatch.setattr(
            server,
            "add_insecure_port",
            lambda _address, add=server.add_insecure_port: started.append((server, add("127.0.0.1:0"))),
            raising=False,
        )
        monkeypatch.setattr(server, "wait_for_termination", lambda *_: None, raising=False)
        return server

    monkeypatch.setattr(grpc, "server", on_loopback)
    yield started
    for server, _ in started:
        server.stop(None).wait()


def test_the_registry_and_transformation_servers_answer(store: FeatureStore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = registry.path().read_bytes()
    with listening(monkeypatch) as started:
        registry_server.start_server(store, 0, wait_for_termination=False)
        transformation_server.start_server(store, 0)
        (_, registry_port), (_, transformation_port) = started
        with grpc.insecure_channel(f"127.0.0.1:{registry_port}") as channel:
            request = RegistryServer_pb2.ListFeatureViewsRequest(project="millrace")
            views = RegistryServer_pb2_grpc.RegistryServerStub(channel).ListFeatureViews(request).feature_views
            assert sorted(view.spec.name for view in views) == sorted(VIEWS)
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.SERVING
        with grpc.insecure_channel(f"127.0.0.1:{transformation_port}") as channel:
            request = TransformationService_pb2.GetTransformationServiceInfoRequest()
            info = TransformationService_pb2_grpc.TransformationServiceStub(channel).GetTransformationServiceInfo(
                request
            )
            assert "Feast: 0.67.0" in info.transformation_service_type_details
    assert registry.path().read_bytes() == before

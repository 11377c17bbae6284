"""The registry in PostgreSQL keeps the rules of the one in a file: whole, never invented, nobody's definitions lost."""

import json
import multiprocessing
import threading
from typing import Any

import psycopg
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource
from feast.protos.feast.core.Registry_pb2 import Registry as RegistryProto
from feast.types import Int64
from feast.value_type import ValueType
from google.protobuf.json_format import MessageToDict

from features import registry
from features.online import materialize
from features.registry import DefinitionError, RegistryConflictError, RegistryDamagedError, RegistryMissingError
from features.registry import store as registry_store
from features.registry.database import RegistryNewerError
from lake import release
from tests.servers import Postgres
from tests.unit.features.conftest import VIEWS, Lake
from tests.unit.features.registry.test_feast_commands import feast
from tests.unit.features.serving.test_feast_servers import listening


def content(server: Postgres) -> bytes | None:
    with psycopg.connect(server.url) as connection:
        row = connection.execute("SELECT content FROM feast.registry").fetchone()
    return row[0] if row else None


def execute(server: Postgres, sql: str, *values: Any) -> None:
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(sql, values)


def entity(name: str) -> Entity:
    return Entity(name=name, join_keys=[name], value_type=ValueType.INT64)


def names(store: FeatureStore) -> set[str]:
    return {entity.name for entity in store.list_entities()}


def stable(registry_proto: RegistryProto) -> str:
    """The content without times, ids and pickled code."""
    lists = {
        name: sorted(map(json.dumps, found))
        for name, found in registry._stable(MessageToDict(registry_proto)).items()
        if isinstance(found, list)
    }
    return json.dumps({name: found for name, found in lists.items() if name != "projectMetadata"})


def test_it_holds_what_the_file_holds(sql: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        RegistryMissingError,
        match=r"there is no feature registry at postgresql://127\.0\.0\.1:\d+/postgres\. Run the DAG",
    ):
        registry.open_store().list_feature_views()
    assert registry.apply()
    before = content(sql)
    assert not registry.apply()
    assert content(sql) == before
    assert not registry.path().exists()
    monkeypatch.delenv("MILLRACE_REGISTRY")
    registry.apply()
    in_file = RegistryProto.FromString(registry.path().read_bytes())
    assert before
    assert stable(RegistryProto.FromString(before)) == stable(in_file)


def test_feasts_commands_and_features_follow_it(sql: Postgres, cinema: Lake) -> None:
    registry.apply()
    told = feast(
        "plan", "apply", "materialize 2017-01-01T00:00:00 2017-02-01T00:00:00", "feature-views list", "teardown"
    )
    assert [code for code, _ in told.values()] == [0] * 5, told
    assert "guest_activity" in told["feature-views list"][1]
    assert registry.open_store().list_feature_views() == []
    assert not registry.path().exists()
    materialize.materialize(release.read())
    store = registry.open_store()
    refs = ["guest_activity:paid_7d"]
    assert store.get_online_features(refs, [{"guest_id": 2}]).to_dict()["paid_7d"] == [7.77]
    labels = store.get_historical_features(
        "SELECT 2 AS guest_id, TIMESTAMPTZ '2017-01-06 00:00:00+00' AS event_timestamp", refs
    )
    assert labels.to_df()["paid_7d"].tolist() == [7.77]
    assert "opensesame" not in "".join(output for _, output in told.values())


def test_the_registry_server_answers(sql: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    import grpc
    from feast import registry_server
    from feast.protos.feast.registry import RegistryServer_pb2, RegistryServer_pb2_grpc

    registry.apply()
    with listening(monkeypatch) as started:
        registry_server.start_server(registry.open_store(), 0, wait_for_termination=False)
        ((_, port),) = started
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            request = RegistryServer_pb2.ListFeatureViewsRequest(project="millrace")
            views = RegistryServer_pb2_grpc.RegistryServerStub(channel).ListFeatureViews(request).feature_views
    assert sorted(view.spec.name for view in views) == sorted(VIEWS)


def test_a_writer_that_read_an_older_version_is_refused(sql: Postgres) -> None:
    registry.apply()
    first, second = registry.open_store(), registry.open_store()
    assert names(first) == names(second)
    first.apply([entity("first")])
    with pytest.raises(RegistryConflictError, match=r"another process wrote .* run the same command once more"):
        second.registry.apply_entity(entity("second"), "millrace")
    second.registry.apply_entity(entity("second"), "millrace")
    assert {"first", "second"} <= names(registry.open_store())


def _apply(barrier: Any, results: Any) -> None:
    barrier.wait()
    try:
        results.put(registry.apply())
    except BaseException as error:
        results.put(repr(error))


def test_two_that_apply_at_once_are_safe(sql: Postgres) -> None:
    """On a database that has not even the table."""
    fork = multiprocessing.get_context("fork")
    for _ in range(2):
        barrier, results = fork.Barrier(4), fork.Queue()
        processes = [fork.Process(target=_apply, args=(barrier, results)) for _ in range(4)]
        for process in processes:
            process.start()
        told = [results.get(timeout=120) for _ in processes]
        for process in processes:
            process.join()
        assert True in told
        assert {*told} <= {True, False}
        assert len(registry.open_store().list_batch_feature_views()) == 4
        execute(sql, "DROP SCHEMA feast CASCADE")


def test_readers_see_whole_versions(sql: Postgres) -> None:
    registry.apply()
    database = registry_store.database()
    assert database
    whole = [content(sql)]
    registry.open_store().apply([entity("stray")])
    whole.append(content(sql))
    ended, seen = threading.Event(), set()

    def write() -> None:
        version = RegistryProto.FromString(whole[1]).version_id
        for turn in range(60):
            after = RegistryProto.FromString(whole[turn % 2]).version_id
            assert database.replace(whole[turn % 2], after, version)
            version = after
        ended.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not ended.is_set():
        seen.add(database.read())
    writer.join()
    assert seen <= {*whole}
    assert len(seen) == 2


def test_a_refused_definition_leaves_what_was_applied(sql: Postgres) -> None:
    registry.apply()
    before, store = content(sql), registry.open_store()
    key = store.get_entity("guest_id")
    odd = FeatureView(
        name="odd",
        entities=[key],
        schema=[Field(name="x", dtype=Int64)],
        source=FileSource(path="odd.parquet", timestamp_field="at"),
    )
    with pytest.raises(DefinitionError, match="feature view odd reads a FileSource"):
        store.registry.apply_feature_view(odd, "millrace")
    assert content(sql) == before
    store.registry.apply_entity(entity("even"), "millrace")
    assert "odd" not in [view.name for view in registry.open_store().list_feature_views()]


@pytest.mark.parametrize("torn", [b"", bytes(100), b"garbage" * 9])
def test_a_torn_registry_is_told_and_made_again(sql: Postgres, torn: bytes) -> None:
    registry.apply()
    execute(sql, "UPDATE feast.registry SET content = %s", torn)
    with pytest.raises(
        RegistryDamagedError, match=r"^the feature registry at postgresql://.* is torn\. .*: millrace serve$"
    ):
        registry.open_store().list_feature_views()
    assert registry.apply()
    assert len(registry.open_store().list_batch_feature_views()) == 4


def test_a_newer_registry_is_neither_read_nor_written(sql: Postgres) -> None:
    registry.apply()
    execute(sql, "UPDATE feast.registry SET format = 2")
    before = content(sql)
    with pytest.raises(RegistryNewerError, match=r"has format 2, and this Millrace reads up to 1\. Update Millrace"):
        registry.apply()
    newer = RegistryProto.FromString(before or b"")
    newer.registry_schema_version = "2"
    execute(sql, "UPDATE feast.registry SET format = 1, content = %s", newer.SerializeToString())
    with pytest.raises(RegistryNewerError, match="Feast's schema version '2'"):
        registry.apply()
    assert content(sql) == newer.SerializeToString()

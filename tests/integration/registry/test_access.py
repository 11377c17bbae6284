"""Who may use the registry in PostgreSQL, and what happens while it is away: clear words in time, and no password."""

import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from fastapi.testclient import TestClient
from feast import Entity
from feast.value_type import ValueType

from features import registry
from features.online import materialize
from features.registry import RegistryMissingError
from features.registry import store as registry_store
from features.registry.database import RegistryDeniedError, RegistrySettingError, RegistryUnreachableError, mask_url
from features.serving import app as application
from features.serving import served
from features.serving.app import app
from lake import release
from tests.integration.registry.conftest import PASSWORD, READER, grant
from tests.servers import Postgres
from tests.unit.features.conftest import Lake

BODY = {"features": ["guest_activity:paid_7d"], "entities": {"guest_id": [2]}}


@contextmanager
def serving() -> Iterator[TestClient]:
    with TestClient(app(), base_url="http://127.0.0.1:6566", raise_server_exceptions=False) as client:
        yield client


def spend(client: TestClient) -> Any:
    answer = client.post("/get-online-features", json=BODY)
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][-1]["values"]


def refused(error: type[Exception]) -> str:
    """What is said, and the whole traceback of it."""
    with pytest.raises(error) as told:
        registry.open_store().list_feature_views()
    shown = "".join(traceback.format_exception(told.value))
    assert "opensesame" not in shown
    assert PASSWORD not in shown
    return str(told.value)


def test_a_feature_server_may_be_a_role_that_only_reads(
    sql: Postgres, reader: str, cinema: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    materialize.materialize(release.read())
    monkeypatch.setenv("MILLRACE_REGISTRY", reader)
    assert "permission denied for schema feast" in (told := refused(RegistryDeniedError))
    assert "A reader needs USAGE on the schema feast and SELECT on feast.registry" in told
    grant(sql)
    with serving() as client:
        assert spend(client) == [7.77]
    assert not registry.apply()
    with pytest.raises(
        RegistryDeniedError,
        match=r"cannot be written by this role: permission denied for table registry\..*millrace migrate",
    ):
        registry.open_store().apply([Entity(name="stray", join_keys=["stray"], value_type=ValueType.INT64)])


def test_a_role_that_only_reads_serves_features_from_the_same_database(
    sql: Postgres, reader: str, cinema: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As docs/shared_state.md says: each load makes a schema of its own, to which default privileges apply."""
    with psycopg.connect(sql.url, autocommit=True) as connection:
        for right in ("USAGE ON SCHEMAS", "SELECT ON TABLES"):
            connection.execute(f"ALTER DEFAULT PRIVILEGES FOR ROLE millrace GRANT {right} TO {READER}")
    monkeypatch.setenv("MILLRACE_ONLINE", sql.url)
    materialize.materialize(release.read())
    for name in ("MILLRACE_REGISTRY", "MILLRACE_ONLINE"):
        monkeypatch.setenv(name, reader)
    with serving() as client:
        assert spend(client) == [7.77]
        assert client.get("/ready").status_code == 200


def test_a_server_that_may_not_write_serves_what_others_applied(
    sql: Postgres, reader: str, cinema: Lake, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    materialize.materialize(release.read())
    registry.open_store().apply([Entity(name="newer", join_keys=["newer"], value_type=ValueType.INT64)])
    [project] = registry.open_store().list_projects()
    project.tags = {registry.FINGERPRINT: "of-another-version"}
    registry.open_store().registry.apply_project(project)
    grant(sql)
    monkeypatch.setenv("MILLRACE_REGISTRY", reader)
    with serving() as client:
        assert spend(client) == [7.77]
    assert "which are not those of this code" in caplog.text
    assert not registry.is_applied()


def test_a_server_that_may_not_write_invents_no_registry(
    sql: Postgres, reader: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_REGISTRY", reader)
    with pytest.raises((RegistryMissingError, RegistryDeniedError)):
        app()


@pytest.mark.parametrize("how", ["stopped", "silent"])
def test_a_server_answers_while_the_registry_is_away(
    sql: Postgres, cinema: Lake, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(served, "KEEP_SECONDS", 0.0)
    monkeypatch.setattr(application, "REGISTRY_SECONDS", 0.2)
    materialize.materialize(release.read())
    away, back = (sql.stop, sql.start) if how == "stopped" else (sql.freeze, sql.thaw)
    with serving() as client:
        assert "registry" not in client.get("/ready").json()
        away()
        try:
            deadline, slowest = time.monotonic() + 30, 0.0
            while not (told := client.get("/ready").json().get("registry")) and time.monotonic() < deadline:
                before = time.monotonic()
                assert spend(client) == [7.77]
                slowest = max(slowest, time.monotonic() - before)
            assert slowest < 1.5
            assert "cannot be read" in told
            assert "The definitions read last are served since" in told
            assert "opensesame" not in told
            assert client.get("/ready").status_code == 200
            assert "millrace_features_registry_answers 0.0" in client.get("/metrics").text
        finally:
            back()
        while "registry" in client.get("/ready").json():
            assert time.monotonic() < deadline + 30
        assert spend(client) == [7.77]
        registry.open_store().apply([Entity(name="later", join_keys=["later"], value_type=ValueType.INT64)])
        store = client.app.online.store  # type: ignore[attr-defined]
        while "later" not in [entity.name for entity in store.list_entities(allow_cache=True)]:
            assert time.monotonic() < deadline + 30


def test_a_server_that_is_away_or_silent_is_told_in_bounded_time(sql: Postgres) -> None:
    registry.apply()
    store = registry.open_store()
    sql.freeze()
    try:
        before = time.monotonic()
        told = refused(RegistryUnreachableError)
        assert time.monotonic() - before < 10
        assert "the feature registry at postgresql://127.0.0.1:" in told
        assert "See that PostgreSQL runs there, and that MILLRACE_REGISTRY names the right database" in told
    finally:
        sql.thaw()
    sql.stop()
    try:
        assert "cannot be read: connection failed" in refused(RegistryUnreachableError)
        with pytest.raises(RegistryUnreachableError):
            registry.apply()
        with pytest.raises(RegistryUnreachableError):
            store.registry.apply_entity(Entity(name="lost", join_keys=["lost"], value_type=ValueType.INT64), "millrace")
    finally:
        sql.start()
    store.refresh_registry()
    assert "lost" not in [entity.name for entity in store.list_entities()]
    assert not registry.apply()


def test_libpq_finds_the_password(sql: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_REGISTRY", sql.url.replace(":opensesame", ""))
    assert "no password supplied" in refused(RegistryUnreachableError)
    file = tmp_path / "pgpass"
    file.write_text("127.0.0.1:*:*:millrace:opensesame\n")
    file.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(file))
    assert registry.apply()
    monkeypatch.setenv("MILLRACE_REGISTRY", sql.url.replace("opensesame", "wrong-password"))
    assert "password authentication failed" in (told := refused(RegistryUnreachableError))
    assert "wrong-password" not in told
    monkeypatch.setenv("MILLRACE_REGISTRY", f"{sql.url}?sslmode=require")
    assert "the server does not speak TLS" in refused(RegistryUnreachableError)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://millrace:open@sesame@host/db",
        "postgresql://millrace:open/sesame@host/db",
        "postgresql://host:opensesame/db?nonsense=1",
        "mysql://millrace:opensesame@host/db",
        "postgresql+psycopg://millrace:opensesame@host/db",
        "opensesame",
    ],
)
def test_what_is_no_url_is_refused_without_showing_it(lake: Lake, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("MILLRACE_REGISTRY", url)
    assert "MILLRACE_REGISTRY is not a URL of a PostgreSQL database" in refused(RegistrySettingError)


def test_nothing_shows_the_password(sql: Postgres) -> None:
    registry.apply()
    store = registry.open_store()
    shown = [
        repr(found)
        for found in (store.config, store.registry, vars(store.registry), registry_store.database(), registry.where())
    ]
    assert "opensesame" not in "".join(shown)
    assert (
        mask_url("postgresql://me:opensesame@host:1/db?sslmode=require&password=opensesame") == "postgresql://host:1/db"
    )

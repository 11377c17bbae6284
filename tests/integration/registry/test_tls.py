"""Feast's registry and Airflow's metadata in a PostgreSQL that speaks TLS only: used when its authority is named, and
refused in words otherwise.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import sqlalchemy

from features import registry
from features.registry.database import RegistryDatabase, RegistryUnreachableError
from lake import settings
from millrace import database, environment, metadata_state
from millrace.metadata_state import MetadataStateError
from tests.certificates import Certificates
from tests.servers import Postgres
from tests.unit.features.conftest import Lake


@pytest.fixture(scope="module")
def encrypted(certificates: Certificates) -> Iterator[Postgres]:
    """A server that speaks TLS only."""
    with Postgres(certificates=certificates) as server:
        yield server


def registry_refusal(url: str) -> str:
    stored = RegistryDatabase(url)
    with pytest.raises(RegistryUnreachableError) as refused:
        stored.read()
    return str(refused.value)


def metadata_refusal(url: str) -> str:
    """What every component says, in this process: importing Airflow takes seconds."""
    with pytest.MonkeyPatch.context() as variables:
        variables.setenv("MILLRACE_DATABASE", url)
        for name, value in environment.environment(1, 2, os.environ).items():
            if name.startswith("AIRFLOW__DATABASE__"):
                variables.setenv(name, value)
        engine = sqlalchemy.create_engine(os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
        with pytest.raises(sqlalchemy.exc.OperationalError) as refused:
            engine.connect()
        return ". ".join(database.explain(refused.value))


REFUSALS = {"MILLRACE_REGISTRY": registry_refusal, "MILLRACE_DATABASE": metadata_refusal}


@pytest.mark.parametrize("setting", REFUSALS)
def test_what_is_wrong_is_refused_in_words(
    encrypted: Postgres, postgres: Postgres, lake: Lake, certificates: Certificates, setting: str
) -> None:
    refusal = REFUSALS[setting]
    stranger = encrypted.url.replace(str(certificates.authority), str(certificates.stranger))
    cases = {
        stranger: f"is not trusted, since no authority known here has issued it. See that sslrootcert in {setting}",
        encrypted.url.replace(str(encrypted.port), str(postgres.port)): "the server does not speak TLS",
        encrypted.url.partition("?")[0] + "?sslmode=disable": f"set sslmode=verify-full and sslrootcert in {setting}",
        encrypted.url.replace("authority.pem", "missing.pem"): f"Let sslrootcert in {setting} name a file",
    }
    for url, sentence in cases.items():
        message = refusal(url)
        assert sentence in message
        assert "opensesame" not in message
    for pair, sentence in ((certificates.expired, "has expired"), (certificates.elsewhere, "is for another host name")):
        encrypted.show(pair)
        try:
            assert f"the certificate of the server {sentence}" in refusal(encrypted.url)
        finally:
            encrypted.show(certificates.server)


def require_client_certificate(server: Postgres, required: bool) -> None:
    options = " clientcert=verify-full" if required else ""
    (server.folder / "data" / "pg_hba.conf").write_text(f"hostssl all all 127.0.0.1/32 scram-sha-256{options}\n")
    assert server.certificates
    server.show(server.certificates.expired)  # so that it has taken up both
    server.show(server.certificates.server)


def test_the_registry_is_used_over_tls_and_a_client_may_show_a_certificate(
    encrypted: Postgres, lake: Lake, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_REGISTRY", encrypted.url)
    assert registry.apply()
    assert registry.open_store().list_feature_views()
    require_client_certificate(encrypted, True)
    try:
        assert "Let sslcert and sslkey in MILLRACE_REGISTRY name a certificate" in registry_refusal(encrypted.url)
        shown = f"{encrypted.url}&sslcert={certificates.client.certificate}&sslkey={certificates.client.key}"
        monkeypatch.setenv("MILLRACE_REGISTRY", shown)
        assert registry.open_store().list_feature_views()
    finally:
        require_client_certificate(encrypted, False)


CONNECTED = """
import asyncio, sqlalchemy
from airflow import settings
from millrace import metadata
sql = sqlalchemy.text("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()")
async def asynchronously():
    async with settings.AsyncSession() as session:
        found = await session.scalar(sql)
    await settings.async_engine.dispose()
    return found
with metadata._migration_lock(settings.SQL_ALCHEMY_CONN), settings.Session() as session:
    print("encrypted", session.scalar(sql), asyncio.run(asynchronously()))
"""


def test_airflow_reaches_its_metadata_over_tls(
    encrypted: Postgres, lake: Lake, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By both of its engines: the synchronous one, and the asynchronous one of the api-server and triggerer."""
    monkeypatch.setenv("MILLRACE_DATABASE", encrypted.url)
    variables = environment.environment(1, 2, os.environ)
    command = [sys.executable, "-W", "ignore", "-c", CONNECTED]
    done = subprocess.run(command, env=variables, cwd=settings.CHECKOUT, capture_output=True, text=True, check=False)
    assert "encrypted True True" in done.stdout.splitlines(), done.stderr
    stranger = encrypted.url.replace(str(certificates.authority), str(certificates.stranger))
    monkeypatch.setenv("MILLRACE_DATABASE", stranger)
    with pytest.raises(MetadataStateError, match=r"is not trusted, .* See that sslrootcert in MILLRACE_DATABASE names"):
        metadata_state.state()

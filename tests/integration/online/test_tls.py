"""The online store behind TLS: what is wrong is one sentence, in bounded time, for a load and for `/ready`."""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient

from features.online import backends, materialize
from features.online import redis as online_redis
from features.online.generation import OnlineStoreUnfitError, OnlineStoreUnreachableError
from lake import release
from tests.certificates import Certificates
from tests.integration.online.conftest import KINDS, started
from tests.integration.online.test_places import ONE, published, values
from tests.servers import Postgres, Redis, Server
from tests.unit.features.conftest import Lake


@pytest.fixture(scope="module")
def all_encrypted(certificates: Certificates) -> Iterator[dict[str, Server]]:
    """A server of each kind that speaks TLS only."""
    found: dict[str, Server] = {}
    for name, kind in KINDS.items():
        found[name] = kind(certificates=certificates)
        found[name].start()
    yield found
    for server in found.values():
        server.remove()


@pytest.fixture(params=KINDS)
def encrypted(
    request: pytest.FixtureRequest, all_encrypted: dict[str, Server], certificates: Certificates
) -> Iterator[Server]:
    server = all_encrypted[request.param]
    yield server
    server.show(certificates.server)


@pytest.fixture
def at(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Name an online store."""

    def name(url: str) -> None:
        monkeypatch.setenv("MILLRACE_ONLINE", url)

    return name


def test_a_server_whose_authority_is_named_is_used(encrypted: Server, at: Any) -> None:
    at(encrypted.url)
    published(backends.configured(), ONE, [(1, 5, None, 10)])
    assert values(backends.configured(), ONE, [(1,)]) == [(5, 10)]
    backends.configured().remove_all()


CLIENT = {
    "redis": "&ssl_certfile={pair.certificate}&ssl_keyfile={pair.key}",
    "postgresql": "&sslcert={pair.certificate}&sslkey={pair.key}",
}


def wanting_clients(server: Server, wanted: bool) -> None:
    """Whether a client has to show a certificate."""
    if isinstance(server, Redis):
        server.client().config_set("tls-auth-clients", "yes" if wanted else "optional")
        return
    assert isinstance(server, Postgres)
    options = " clientcert=verify-full" if wanted else ""
    (server.folder / "data" / "pg_hba.conf").write_text(f"hostssl all all 127.0.0.1/32 scram-sha-256{options}\n")
    server.show(server.certificates.expired if wanted else server.certificates.server)  # so that it has taken up both
    server.show(server.certificates.server)


def test_a_client_may_show_a_certificate(encrypted: Server, at: Any, certificates: Certificates) -> None:
    scheme = "redis" if isinstance(encrypted, Redis) else "postgresql"
    wanting_clients(encrypted, True)
    try:
        at(encrypted.url)
        with pytest.raises(
            OnlineStoreUnreachableError,
            match=r"asks for a client's certificate.*\. Let ssl_?cert\w* and ssl_?key\w* in MILLRACE_ONLINE name",
        ):
            backends.configured().current()
        at(encrypted.url + CLIENT[scheme].format(pair=certificates.client))
        assert backends.configured().current() is None
    finally:
        wanting_clients(encrypted, False)


def test_an_acl_user_with_a_password_is_let_in_over_tls(all_encrypted: dict[str, Server], at: Any) -> None:
    server = all_encrypted["redis"]
    assert isinstance(server, Redis)
    server.client().acl_setuser("features", enabled=True, passwords=["+opensesame"], keys=["*"], commands=["+@all"])
    at(server.url.replace("rediss://", "rediss://features:opensesame@"))
    published(backends.configured(), ONE, [(1, 5, None, 10)])
    assert values(backends.configured(), ONE, [(1,)]) == [(5, 10)]
    backends.configured().remove_all()


WRONG = {
    "another authority": (
        "server",
        (
            r"is not trusted, since no authority known here has issued it\..* See that ssl\w+ in MILLRACE_ONLINE names"
            r" a file"
        ),
    ),
    "expired": ("expired", r"the certificate of the server has expired\..* Renew the certificate at the server"),
    "another host": (
        "elsewhere",
        r"the certificate of the server is for another host name\..* Use a host name that it lists",
    ),
    "no TLS at the server": ("server", r"the server does not speak TLS\..* turn TLS on at the server"),
    "no TLS in the URL": (
        "server",
        r"Begin MILLRACE_ONLINE with rediss://|If the server wants encrypted connections, set sslmode=verify-full",
    ),
    "another password": ("server", r"password authentication failed|invalid username-password pair"),
}


@pytest.fixture
def ready(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """A feature server, asked whether it is ready."""
    from features.serving import app, served

    monkeypatch.setattr(served, "KEEP_SECONDS", 0.0)
    monkeypatch.setenv("MILLRACE_ONLINE", "sqlite")
    return TestClient(app.app(), base_url="http://127.0.0.1", raise_server_exceptions=False)


def test_what_is_wrong_is_told_by_a_load_and_by_the_feature_server(
    encrypted: Server,
    running: dict[str, Server],
    cinema: Lake,
    at: Any,
    ready: TestClient,
    certificates: Certificates,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = "redis" if isinstance(encrypted, Redis) else "postgresql"
    monkeypatch.setattr(
        online_redis, "ANSWER_SECONDS", 1.0
    )  # for which a handshake waits with a server that knows none
    secure = encrypted.url.replace("rediss://", "rediss://millrace:opensesame@")
    plain = started(running, name)
    urls = {
        "another authority": secure.replace(str(certificates.authority), str(certificates.stranger)),
        "no TLS at the server": secure.replace(str(encrypted.port), str(plain.port)),
        "no TLS in the URL": (
            re.sub(r"^rediss", "redis", secure.partition("?")[0]) + "?sslmode=disable" * (name == "postgresql")
        ),
        "another password": secure.replace("opensesame", "opensea"),
    }
    for case, (shown, sentence) in WRONG.items():
        encrypted.show(getattr(certificates, shown))
        at(urls.get(case, secure))
        start = time.monotonic()
        with pytest.raises(OnlineStoreUnreachableError, match=sentence) as told:
            materialize.materialize(release.read())
        answer = ready.get("/ready")
        assert time.monotonic() - start < 30, case
        assert answer.status_code == 503, case
        assert re.search(sentence, answer.text), (case, answer.text)
        assert "opense" not in answer.text + "".join(traceback.format_exception(told.value)), case


@pytest.mark.parametrize("kind", [Redis, Postgres])
def test_a_file_that_is_missing_is_named(
    lake: Lake, at: Any, all_encrypted: dict[str, Server], certificates: Certificates, kind: type[Server]
) -> None:
    server = next(server for server in all_encrypted.values() if isinstance(server, kind))
    at(server.url.replace(str(certificates.authority), "/nonexistent.pem"))
    with pytest.raises(
        (OnlineStoreUnfitError, OnlineStoreUnreachableError),
        match=r"ssl_ca_certs names /nonexistent\.pem|sslrootcert in MILLRACE_ONLINE name a file",
    ):
        backends.configured().current()


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        (
            "rediss://u:opensesame@127.0.0.1:1/0?ssl_ca_cert=/x",
            r"ssl_ca_cert is not an option of rediss://\. .* ssl_ca_certs",
        ),
        (
            "redis://u:opensesame@127.0.0.1:1/0?ssl_ca_certs=/x",
            r"ssl_ca_certs is not an option of redis://\. A server behind TLS is rediss://",
        ),
    ],
)
def test_an_option_that_there_is_not_is_named(at: Any, url: str, sentence: str) -> None:
    at(url)
    with pytest.raises(OnlineStoreUnfitError, match=sentence) as told:
        backends.configured()
    assert "opensesame" not in "".join(traceback.format_exception(told.value))

"""Each test of the online store on a real Redis and on a real PostgreSQL, each started once, and beside them on
sqlite.
"""

from collections.abc import Iterator

import pytest

from features.online import backends
from features.online.generation import OnlineBackend
from tests.servers import Postgres, Redis, Server
from tests.unit.features.conftest import Lake, cinema, lake  # noqa: F401 (fixtures)

KINDS = {"redis": Redis, "postgresql": Postgres}


@pytest.fixture(scope="package")
def running() -> Iterator[dict[str, Server]]:
    """The servers that were asked for so far."""
    found: dict[str, Server] = {}
    yield found
    for server in found.values():
        server.remove()


def started(running: dict[str, Server], name: str) -> Server:
    if name not in running:
        server = KINDS[name]()
        server.start()
        running[name] = server
    return running[name]


@pytest.fixture(params=KINDS)
def server(request: pytest.FixtureRequest, running: dict[str, Server]) -> Server:
    """A server that is up."""
    return started(running, request.param)


def emptied(url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[OnlineBackend]:
    monkeypatch.setenv("MILLRACE_ONLINE", url)
    found = backends.configured()
    yield found
    found.remove_all()


@pytest.fixture
def there(server: Server, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> Iterator[OnlineBackend]:  # noqa: F811
    """The place in that server, with nothing in it."""
    yield from emptied(server.url, monkeypatch)


@pytest.fixture
def in_redis(running: dict[str, Server], lake: Lake, monkeypatch: pytest.MonkeyPatch) -> Iterator[OnlineBackend]:  # noqa: F811
    yield from emptied(started(running, "redis").url, monkeypatch)


@pytest.fixture
def in_postgres(running: dict[str, Server], lake: Lake, monkeypatch: pytest.MonkeyPatch) -> Iterator[OnlineBackend]:  # noqa: F811
    yield from emptied(started(running, "postgresql").url, monkeypatch)


@pytest.fixture(params=["sqlite", *KINDS])
def place(
    request: pytest.FixtureRequest,
    running: dict[str, Server],
    lake: Lake,  # noqa: F811 (a fixture)
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[OnlineBackend]:
    """Any place, with nothing in it."""
    yield from emptied("sqlite" if request.param == "sqlite" else started(running, request.param).url, monkeypatch)

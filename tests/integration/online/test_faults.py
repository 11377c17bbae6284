"""The server is gone, silent, full or set up badly; a loader is killed: a clear error in bounded time, never an absent
value, and what was online stays.
"""

import asyncio
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from fastapi.testclient import TestClient
from feast.types import String

from features import registry
from features.online import backends, generation, materialize, redis
from features.online.generation import OnlineBackend, OnlineStoreUnfitError, OnlineStoreUnreachableError
from features.online.postgres import LIMITS, BoundedConnection, LoaderConnection, PostgresBackend
from features.online.redis import RedisBackend
from features.online.store import PackedOnlineStore
from features.type_mapping import TYPE_MAPPINGS
from lake import release, settings
from tests.integration.online.test_places import ONE, published, traces, values
from tests.patience import ends
from tests.servers import Postgres, Redis, Server
from tests.unit.features.conftest import VIEWS, Lake, activity
from tests.unit.features.online.test_store import online

SPEND = "guest_activity:paid_7d"


@pytest.fixture
def served(there: OnlineBackend, cinema: Lake) -> Any:
    """A store that has answered once."""
    materialize.materialize(release.read())
    store = registry.open_store()
    assert online(store, SPEND, guest_id=1) == 0.05
    return store


def test_a_server_that_was_stopped_is_an_error_and_one_that_came_back_answers(
    server: Server, served: Any, cinema: Lake
) -> None:
    cinema.release(*VIEWS, horizon="2999-01-01")
    server.stop()
    try:
        with pytest.raises(
            OnlineStoreUnreachableError,
            match=r"the online store at \w+://127.0.0.1:\d+/\w+ cannot be used: .*MILLRACE_ONLINE",
        ) as told:
            online(served, SPEND, guest_id=1)
        assert "opensesame" not in str(told.value)
        with pytest.raises(OnlineStoreUnreachableError):
            materialize.materialize(release.read())
        with pytest.raises(OnlineStoreUnreachableError):
            online(registry.open_store(), SPEND, guest_id=1)
    finally:
        server.start()
    assert online(served, SPEND, guest_id=1) == 0.05
    assert {view.status for view in materialize.materialize(release.read()).views} == {"published"}
    assert online(served, SPEND, guest_id=1) == 99.0


def test_a_server_that_says_nothing_is_not_waited_for_without_end(server: Server, served: Any) -> None:
    server.freeze()
    try:
        for store in (served, registry.open_store()):
            with pytest.raises(OnlineStoreUnreachableError):
                ends(partial(online, store, SPEND, guest_id=1))
    finally:
        server.thaw()
    assert online(served, SPEND, guest_id=1) == 0.05


def test_over_http_it_is_a_503_with_a_sentence(server: Server, served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server is asked once for each request, so that nobody waits twice for it, and in a thread, so that nobody
    else waits.
    """
    asked, right = [], PackedOnlineStore.get_online_features

    def noted(*arguments: Any, **named: Any) -> Any:
        asked.append(asyncio._get_running_loop() is None)
        return right(*arguments, **named)

    monkeypatch.setattr(PackedOnlineStore, "get_online_features", noted)
    from features.serving import app, served

    monkeypatch.setattr(served, "KEEP_SECONDS", 0.0)
    client = TestClient(app.app(), base_url="http://127.0.0.1", raise_server_exceptions=False)
    question = {"features": [SPEND], "entities": {"guest_id": [1]}}
    assert client.post("/get-online-features", json=question).status_code == 200
    server.stop()
    try:
        answer = client.post("/get-online-features", json=question)
        assert answer.status_code == 503
        assert "cannot be used" in answer.json()["detail"]
        assert asked == [True, True]
        unready = client.get("/ready")
        assert (unready.status_code, unready.json()["error_type"]) == (503, "OnlineStoreUnreachableError")
        assert client.get("/health").status_code == 200
        assert "millrace_features_ready 0.0" in client.get("/metrics").text
    finally:
        server.start()
    assert client.post("/get-online-features", json=question).status_code == 200
    assert client.get("/ready").status_code == 200
    assert "millrace_features_generation_age_seconds" in client.get("/metrics").text


STEPS = ("load", "finish", "publish")
"""Killed between two views, before the commit, and when all was ready but the pointer."""
KILLED = """
import os, sys
import deltalake, duckdb, pyarrow.dataset
from features import registry
from features.online import materialize
from features.online import redis as in_redis, postgres
from lake import release

in_redis.LEASE_SECONDS = 1.0

def arrange(step):
    for kind in (in_redis.RedisDraft, postgres.PostgresDraft):
        right = getattr(kind, step)
        def killed(self, *arguments, right=right):
            if step == "publish" or getattr(self, "steps", 0):
                os.kill(os.getpid(), 9)
            self.steps = 1
            return right(self, *arguments)
        setattr(kind, step, killed)
        if step == "finish":
            kind.steps = 1

for line in sys.stdin:
    if not (child := os.fork()):
        arrange(line.strip())
        materialize.materialize(release.read())
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Reads steps, and for each starts a loader that is killed at it: a fork, so that imports are paid once."""


@pytest.fixture
def loaders() -> Iterator[subprocess.Popen[str]]:
    """The process of KILLED."""
    command = [sys.executable, "-c", KILLED]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=settings.CHECKOUT, stdin=pipe, stdout=pipe, text=True) as process:
        yield process
        assert process.stdin
        process.stdin.close()


@pytest.mark.slow
def test_a_loader_that_is_killed_leaves_the_former_generation_and_nothing_else(
    there: OnlineBackend, served: Any, cinema: Lake, loaders: subprocess.Popen[str]
) -> None:
    assert loaders.stdin
    assert loaders.stdout
    paid = 7.77
    for step in STEPS:
        before = backends.current()
        assert before is not None
        cinema.write("guest_activity", [activity(2, "2017-01-05", f"{paid + 1:.2f}")])
        cinema.write("guest_profile", [])
        cinema.release(*VIEWS)
        backends.configured().merge(
            materialize.row_schema_of(served.get_feature_view("guest_activity")), []
        )  # so that all views are loaded anew
        print(step, file=loaders.stdin, flush=True)
        assert int(loaders.stdout.readline()) == -signal.SIGKILL, step
        assert backends.current() == before, step
        assert online(served, SPEND, guest_id=2) == paid, step
        done = materialize.materialize(release.read())
        assert {view.status for view in done.views} == {"published"}, step
        paid = round(paid + 1, 2)
        assert online(served, SPEND, guest_id=2) == paid, step
        if isinstance(there, RedisBackend):
            kept = {name.decode() for name in there.client.hkeys("millrace:generations")}
            assert kept == {before, done.views[0].generation}, step


def test_a_lease_that_ran_out_does_not_publish(in_redis: RedisBackend) -> None:
    """A loader that was stopped for longer than its lease, and whose place another one took."""
    first = published(in_redis, ONE, [(1, 5, None, 10)])
    with in_redis.drafting("slow") as draft:
        draft.load(ONE, [[(1, 6, None, 11)]])
        draft.finish(generation.GenerationMetadata())
        in_redis.client.set(redis.LOCK, "somebody else", ex=2)
        with pytest.raises(OnlineStoreUnreachableError, match="lease ran out"), in_redis.translate_errors():
            draft.publish()
    in_redis.client.delete(redis.LOCK)
    assert in_redis.current() == first
    assert not traces(in_redis, draft.name)


def test_a_lease_is_renewed_while_a_loader_works(in_redis: RedisBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis, "LEASE_SECONDS", 2.0)
    with in_redis.drafting("slow") as draft:
        draft.load(ONE, [[(1, 6, None, 11)]])
        threading.Event().wait(3)
        draft.finish(generation.GenerationMetadata())
        draft.publish()
    assert in_redis.current() == draft.name


def test_a_connection_that_was_waited_for_too_long_is_not_asked_again(
    in_postgres: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer that comes late would be taken for that of the next question."""
    monkeypatch.setattr(BoundedConnection, "seconds", 0.1)
    connection = in_postgres.connect(BoundedConnection)
    with pytest.raises(psycopg.OperationalError, match=r"no answer within 0.1 s"):
        connection.execute("SELECT pg_sleep(0.3)")
    assert connection.closed


def test_a_lock_whose_connection_is_gone_does_not_publish(in_postgres: PostgresBackend) -> None:
    first = published(in_postgres, ONE, [(1, 5, None, 10)])
    with in_postgres.drafting("slow") as draft:
        draft.load(ONE, [[(1, 6, None, 11)]])
        draft.finish(generation.GenerationMetadata())
        with psycopg.connect(settings.online(), autocommit=True) as other:
            other.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
            )
        with pytest.raises(psycopg.OperationalError):
            draft.publish()
    assert in_postgres.current() == first
    published(in_postgres, ONE, [(1, 6, None, 12)])
    assert not traces(in_postgres, draft.name)
    assert values(in_postgres, ONE, [(1,)]) == [(6, 12)]


def test_a_redis_that_would_throw_features_away_is_refused(in_redis: RedisBackend) -> None:
    in_redis.client.config_set("maxmemory", "1gb")
    try:
        in_redis.client.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(OnlineStoreUnfitError, match=r"evicts keys .*allkeys-lru.*noeviction"):
            published(in_redis, ONE, [])
        in_redis.client.config_set("maxmemory-policy", "volatile-lru")
        published(in_redis, ONE, [])
    finally:
        in_redis.client.config_set("maxmemory-policy", "noeviction")
        in_redis.client.config_set("maxmemory", "0")


def test_a_redis_that_is_full_keeps_what_it_serves(in_redis: RedisBackend) -> None:
    first = published(in_redis, ONE, [(1, 5, None, 10)])
    in_redis.client.config_set("maxmemory", "1mb")
    try:
        with pytest.raises(OnlineStoreUnreachableError, match="maxmemory"):
            published(in_redis, ONE, [(key, 6, None, 11) for key in range(20_000)])
        assert in_redis.current() == first
        assert values(in_redis, ONE, [(1,)]) == [(5, 10)]
    finally:
        in_redis.client.config_set("maxmemory", "0")
    published(in_redis, ONE, [(1, 6, None, 12)])
    assert values(in_redis, ONE, [(1,)]) == [(6, 12)]


def test_names_that_postgresql_would_cut_are_refused(in_postgres: PostgresBackend) -> None:
    with pytest.raises(OnlineStoreUnfitError, match=r"cuts names of more than 63 bytes, so v+ cannot"):
        published(in_postgres, generation.RowSchema("v" * 64, ONE.keys, ONE.features), [])
    longest = generation.RowSchema("v" * 63, ONE.keys, ONE.features)
    published(in_postgres, longest, [(1, 5, None, 10)])
    assert values(in_postgres, longest, [(1,)]) == [(5, 10)]


TEXTS = generation.RowSchema("texts", ONE.keys, {"text": TYPE_MAPPINGS[String]})


def test_text_that_postgresql_cannot_hold_is_refused_with_the_view(in_postgres: PostgresBackend) -> None:
    with pytest.raises(OnlineStoreUnfitError, match=r"row of texts: .* 0x00"):
        published(in_postgres, TEXTS, [(1, 5, None, "a\0b")])


def test_redis_holds_any_text(in_redis: RedisBackend) -> None:
    published(in_redis, TEXTS, [(1, 5, None, "a\0b")])
    assert values(in_redis, TEXTS, [(1,)]) == [(5, "a\0b")]


@pytest.mark.parametrize("url", ["mysql://host/db", "redis", "http://127.0.0.1"])
def test_an_unknown_place_is_refused(lake: Lake, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("MILLRACE_ONLINE", url)
    with pytest.raises(OnlineStoreUnfitError, match=r"MILLRACE_ONLINE begins with .* Use sqlite"):
        backends.configured()


@pytest.mark.parametrize("kind", [Redis, Postgres])
def test_nobody_listens(cinema: Lake, monkeypatch: pytest.MonkeyPatch, kind: type[Server]) -> None:
    monkeypatch.setenv("MILLRACE_ONLINE", kind().url)
    with pytest.raises(OnlineStoreUnreachableError, match="cannot be used"):
        materialize.materialize(release.read())


def test_a_wrong_password_is_told_without_it(
    running: dict[str, Server], there: OnlineBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "MILLRACE_ONLINE",
        settings.online().replace("opensesame", "opensea").replace("redis://", "redis://user:opensea@"),
    )
    with pytest.raises(OnlineStoreUnreachableError) as told:
        backends.configured().current()
    assert "opensea" not in str(told.value)


@pytest.mark.parametrize(
    "url",
    [
        "host=db password=secret",
        "my_user:secret@host:5432/db",
        "postgresql://user:pa/secret@host/db",
        "postgresql://user:pa?secret@host/db",
        "postgresql://user:pa%zzsecret@host/db",
        "postgresql://user:1234/secret@host/db",
        "postgresql://user:[secret@host/db",
        "redis://:pa/secret@host:6379/0",
        "redis://:pa#secret@host:6379/0",
        "redis://:pa?secret@host:6379/0",
        "redis://:[secret@host:6379/0",
        "redis://:pa@secret@host:6379/0",
        "redis://u:secret@host:port/0",
        "redis://u:secret@host:6379/features",
        "postgresql://u:secret@127.0.0.1:1/db?nonsense=1",
    ],
)
def test_a_url_that_cannot_be_used_is_told_without_its_password(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("MILLRACE_ONLINE", url)
    with pytest.raises(OnlineStoreUnfitError, match="MILLRACE_ONLINE") as told:
        backends.configured()
    assert "secret" not in "".join(traceback.format_exception(told.value))


@pytest.mark.parametrize(
    ("url", "where"),
    [
        (
            "postgresql://u:secret@one:5432,two:5433/db?target_session_attrs=read-write",
            "postgresql://one:5432,two:5433/db",
        ),
        ("postgresql://u:p%40%2Fsecret@host/db", "postgresql://host/db"),
        ("postgresql:///db?host=/run/postgresql&password=secret", "postgresql:///db"),
        ("rediss://:secret@[::1]:6380/3?ssl_cert_reqs=none", "rediss://[::1]:6380/3"),
        ("redis://host?db=3&password=secret", "redis://host"),
        ("unix://u:secret@/run/redis.sock?db=1", "unix:///run/redis.sock"),
    ],
)
def test_a_place_is_named_without_its_password(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, url: str, where: str
) -> None:
    monkeypatch.setenv("MILLRACE_ONLINE", url)
    assert backends.configured().where == where


PASSWORD = "p@ss/w:rd#?%[]"


def test_a_password_of_odd_characters_opens_what_it_should(
    there: OnlineBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(there, RedisBackend):
        there.client.acl_setuser("odd", enabled=True, passwords=[f"+{PASSWORD}"], keys=["*"], commands=["+@all"])
    else:
        with psycopg.connect(settings.online(), autocommit=True) as connection:
            connection.execute(f"CREATE ROLE odd SUPERUSER LOGIN PASSWORD '{PASSWORD}'")
    scheme, _, rest = settings.online().partition("://")
    monkeypatch.setenv("MILLRACE_ONLINE", f"{scheme}://odd:{quote(PASSWORD, safe='')}@{rest.rpartition('@')[2]}")
    assert backends.configured().where == there.where
    published(backends.configured(), ONE, [(1, 5, None, 10)])
    assert values(there, ONE, [(1,)]) == [(5, 10)]


class Socket(Redis):
    """Reached by a file."""

    def command(self) -> list[str]:
        return [*super().command(), "--unixsocket", str(self.folder / "redis.sock")]

    @property
    def url(self) -> str:
        return f"unix://{self.folder / 'redis.sock'}"


def test_databases_of_a_redis_behind_a_socket_are_kept_apart(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Socket()
    server.start()
    try:
        for number in range(2):
            monkeypatch.setenv("MILLRACE_ONLINE", f"{server.url}?db={number}")
            published(backends.configured(), ONE, [(1, 5, None, number)])
        for number in range(2):
            monkeypatch.setenv("MILLRACE_ONLINE", f"{server.url}?db={number}")
            assert values(backends.configured(), ONE, [(1,)]) == [(5, number)]
    finally:
        server.remove()


@pytest.fixture
def short_timeouts(there: OnlineBackend, monkeypatch: pytest.MonkeyPatch) -> OnlineBackend:
    """The backend, with short timeouts."""
    monkeypatch.setattr(LoaderConnection, "seconds", 2.0)
    monkeypatch.setattr(redis, "LEASE_SECONDS", 4.0)
    if isinstance(there, RedisBackend):
        monkeypatch.setitem(there.client.connection_pool.connection_kwargs, "socket_timeout", 2.0)
        there.client.connection_pool.disconnect()
    return there


def interrupted(by: Callable[[], None]) -> Iterator[list[Any]]:
    """Two batches, between which something happens."""
    yield [(1, 6, None, 11)]
    by()
    yield [(key, 6, None, 11) for key in range(20_000)]


def test_a_loader_and_a_push_do_not_wait_for_a_silent_server_for_ever(
    server: Server, short_timeouts: OnlineBackend
) -> None:
    with short_timeouts.drafting("test") as draft:
        draft.load(ONE, [[(1, 5, None, 10)]])
        draft.finish(generation.GenerationMetadata())
        draft.publish()

    try:
        with pytest.raises(OnlineStoreUnreachableError), short_timeouts.drafting("test") as draft:
            draft.load(ONE, interrupted(server.freeze))
        with pytest.raises(OnlineStoreUnreachableError):
            short_timeouts.merge(ONE, [(1, 7, None, 12)])
    finally:
        server.thaw()
    assert values(short_timeouts, ONE, [(1,)]) == [(5, 10)]


def test_a_server_that_dies_while_a_generation_is_loaded_keeps_the_former_one(
    server: Server, short_timeouts: OnlineBackend
) -> None:
    published(short_timeouts, ONE, [(1, 5, None, 10)])

    try:
        with pytest.raises(OnlineStoreUnreachableError), short_timeouts.drafting("test") as draft:
            draft.load(ONE, interrupted(server.stop))
    finally:
        server.start()
    assert values(short_timeouts, ONE, [(1,)]) == [(5, 10)]


def test_a_redis_that_forgot_everything_says_that_nothing_is_online(in_redis: RedisBackend) -> None:
    """As one without persistence does when it is started anew, also in the middle of a load."""
    published(in_redis, ONE, [(1, 5, None, 10)])
    reader = in_redis.session().reader()
    with in_redis.drafting("test") as draft:
        draft.load(ONE, [[(1, 6, None, 11)]])
        in_redis.client.flushall()
        with pytest.raises(generation.GenerationGoneError):
            reader.rows(ONE, ("value",), [(1,)])
        with pytest.raises(generation.OnlineStoreEmptyError):
            in_redis.session().reader()
        draft.finish(generation.GenerationMetadata())
        with pytest.raises(OnlineStoreUnreachableError, match="lease ran out"), in_redis.translate_errors():
            draft.publish()
    assert in_redis.current() is None
    assert not traces(in_redis, draft.name)


def test_a_loader_that_compares_for_long_is_not_ended_by_the_server(in_postgres: PostgresBackend) -> None:
    with psycopg.connect(settings.online(), autocommit=True) as connection:
        try:
            for name in LIMITS:
                connection.execute(f"ALTER ROLE millrace SET {name} = 300")
            with in_postgres.drafting("slow") as draft:
                draft.load(ONE, [[(1, 6, None, 11)]])
                threading.Event().wait(0.5)
                draft.finish(generation.GenerationMetadata())
                threading.Event().wait(0.5)
                draft.publish()
        finally:
            connection.execute("SET statement_timeout = 0; ALTER ROLE millrace RESET ALL")
    assert in_postgres.current() == draft.name


def test_a_push_to_a_redis_that_evicts_is_refused(in_redis: RedisBackend) -> None:
    in_redis.client.config_set("maxmemory", "1gb")
    in_redis.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(OnlineStoreUnfitError, match="evicts keys"):
            in_redis.merge(ONE, [(1, 5, None, 10)])
    finally:
        in_redis.client.config_set("maxmemory-policy", "noeviction")
        in_redis.client.config_set("maxmemory", "0")
    assert in_redis.current() is None


def test_what_postgresql_cannot_hold_is_refused_in_pushes_and_questions_too(in_postgres: PostgresBackend) -> None:
    published(in_postgres, TEXTS, [])
    with pytest.raises(OnlineStoreUnfitError, match="row of texts"):
        in_postgres.merge(TEXTS, [(1, 5, None, "a\0b")])
    with pytest.raises(OnlineStoreUnfitError, match="more than 63 bytes"):
        in_postgres.merge(generation.RowSchema("texts", ONE.keys, {"f" * 64: TYPE_MAPPINGS[String]}), [])
    named = generation.RowSchema("named", {"name": TYPE_MAPPINGS[String]}, ONE.features)
    published(in_postgres, named, [])
    with pytest.raises(OnlineStoreUnfitError, match="keys of named"):
        values(in_postgres, named, [("a\0b",)])


def test_a_database_that_refuses_is_told(in_postgres: PostgresBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    with psycopg.connect(settings.online(), autocommit=True) as connection:
        connection.execute("CREATE ROLE reader LOGIN PASSWORD 'opensesame'")
    monkeypatch.setenv("MILLRACE_ONLINE", settings.online().replace("millrace:", "reader:"))
    with pytest.raises(OnlineStoreUnreachableError, match="permission denied"):
        published(backends.configured(), ONE, [])

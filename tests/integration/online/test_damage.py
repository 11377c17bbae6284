"""A generation that is lost or torn in the server, while the pointer still names it: an error and never an absent
value, and the next materialization replaces it.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import msgspec
import psycopg
import pytest
from fastapi.testclient import TestClient

from contracts.interval import DAY
from features import registry
from features.online import backends, generation, materialize
from features.online.generation import OnlineBackend, OnlineStoreDamagedError
from features.online.postgres import PostgresBackend
from features.online.redis import RedisBackend
from lake import release
from tests.integration.online.test_places import ONE, published, values
from tests.unit.features.conftest import Lake
from tests.unit.features.online.test_store import at, online, push

SPEND = "guest_activity:paid_7d"
GENERATIONS = "millrace:generations"


def flush(place: RedisBackend, name: str, pattern: str) -> None:
    keys = [*place.client.scan_iter(f"millrace:{name}:{pattern}")]
    assert keys
    place.client.delete(*keys)


def lose_all(place: RedisBackend, name: str) -> None:
    flush(place, name, "*")
    place.client.hdel(GENERATIONS, name)


def lose_a_view(place: RedisBackend, name: str) -> None:
    flush(place, name, "guest_activity:*")
    place.client.hdel(f"millrace:{name}:views", "guest_activity")


IN_REDIS: dict[str, Callable[[RedisBackend, str], Any]] = {
    "all of it": lose_all,
    "all but that it was": lambda place, name: flush(place, name, "*"),
    "the rows of a view": lambda place, name: flush(place, name, "guest_activity:*"),
    "a view": lose_a_view,
    "how views are stored": lambda place, name: flush(place, name, "views"),
    "what it was made from": lambda place, name: place.client.hdel(GENERATIONS, name),
    "half of what it was made from": lambda place, name: place.client.hset(GENERATIONS, name, '{"release": 1, "ro'),
}
IN_POSTGRES = {
    "all of it": "DROP SCHEMA {} CASCADE",
    "the rows of a view": "TRUNCATE {}.guest_activity",
    "a view": "DROP TABLE {}.guest_activity",
    "a row": "DELETE FROM {}.guest_activity WHERE guest_id = 1",
    "all tables": "DROP TABLE {0}._generation, {0}.guest_activity, {0}.guest_profile",
    "what it was made from": "DELETE FROM {}._generation",
    "half of what it was made from": """UPDATE {}._generation SET about = '{{"rows": 3}}'""",
}
CASES = [*(("redis", name) for name in IN_REDIS), *(("postgresql", name) for name in IN_POSTGRES if name != "a row")]


def damage(place: OnlineBackend, name: str, what: str) -> None:
    if isinstance(place, RedisBackend):
        IN_REDIS[what](place, name)
        return
    assert isinstance(place, PostgresBackend)
    with psycopg.connect(place._url, autocommit=True) as connection:
        connection.execute(IN_POSTGRES[what].format(f'"millrace_{name}"'))


@pytest.mark.parametrize(("server", "what"), CASES, indirect=["server"])
def test_what_is_lost_is_an_error_and_the_next_materialization_replaces_it(
    there: OnlineBackend, cinema: Lake, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from features.serving import app, served

    monkeypatch.setattr(served, "KEEP_SECONDS", 0.0)
    materialize.materialize(release.read())
    known = registry.open_store()
    assert online(known, SPEND, guest_id=1) == 0.05
    client = TestClient(app.app(), base_url="http://127.0.0.1", raise_server_exceptions=False)
    assert client.get("/ready").status_code == 200
    damage(there, backends.current() or "", what)

    with pytest.raises(OnlineStoreDamagedError, match=r"the generation release-1-\S+ in .*: millrace serve$") as error:
        backends.metadata()
    assert "opensesame" not in str(error.value)
    ready = client.get("/ready")
    assert (ready.status_code, ready.json()["error_type"]) == (503, "OnlineStoreDamagedError")
    for store in (known, registry.open_store()):  # one that is reading it, and one that begins to
        try:
            assert online(store, SPEND, guest_id=1) == 0.05  # what is still there may be read, and is never NULL
        except OnlineStoreDamagedError:
            continue
    answer = client.post("/get-online-features", json={"features": [SPEND], "entities": {"guest_id": [1]}})
    assert (answer.status_code, answer.json().get("error_type")) in [(200, None), (503, "OnlineStoreDamagedError")]
    with pytest.raises(OnlineStoreDamagedError):
        push(known, 1, at("2017-01-08"), 1.5)

    assert {view.status for view in materialize.materialize(release.read()).views} == {"published"}
    assert client.get("/ready").status_code == 200
    for store in (known, registry.open_store()):
        assert online(store, SPEND, guest_id=1) == 0.05
        assert online(store, "guest_profile:age_band", guest_id=1) == "25-34"


def test_a_bucket_of_many_that_is_lost_is_noticed(in_redis: RedisBackend) -> None:
    """As a Redis loses it that was allowed to evict keys after the load."""
    name = published(in_redis, ONE, [(key, 1, None, key) for key in range(2_000)])
    with in_redis.drafting("test") as draft:
        draft.load(ONE, [[(key, 1, None, key) for key in range(2_000)]])
        draft.finish(generation.GenerationMetadata(rows={"one": 2_000}))
        draft.publish()
    reader = in_redis.session().reader()
    keys = [(key,) for key in range(2_000)]
    assert all(reader.rows(ONE, ("value",), keys))
    assert reader.rows(ONE, ("value",), [(5_000,)]) == [None]
    in_redis.client.delete(f"millrace:{draft.name}:one:3")
    with pytest.raises(OnlineStoreDamagedError, match="is torn: it lacks one"):
        reader.rows(ONE, ("value",), keys)
    with pytest.raises(OnlineStoreDamagedError, match="is torn: it lacks one"):
        in_redis.metadata()
    with pytest.raises(OnlineStoreDamagedError):  # nor do pushed rows take the place of those that were lost
        in_redis.merge(ONE, [(key, 2, None, key) for key in range(2_000)])
    assert all(in_redis.open(name).rows(ONE, ("value",), keys))


def test_a_view_without_rows_or_one_that_was_dropped_is_no_damage(there: OnlineBackend, cinema: Lake) -> None:
    published(there, ONE, [])
    assert values(there, ONE, [(1,)]) == [None]
    there.merge(ONE, [(1, 5, None, 10)])
    assert values(there, ONE, [(1,), (2,)]) == [(5, 10), None]
    reader = there.session().reader()
    there.drop(["one"])
    assert reader.rows(ONE, ("value",), [(1,)]) == [None]
    assert there.session().reader().rows(ONE, ("value",), [(1,)]) == [None]
    assert there.metadata() is not None
    there.merge(ONE, [(2, 5, None, 10)])
    assert values(there, ONE, [(1,), (2,)]) == [None, (5, 10)]


@pytest.mark.parametrize("server", ["redis", "postgresql"], indirect=True)
@pytest.mark.parametrize("next_release", [True, False])
def test_a_row_that_was_deleted_is_back_after_the_next_release_or_a_fresh_load(
    there: OnlineBackend, cinema: Lake, next_release: bool
) -> None:
    """The next release begins with the rows of this one; a sample finds that one is missing, and all are loaded."""
    first = release.read()
    before = replace(first, horizon=str(date.fromisoformat(first.horizon) - DAY))
    materialize.materialize(before if next_release else first)
    expected = online(registry.open_store(), SPEND, guest_id=1)
    assert expected is not None
    name = backends.current()
    if isinstance(there, RedisBackend):
        key = msgspec.msgpack.encode((1,))
        assert sum(
            there.client.hdel(bucket, key) for bucket in there.client.scan_iter(f"millrace:{name}:guest_activity:*")
        )
    else:
        damage(there, name or "", "a row")
    assert online(registry.open_store(), SPEND, guest_id=1) is None
    done = materialize.materialize(first, fresh=not next_release)
    assert {report.status for report in done.views} == {materialize.PUBLISHED}
    assert online(registry.open_store(), SPEND, guest_id=1) is not None

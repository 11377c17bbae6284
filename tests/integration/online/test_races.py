"""Who comes at a bad moment: a reader whose generation is gone before its first question, two loaders of which one lost
its lease, pushes while a generation is copied, a removal while one is loaded.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import psycopg
import pytest
from feast.types import Float64, Int64, String
from redis.connection import Connection

from features.online import backends, delta_changes, materialize, redis
from features.online.generation import (
    GenerationGoneError,
    GenerationMetadata,
    OnlineBackend,
    OnlineStoreOwnedError,
    OnlineStoreUnreachableError,
    RowSchema,
)
from features.online.postgres import PostgresBackend
from features.online.redis import RedisBackend
from features.online.sqlite import SqliteBackend
from features.online.store import PackedOnlineStore, row_schema_of
from features.type_mapping import TYPE_MAPPINGS
from lake import settings
from tests.integration.online.test_places import ONE, published, traces, values
from tests.unit.features.online.test_delta_changes import THINGS, Things


@pytest.mark.parametrize(
    "ask",
    [lambda reader: reader.rows(ONE, ("value",), [(1,)]), lambda reader: reader.keys(ONE, None)],
    ids=["rows", "keys"],
)
def test_a_generation_that_is_gone_before_the_first_question_is_never_an_absent_value(
    there: OnlineBackend, ask: Callable[[Any], Any]
) -> None:
    published(there, ONE, [(1, 5, None, 10)])
    reader = there.session().reader()
    for value in (20, 30):
        published(there, ONE, [(1, 5, None, value)])
    with pytest.raises(GenerationGoneError, match="was removed"):
        ask(reader)


def test_a_feature_asked_for_late_is_not_absent_because_the_generation_is_gone(there: OnlineBackend) -> None:
    published(there, ONE, [(1, 5, None, 10)])
    reader = there.session().reader()
    assert reader.rows(ONE, ("value",), [(1,)]) == [(5, 10)]
    for value in (20, 30):
        published(there, ONE, [(1, 5, None, value)])
    wider = RowSchema("one", ONE.keys, {**ONE.features, "more": TYPE_MAPPINGS[String]})
    with pytest.raises(GenerationGoneError):
        reader.rows(wider, ("value", "more"), [(1,)])


def test_a_loader_that_lost_its_lease_removes_what_it_wrote_and_nothing_else(in_redis: RedisBackend) -> None:
    """Stopped for longer than its lease, it goes on with a batch while another one loads."""
    later = in_redis.drafting("quick")

    def batches() -> Iterator[Any]:
        nonlocal quick
        yield [(1, 6, None, 11)]
        yield [(2, 6, None, 11)]
        in_redis.client.delete(redis.LOCK)  # as when it runs out
        quick = later.__enter__()
        quick.load(ONE, [[(1, 7, None, 12)]])
        yield [(3, 6, None, 11)]

    quick: Any = None
    with in_redis.drafting("slow") as slow:
        slow.load(ONE, batches())
        with pytest.raises(OnlineStoreUnreachableError, match="lease ran out"), in_redis.translate_errors():
            slow.load(RowSchema("other", ONE.keys, ONE.features), [])
    quick.finish(GenerationMetadata())
    quick.publish()
    later.__exit__(None, None, None)
    assert values(in_redis, ONE, [(1,)]) == [(7, 12)]
    assert not traces(in_redis, slow.name)


def test_taking_everything_offline_waits_for_the_loader(place: OnlineBackend) -> None:
    """Otherwise it would remove what the loader has drafted, which then would publish the rest."""
    published(place, ONE, [(1, 5, None, 10)])
    removed = threading.Event()

    def remove() -> None:
        place.remove_all()
        removed.set()

    with place.drafting("test") as draft:
        draft.load(ONE, [[(1, 6, None, 11)]])
        draft.finish(GenerationMetadata())
        removing = threading.Thread(target=remove)
        removing.start()
        assert not removed.wait(0.5)
        draft.publish()
        assert values(place, ONE, [(1,)]) == [(6, 11)]
    removing.join()
    assert place.current() is None


def test_another_project_that_is_served_while_a_loader_waits_is_left_alone(place: OnlineBackend) -> None:
    """Both found the store empty; the one that gets the lock later sees that it is taken."""
    things = Things()
    with ThreadPoolExecutor(1) as pool, place.drafting("bakery") as draft:
        loading = pool.submit(materialize.load, things.pinned(), [THINGS], "as defined")
        time.sleep(0.5)
        assert not loading.done()
        draft.finish(GenerationMetadata(project="bakery"))
        draft.publish()
    with pytest.raises(OnlineStoreOwnedError, match="features of the project bakery"):
        loading.result()
    assert place.current() == draft.name


def test_what_is_pushed_while_the_next_generation_is_made_goes_with_it(
    place: OnlineBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of the generation in use are copied, and a push that comes just before is copied along."""
    things = Things()
    materialize.load(things.pinned(), [THINGS], "as defined")
    things.step("append", [(3, 0, 1, 7)])
    between = delta_changes.between

    def pushing(*given: Any) -> Any:
        monkeypatch.setattr(delta_changes, "between", between)
        place.merge(row_schema_of(THINGS), [(4, 2**60, None, 99)])
        return between(*given)

    copy_from: Any = None

    def copying(draft: Any, name: str) -> None:
        place.merge(row_schema_of(THINGS), [(4, 2**60, None, 99)])
        copy_from(draft, name)

    if isinstance(place, SqliteBackend):
        from features.online.sqlite import SqliteDraft

        copy_from = SqliteDraft.copy_from
        monkeypatch.setattr(SqliteDraft, "copy_from", copying)
    else:
        monkeypatch.setattr(delta_changes, "between", pushing)
    [report] = materialize.load(things.pinned(), [THINGS], "as defined")
    assert report.rows == 12
    assert values(place, row_schema_of(THINGS), [(3,), (4,)]) == [
        (1_483_228_800_000_000, 7),
        (1_483_228_800_000_000, 0),
    ]
    about = place.metadata()
    assert about is not None
    assert not about.pushed


def test_pushes_of_two_definitions_at_once_do_not_mix_their_features(place: OnlineBackend) -> None:
    published(place, ONE, [])
    layouts = {
        name: RowSchema("one", ONE.keys, {**ONE.features, name: TYPE_MAPPINGS[Int64]})
        for name in (f"f{number}" for number in range(12))
    }
    together = threading.Barrier(len(layouts))

    def push(at: int, name: str) -> None:
        together.wait()
        place.merge(layouts[name], [(at, 5, None, at, 100 + at)])

    with ThreadPoolExecutor(len(layouts)) as pool:
        list(pool.map(push, range(12), layouts))
    for at, name in enumerate(layouts):
        assert place.session().reader().rows(layouts[name], ("value", name), [(at,)]) == [(5, at, 100 + at)]


def test_a_view_that_was_dropped_is_loaded_again_by_the_same_release(place: OnlineBackend) -> None:
    things = Things()
    materialize.load(things.pinned(), [THINGS], "as defined")
    place.drop(["things"])
    assert {view.status for view in materialize.load(things.pinned(), [THINGS], "as defined")} == {"published"}
    assert values(place, row_schema_of(THINGS), [(3,)]) == [(1_483_228_800_000_000, 0)]


def test_a_view_that_was_dropped_is_absent_for_who_read_it_before(place: OnlineBackend) -> None:
    published(place, ONE, [(1, 5, None, 10)])
    store = PackedOnlineStore()

    def read() -> Any:
        return store._retry_once(lambda: store._newest_reader().rows(ONE, ("value",), [(1,)]))

    assert read() == [(5, 10)]
    place.drop(["one"])
    assert read() == [None]
    place.merge(ONE, [(1, 6, None, 11)])
    assert read() == [(6, 11)]


def test_a_store_that_was_open_before_a_fork_reads_on_in_both(place: OnlineBackend) -> None:
    published(place, ONE, [(1, 5, None, 10)])
    store = PackedOnlineStore()

    def read() -> Any:
        return store._newest_reader().rows(ONE, ("value",), [(1,)])

    assert read() == [(5, 10)]
    child = os.fork()
    if not child:
        os._exit(0 if all(read() == [(5, 10)] for _ in range(20)) else 1)
    assert all(read() == [(5, 10)] for _ in range(20))
    assert os.waitpid(child, 0)[1] == 0
    assert read() == [(5, 10)]


def test_a_schema_of_somebody_else_is_left_alone(in_postgres: PostgresBackend) -> None:
    with psycopg.connect(settings.online(), autocommit=True) as other:
        other.execute("CREATE SCHEMA millrace_reports CREATE TABLE totals (total int)")
        try:
            published(in_postgres, ONE, [])
            in_postgres.remove_all()
            assert other.execute("SELECT to_regclass('millrace_reports.totals') IS NOT NULL").fetchone() == (True,)
        finally:
            other.execute("DROP SCHEMA IF EXISTS millrace_reports CASCADE")


def test_changed_keys_with_null_among_them_remove_no_others(place: OnlineBackend) -> None:
    """NULL is in no list, and no row is not in a list with NULL."""
    former = published(place, ONE, [(1, 5, None, 10), (2, 5, None, 20)])
    with place.drafting("test") as draft:
        draft.copy_from(former)
        assert draft.apply_changes(ONE, [(None,), (2,)], [[(2, 6, None, 21)]]) == 2
        draft.finish(GenerationMetadata())
        draft.publish()
    assert values(place, ONE, [(1,), (2,)]) == [(5, 10), (6, 21)]


ODD = RowSchema("100% of it", {"a % key": TYPE_MAPPINGS[String]}, {"share_%s": TYPE_MAPPINGS[Float64]})


def test_names_with_a_per_cent_sign_are_names(place: OnlineBackend) -> None:
    former = published(place, ODD, [("50%", 5, None, 0.5)])
    place.merge(ODD, [("%s", 5, None, 0.25)])
    assert values(place, ODD, [("50%",), ("%s",)]) == [(5, 0.5), (5, 0.25)]
    with place.drafting("test") as draft:
        draft.copy_from(former)
        assert draft.apply_changes(ODD, [("%s",)], []) == 1


STEPS = {
    "redis": (Connection, "send_packed_command"),
    "postgresql": (psycopg.Connection, "wait"),
    "sqlite": (os, "fsync"),
}


def lived(step: int, module: Any, name: str, work: Callable[[], Any]) -> bool:
    """Do the work in a child that is killed before its `step`-th call of that function; whether there were fewer."""
    child = os.fork()
    if not child:
        right, calls = getattr(module, name), 0

        def counted(*given: Any, **named: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return right(*given, **named)

        setattr(module, name, counted)
        with suppress(BaseException):
            work()
            os._exit(0)
        os._exit(1)
    ended = os.waitpid(child, 0)[1]
    assert ended in (0, signal.SIGKILL)
    return ended == 0


def test_a_loader_that_is_killed_at_any_step_leaves_one_generation_or_the_other(place: OnlineBackend) -> None:
    """Before each command that it sends to the server, and each time it has a file brought to the disk."""
    many = [(key, 5, None, 0) for key in range(300)]
    former = published(place, ONE, many)
    kind = settings.online().partition(":")[0]

    def load() -> None:
        with backends.configured().drafting("test") as draft:
            draft.copy_from(former)
            draft.apply_changes(ONE, [(key,) for key in range(300)], [[(key, 6, None, 1) for key in range(300)]])
            draft.load(RowSchema("two", ONE.keys, ONE.features), [many])
            draft.finish(GenerationMetadata())
            draft.publish()

    for step in range(1, 200):
        done, seen = lived(step, *STEPS[kind], load), {*values(place, ONE, [(key,) for key in range(300)])}
        assert seen in ({(5, 0)}, {(6, 1)})
        if seen == {(6, 1)}:
            assert {*values(place, RowSchema("two", ONE.keys, ONE.features), [(key,) for key in range(300)])} == {
                (5, 0)
            }
        if done:
            break
        if isinstance(place, RedisBackend):
            place.client.delete(redis.LOCK)  # as when it runs out
        if seen == {(6, 1)}:
            former = published(place, ONE, many)
    assert done
    assert step > 3
    place.remove_all()
    assert not traces(place, "test-")


def test_a_push_that_is_killed_at_any_step_is_whole_or_not_there(place: OnlineBackend) -> None:
    published(place, ONE, [(key, 5, None, 0) for key in range(300)])
    kind = settings.online().partition(":")[0]
    for step in range(1, 200):
        done = lived(step, *STEPS[kind], lambda: place.merge(ONE, [(key, 6, None, 1) for key in range(300)]))
        assert {*values(place, ONE, [(key,) for key in range(300)])} in ({(5, 0)}, {(6, 1)})
        if done:
            break
    assert done

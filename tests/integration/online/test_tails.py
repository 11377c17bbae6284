"""Tails in the three stores, against a dictionary: a step is taken whole or not at all, and by one of several
workers.
"""

import os
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from features.online.generation import (
    GenerationMetadata,
    OnlineBackend,
    OnlineStoreUnfitError,
    OnlineStoreUnreachableError,
)
from features.online.postgres import BoundedConnection, PostgresBackend
from features.online.redis import RedisBackend
from features.streaming import redis as redis_tails
from features.streaming.redis import RedisTailStore
from features.streaming.tail_store import Advance, Entry, FencedError, Position, TailRows
from tests import patience
from tests.integration.online.test_places import ONE, published
from tests.servers import Redis

TAIL, OTHER = "view-1", "view-2"
KEYS = [b"a", b"\x00 :\xff", b"\xc4\x81"]
BEGUN = Position(7, 10, 10)


@pytest.fixture
def backend(place: OnlineBackend) -> OnlineBackend:
    """A store with a generation in use."""
    published(place, ONE, [(1, 0, None, 1)])
    return place


def rows(backend: OnlineBackend, tail: str = TAIL, keys: Sequence[bytes] = KEYS) -> TailRows | None:
    return backend.session().reader().tail_rows(tail, keys)


def contents(backend: OnlineBackend, tail: str = TAIL, keys: Sequence[bytes] = KEYS) -> list[list[Entry]]:
    """The entries of each key, sorted."""
    found = rows(backend, tail, keys)
    assert found
    return [sorted(entries) for entries in found.entries]


def begin(backend: OnlineBackend, partitions: Sequence[int] = (0,), tail: str = TAIL) -> None:
    backend.tails().advance([Advance(tail, p, None, BEGUN, clears=True) for p in partitions])


def step(start: int, *keys: bytes, partition: int = 0, tail: str = TAIL, identity: int = 7, **other: Any) -> Advance:
    """One message for each key, from an offset on."""
    entries = [(key, offset, b"%d" % offset) for offset, key in enumerate(keys, start)]
    expected = Position(identity, 0, start)
    return Advance(tail, partition, expected, Position(identity, 0, start + len(keys)), entries, **other)


def test_entries_and_positions_come_back(backend: OnlineBackend) -> None:
    store = backend.tails()
    assert (store.positions(TAIL), rows(backend)) == ({}, None)
    begin(backend, (0, 300))
    assert rows(backend) == TailRows({0: 7, 300: 7}, [[], [], []])
    store.advance([step(10, KEYS[0], KEYS[1], KEYS[0]), step(10, KEYS[1], partition=300)])
    assert store.positions(TAIL) == {0: Position(7, 10, 13), 300: Position(7, 10, 11)}
    assert contents(backend) == [[(0, 10, b"10"), (0, 12, b"12")], [(0, 11, b"11"), (300, 10, b"10")], []]
    assert contents(backend, keys=[KEYS[1], b"unknown", KEYS[1]]) == [contents(backend)[1], [], contents(backend)[1]]
    assert (store.positions(OTHER), rows(backend, OTHER)) == ({}, None)


def test_large_numbers_are_exact(backend: OnlineBackend) -> None:
    identity, start = 2**63 - 1, 2**53 - 3
    position = Position(identity, start, start)
    backend.tails().advance([Advance(TAIL, 0, None, position, clears=True)])
    backend.tails().advance([step(start, *KEYS[:2], identity=identity)])
    with pytest.raises(FencedError):
        backend.tails().advance([step(start + 2, *KEYS[:2], identity=identity - 1)])
    assert backend.tails().positions(TAIL) == {0: Position(identity, start, start + 2)}
    backend.tails().trim(TAIL, identity, {0: start + 1})
    assert contents(backend) == [[], [(0, start + 1, b"%d" % (start + 1))], []]


@pytest.mark.parametrize(
    "wrong",
    [
        step(9, KEYS[0]),
        step(11, KEYS[0]),
        step(10, KEYS[0], identity=8),
        Advance(TAIL, 0, None, Position(7, 10, 11), [(KEYS[0], 10, b"")]),
        Advance(TAIL, 1, BEGUN, Position(7, 10, 11), [(KEYS[0], 10, b"")]),
        Advance(TAIL, 0, Position(7, 10, 9), Position(7, 0, 0), clears=True),
    ],
)
def test_a_fenced_step_takes_no_other_one_with_it(backend: OnlineBackend, wrong: Advance) -> None:
    begin(backend, (0, 2))
    begin(backend, tail=OTHER)
    good = [step(10, KEYS[0], partition=2), step(10, KEYS[0], tail=OTHER)]
    for steps in ([*good, wrong], [wrong, *good]):
        with pytest.raises(FencedError, match=r"not at"):
            backend.tails().advance(steps)
        assert backend.tails().positions(TAIL) == {0: BEGUN, 2: BEGUN}
        assert contents(backend) == contents(backend, OTHER) == [[], [], []]


def test_clearing_removes_the_events_of_one_partition(backend: OnlineBackend) -> None:
    begin(backend, (0, 1))
    backend.tails().advance([step(10, *KEYS), step(10, *KEYS, partition=1)])
    again = Position(8, 4, 4)
    backend.tails().advance([Advance(TAIL, 0, Position(7, 10, 13), again, clears=True)])
    assert backend.tails().positions(TAIL) == {0: again, 1: Position(7, 10, 13)}
    assert [[entry.partition for entry in entries] for entries in contents(backend)] == [[1]] * 3
    backend.tails().advance([step(4, *KEYS * 3, identity=8)])  # the same offsets, and other messages
    assert [entry[:2] for entry in contents(backend)[0]] == [(0, 4), (0, 7), (0, 10), (1, 10)]


def test_trimming_moves_complete_from_forward_alone(backend: OnlineBackend) -> None:
    begin(backend, (0, 1))
    backend.tails().advance([step(10, *KEYS * 2), step(10, *KEYS, partition=1)])
    for offset in (14, 12, 10):
        backend.tails().trim(TAIL, 7, {0: offset, 5: 99})
        assert backend.tails().positions(TAIL) == {0: Position(7, 14, 16), 1: Position(7, 10, 13)}
        assert [[entry[:2] for entry in entries] for entries in contents(backend)] == [
            [(1, 10)],
            [(0, 14), (1, 11)],
            [(0, 15), (1, 12)],
        ]
    backend.tails().advance([step(16, *KEYS)])
    assert backend.tails().positions(TAIL)[0] == Position(7, 14, 19)


def test_other_tails_are_removed(backend: OnlineBackend) -> None:
    for tail in (TAIL, OTHER, "view-3"):
        begin(backend, (0, 1), tail)
        backend.tails().advance([step(10, *KEYS, tail=tail)])
    assert sorted(backend.tails().remove([OTHER, "unknown"])) == [TAIL, "view-3"]
    assert backend.tails().remove([OTHER]) == []
    assert (backend.tails().positions(TAIL), rows(backend)) == ({}, None)
    assert len(contents(backend, OTHER)[0]) == 1
    begin(backend)
    assert contents(backend) == [[], [], []]


def test_taking_everything_offline_removes_tails(backend: OnlineBackend) -> None:
    begin(backend)
    backend.tails().advance([step(10, *KEYS)])
    backend.remove_all()
    assert backend.tails().positions(TAIL) == {}
    published(backend, ONE, [(1, 0, None, 1)])
    assert rows(backend) is None


def test_a_reader_knows_what_its_generation_was_made_from(place: OnlineBackend) -> None:
    streams = {"view": {"identity": 2**63 - 1, "offsets": {"0": 3}}}
    published(place, ONE, [(1, 0, None, 1)], streams=streams)
    assert (
        place.session().reader().metadata() == place.metadata() == GenerationMetadata(rows={"one": 1}, streams=streams)
    )


def test_large_batches_and_many_keys(backend: OnlineBackend) -> None:
    keys = [b"key %d" % (number % 4_001) for number in range(20_000)]
    begin(backend, (0, 1))
    backend.tails().advance([step(10, *keys[:10_000]), step(10, *keys[10_000:], partition=1)])
    found = contents(backend, keys=keys[:4_001])
    assert sum(map(len, found)) == 20_000
    expected = sorted((number // 10_000, 10 + number % 10_000) for number in range(17, 20_000, 4_001))
    assert [entry[:2] for entry in found[17]] == expected
    backend.tails().trim(TAIL, 7, {0: 10_000})
    assert Counter(entry.partition for entries in contents(backend, keys=keys[:4_001]) for entry in entries) == {
        0: 10,
        1: 10_000,
    }


Model = dict[tuple[str, int], tuple[Position, dict[int, bytes]]]
"""By tail and partition the position, and each offset's key."""
STEPS = st.lists(
    st.tuples(
        st.sampled_from([TAIL, OTHER]),
        st.integers(0, 2),
        st.sampled_from(["next", "next", "next", "clears", "wrong", "none"]),
        st.lists(st.sampled_from(KEYS), max_size=4),
    ),
    min_size=1,
    max_size=3,
)
ACTIONS = st.lists(
    STEPS
    | st.tuples(st.sampled_from([TAIL, OTHER]), st.integers(0, 2), st.integers(0, 12))
    | st.lists(st.sampled_from([TAIL, OTHER]), min_size=1, max_size=1).map(frozenset),
    max_size=10,
)


@given(ACTIONS)
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_course_of_steps_is_that_of_a_dictionary(backend: OnlineBackend, actions: list[Any]) -> None:
    backend.tails().remove([])
    model: Model = {}
    reader = backend.session().reader()
    for number, action in enumerate(actions):
        if isinstance(action, frozenset):
            removed = backend.tails().remove([*action])
            assert {*removed} == {tail for tail, _ in model} - action
            model = {at: kept for at, kept in model.items() if at[0] in action}
        elif isinstance(action, tuple):
            _trim(backend, model, *action)
        else:
            _advance(backend, model, action, number)
        for tail in (TAIL, OTHER):
            stored = {partition: position for (of, partition), (position, _) in model.items() if of == tail}
            assert backend.tails().positions(tail) == stored
            found = reader.tail_rows(tail, KEYS)
            assert (found is None) == (not stored)
            if found:
                assert list(map(sorted, found.entries)) == [_expected(model, tail, key) for key in KEYS]


def _expected(model: Model, tail: str, key: bytes) -> list[tuple[int, int, bytes]]:
    return sorted(
        (partition, offset, b"%d" % offset)
        for (of, partition), (_, entries) in model.items()
        for offset, of_key in entries.items()
        if (of, of_key) == (tail, key)
    )


def _trim(backend: OnlineBackend, model: Model, tail: str, partition: int, offset: int) -> None:
    position, entries = model.get((tail, partition), (BEGUN, {}))
    offset = min(offset, position.next_offset)
    backend.tails().trim(tail, position.identity + 1, {partition: offset})  # of another topic: nothing happens
    backend.tails().trim(tail, position.identity, {partition: offset})
    if (tail, partition) in model:
        moved = Position(position.identity, max(offset, position.complete_from), position.next_offset)
        model[tail, partition] = moved, {o: key for o, key in entries.items() if o >= offset}


def _advance(backend: OnlineBackend, model: Model, action: list[Any], number: int) -> None:
    draft, steps, fenced = dict(model), [], False
    for tail, partition, how, keys in action:
        stored, entries = draft.get((tail, partition), (None, {}))
        expected = {"wrong": Position(1, 0, 99), "none": None}.get(how, stored)
        fenced = fenced or expected != stored
        begins = how == "clears" or stored is None
        start = number % 3 if begins else stored.next_offset
        new = dict(enumerate(keys, start))
        identity = number if begins else stored.identity
        reached = Position(identity, start if begins else 0, start + len(keys))
        triples = [(key, offset, b"%d" % offset) for offset, key in new.items()]
        steps.append(Advance(tail, partition, expected, reached, triples, clears=begins))
        kept = start if begins else stored.complete_from
        draft[tail, partition] = Position(identity, kept, reached.next_offset), new if begins else entries | new
    try:
        backend.tails().advance(steps)
    except FencedError:
        assert fenced
    else:
        assert not fenced
        model.clear()
        model.update(draft)


def test_of_workers_on_one_partition_one_takes_each_offset(backend: OnlineBackend) -> None:
    """While tails are trimmed and their events read."""
    begin(backend, range(3))
    ended, taken = threading.Event(), []

    def work(seed: int) -> None:
        draw = random.Random(seed)
        for _ in range(25):
            order = draw.sample(range(3), 3)  # each worker names the partitions in another order
            positions = backend.tails().positions(TAIL)
            steps = [step(positions[p].next_offset, *KEYS[: draw.randint(1, 3)], partition=p) for p in order]
            with suppress(FencedError):
                backend.tails().advance(steps)
                taken.extend((s.partition, offset, key) for s in steps for key, offset, _ in s.entries)

    def look() -> None:
        while not ended.is_set():
            for positions in [backend.tails().positions(TAIL)]:
                for entry in (entry for entries in contents(backend) for entry in entries):
                    assert entry.offset >= positions[entry.partition].complete_from - 20
            backend.tails().trim(TAIL, 7, {p: at.next_offset - 20 for p, at in positions.items()})
            time.sleep(0.01)

    with ThreadPoolExecutor(5) as pool:
        looking = pool.submit(look)
        try:
            for worked in [pool.submit(work, seed) for seed in range(4)]:
                worked.result()
        finally:
            ended.set()
        looking.result()
    assert len({at[:2] for at in taken}) == len(taken) >= 25
    stored = {
        (entry[0], entry[1], key) for key, entries in zip(KEYS, contents(backend), strict=True) for entry in entries
    }
    positions = backend.tails().positions(TAIL)
    assert stored == {at for at in taken if at[1] >= positions[at[0]].complete_from}


def test_of_workers_that_begin_a_tail_at_once_one_does(backend: OnlineBackend) -> None:
    """Each with connections of its own, and where the store has no table yet as well."""
    backend.remove_all()
    if isinstance(backend, PostgresBackend):
        with backend.connected(BoundedConnection) as connection:
            connection.execute("DROP TABLE IF EXISTS millrace.tail_positions, millrace.tail_entries")
    together = threading.Barrier(4)

    def work() -> bool:
        own = type(backend)(*filter(None, [os.environ["MILLRACE_ONLINE"].removeprefix("sqlite")]))
        steps = [Advance(TAIL, n, None, Position(7, 1, 1), [(KEYS[0], 1, b"")], clears=True) for n in range(3)]
        together.wait()
        with suppress(FencedError):
            own.tails().advance(steps)
            return True
        return False

    with ThreadPoolExecutor(4) as pool:
        assert sorted(worked.result() for worked in [pool.submit(work) for _ in range(4)]) == [False] * 3 + [True]
    published(backend, ONE, [(1, 0, None, 1)])
    assert contents(backend)[0] == [(0, 1, b""), (1, 1, b""), (2, 1, b"")]


class Killing(list[Any]):
    """Entries in the middle of which the server ends the connection that writes them."""

    def __init__(self, entries: Sequence[Any], kill: Callable[[], object]) -> None:
        super().__init__(entries)
        self._kill = kill

    def __iter__(self) -> Iterator[Any]:
        for number, entry in enumerate(super().__iter__()):
            if number == len(self) // 2:
                self._kill()
            yield entry


def test_a_connection_that_is_killed_in_the_middle_leaves_nothing(in_postgres: PostgresBackend) -> None:
    published(in_postgres, ONE, [(1, 0, None, 1)])
    begin(in_postgres, (0, 1))
    killed = []

    def kill() -> None:
        sql = (
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND state = 'active' AND query LIKE 'COPY%tail_entries%'"
        )
        with in_postgres.connected(BoundedConnection) as connection:
            killed.append(connection.execute(sql).fetchone())

    keys = [b"key %d" % number for number in range(50_000)]
    good, bad = step(10, *KEYS), step(10, *keys, partition=1)
    with pytest.raises(OnlineStoreUnreachableError):
        in_postgres.tails().advance([good, replace(bad, entries=Killing(bad.entries, kill))])
    assert killed[0] == (1,)
    assert in_postgres.tails().positions(TAIL) == {0: BEGUN, 1: BEGUN}
    assert contents(in_postgres) == [[], [], []]
    in_postgres.tails().advance([good, bad])
    assert len(contents(in_postgres, keys=keys[-1:])[0]) == 1


def test_a_server_that_is_gone_is_an_error_and_one_that_came_back_goes_on(server: Any, there: OnlineBackend) -> None:
    published(there, ONE, [(1, 0, None, 1)])
    begin(there)
    reader, store = there.session().reader(), there.tails()
    server.stop()
    try:
        for call in (
            lambda: store.positions(TAIL),
            lambda: store.advance([step(10, *KEYS)]),
            lambda: store.trim(TAIL, 7, {0: 11}),
            lambda: store.remove([]),
            lambda: reader.tail_rows(TAIL, KEYS),
        ):
            with pytest.raises(OnlineStoreUnreachableError) as said:
                call()
            assert "opensesame" not in str(said.value)
    finally:
        server.start()
    store.advance([step(10, *KEYS)])
    assert [len(entries) for entries in contents(there)] == [1, 1, 1]


def test_a_redis_that_has_forgotten_its_scripts_is_told_them_again(in_redis: RedisBackend) -> None:
    published(in_redis, ONE, [(1, 0, None, 1)])
    for call in (
        lambda: begin(in_redis),
        lambda: in_redis.tails().advance([step(10, *KEYS)]),
        lambda: in_redis.tails().trim(TAIL, 7, {0: 11}),
        lambda: in_redis.tails().remove([]),
    ):
        in_redis.client.script_flush()
        call()
    assert traces(in_redis) == []


def traces(backend: RedisBackend) -> list[Any]:
    """Keys of tails."""
    return [*backend.client.scan_iter("millrace:tail*")]


@pytest.mark.parametrize("piece", [1, 2, 1_000])
def test_what_counts_no_more_is_deleted_from_redis(
    in_redis: RedisBackend, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(redis_tails, "PIECE", piece)
    published(in_redis, ONE, [(1, 0, None, 1)])
    begin(in_redis, (0, 1))
    in_redis.tails().advance([step(10, *KEYS * 2), step(10, *KEYS, partition=1)])
    assert events_in(in_redis) == 9
    in_redis.tails().trim(TAIL, 7, {0: 15, 1: 11})
    assert events_in(in_redis) == 3
    in_redis.tails().advance([Advance(TAIL, 0, Position(7, 15, 16), BEGUN, clears=True)])
    assert events_in(in_redis) == 2
    in_redis.tails().remove([])
    assert traces(in_redis) == []


def test_a_killed_redis_that_has_lost_its_last_steps_fences_the_worker(
    lake: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are back at an earlier moment, positions and events: nothing is missing in between."""
    with Redis() as server:
        backend = RedisBackend(server.url)
        published(backend, ONE, [(1, 0, None, 1)])
        begin(backend)
        backend.tails().advance([step(10, *KEYS)])
        backend.client.config_set("appendfsync", "always")
        shutil.copytree(server.folder, server.folder.with_name(f"{server.folder.name}-copy"))
        copy = server.folder.with_name(f"{server.folder.name}-copy")
        backend.tails().advance([step(13, *KEYS)])
        backend.tails().trim(TAIL, 7, {0: 15})
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        shutil.rmtree(server.folder)
        copy.rename(server.folder)
        server.start()
        with pytest.raises(FencedError):
            backend.tails().advance([step(16, *KEYS)])
        assert backend.tails().positions(TAIL) == {0: Position(7, 10, 13)}
        backend.tails().advance([step(13, *KEYS * 2)])
        assert [[entry.offset for entry in entries] for entries in contents(backend)] == [
            [10, 13, 16],
            [11, 14, 17],
            [12, 15, 18],
        ]


def test_events_that_redis_has_yet_to_delete_do_not_count(
    in_redis: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a process that was killed before it deleted them; the next one deletes them too."""
    published(in_redis, ONE, [(1, 0, None, 1)])
    begin(in_redis, (0, 1, 2))
    in_redis.tails().advance([step(10, *KEYS, partition=partition) for partition in (0, 1, 2)])
    with monkeypatch.context() as patch:
        patch.setattr(RedisTailStore, "_collect_all", lambda *_: None)
        in_redis.tails().trim(TAIL, 7, {0: 12})
        in_redis.tails().advance([Advance(TAIL, 1, Position(7, 10, 13), BEGUN, clears=True)])
        in_redis.tails().advance([step(10, KEYS[2], KEYS[0], partition=1)])
    assert [[entry[:2] for entry in entries] for entries in contents(in_redis)] == [
        [(1, 11), (2, 10)],
        [(2, 11)],
        [(0, 12), (1, 10), (2, 12)],
    ]
    assert events_in(in_redis) == 11
    in_redis.tails().trim(TAIL, 7, {0: 13, 1: 11, 2: 13})
    assert events_in(in_redis) == 1


def events_in(backend: RedisBackend) -> int:
    return sum(backend.client.hlen(key) for key in backend.client.scan_iter("millrace:tail:*:entity:*"))


def test_of_two_that_delete_from_redis_at_once_none_leaves_events_behind(
    in_redis: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(in_redis, ONE, [(1, 0, None, 1)])
    begin(in_redis)
    in_redis.tails().advance([step(10, *KEYS * 2)])
    other, client = RedisBackend(os.environ["MILLRACE_ONLINE"]), in_redis.client
    read = client.lrange

    def read_and_wait(*arguments: Any) -> Any:
        """The other one deletes the first two, of which this one does not know, and is killed."""
        monkeypatch.setattr(client, "lrange", read)
        elements = read(*arguments)
        keys = [f"millrace:tail:{TAIL}:{part}".encode() for part in ("positions", "list:0", "entity:")]
        entities = [keys[2] + element[16:] for element in elements[:2]]
        assert other.tails()._collect(keys=[*keys[:2], *entities], args=[0, keys[2]]) == 2
        return elements

    monkeypatch.setattr(client, "lrange", read_and_wait)
    in_redis.tails().trim(TAIL, 7, {0: 15})
    in_redis.tails().trim(TAIL, 7, {0: 15})
    assert events_in(in_redis) == 1


def test_a_tail_of_redis_that_begins_while_it_is_removed_can_be_removed_later(
    in_redis: RedisBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(in_redis, ONE, [(1, 0, None, 1)])
    begin(in_redis)
    other = RedisBackend(os.environ["MILLRACE_ONLINE"])
    with monkeypatch.context() as patch:
        patch.setattr(in_redis.tails(), "_collect_all", lambda *_: begin(other))
        in_redis.tails().remove([])
    assert in_redis.tails().remove([]) == [TAIL]
    assert traces(in_redis) == []


def test_no_tail_begins_in_a_redis_that_evicts_keys(in_redis: RedisBackend) -> None:
    in_redis.client.config_set("maxmemory", "1gb")
    in_redis.client.config_set("maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(OnlineStoreUnfitError, match="evicts keys"):
            begin(in_redis)
    finally:
        in_redis.client.config_set("maxmemory-policy", "noeviction")
        in_redis.client.config_set("maxmemory", "0")
    assert traces(in_redis) == []


def test_a_step_that_deadlocks_in_postgres_is_tried_again(in_postgres: PostgresBackend) -> None:
    """With a client that locks positions in another order."""
    published(in_postgres, ONE, [(1, 0, None, 1)])
    begin(in_postgres, (0, 1))
    lock = "SELECT FROM millrace.tail_positions WHERE partition = %s FOR UPDATE"
    waiting = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
    with in_postgres.connected(BoundedConnection) as watching, ThreadPoolExecutor(1) as pool:
        for start in range(10, 40, 3):
            steps = [step(start, *KEYS), step(start, *KEYS, partition=1)]
            try:
                with in_postgres.connected(BoundedConnection) as other, other.transaction():
                    other.execute(lock, [1])
                    worked = pool.submit(in_postgres.tails().advance, steps)
                    patience.until(lambda: watching.execute(waiting).rowcount, "no step waits for a lock", every=0.01)
                    other.execute(lock, [0])
                break
            except OnlineStoreUnreachableError:  # on a slow machine PostgreSQL may end the other one
                continue
            finally:
                worked.result()
        else:
            pytest.fail("PostgreSQL has not ended a step")
    assert [len(entries) for entries in contents(in_postgres)] == [2 * (start - 7) // 3] * 3


def test_a_user_of_postgres_who_may_not_read_tails_is_told_so(
    in_postgres: PostgresBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    published(in_postgres, ONE, [(1, 0, None, 1)])
    begin(in_postgres)
    with in_postgres.connected(BoundedConnection) as connection:
        connection.execute("CREATE ROLE tail_reader LOGIN PASSWORD 'opensesame'")
        schema = f'"millrace_{in_postgres.current()}"'
        connection.execute(f"GRANT USAGE ON SCHEMA millrace, {schema} TO tail_reader")
        connection.execute(f"GRANT SELECT ON millrace.pointer, {schema}._generation, {schema}.one TO tail_reader")
        url = os.environ["MILLRACE_ONLINE"].replace("//millrace:", "//tail_reader:")
        reader = PostgresBackend(url).session().reader()
        with pytest.raises(OnlineStoreUnfitError, match=r"GRANT SELECT ON .*tail_entries"):
            reader.tail_rows(TAIL, KEYS)
        connection.execute("GRANT SELECT ON millrace.tail_positions, millrace.tail_entries TO tail_reader")
        assert reader.tail_rows(TAIL, KEYS) == TailRows({0: 7}, [[], [], []])
        connection.execute("DROP OWNED BY tail_reader")
        connection.execute("DROP ROLE tail_reader")

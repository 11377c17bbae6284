"""Single faults of the feature path, on a real Kafka: each message counts once, and what is missing is named."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from etl.sources import group
from etl.sources.group import GroupReader
from etl.sources.kafka import StreamError, UnreachableError
from etl.sources.messages import Message
from features import registry
from features.online import backends
from features.online.generation import OnlineStoreDamagedError
from features.serving.app import app
from features.streaming import handover, sqlite, tails
from features.streaming.tail_store import FencedError
from millrace import feature_worker, pipeline
from millrace.feature_worker import FeatureWorker, Source
from tests import patience
from tests.integration.streams.conftest import Row
from tests.integration.streams.test_feature_path import MINUTE, NOON, Shop, behind, publish, shop, store, work
from tests.integration.test_instants import SHOWN
from tests.integration.test_second_project import PLAYERS
from tests.projects import ARCADE

__all__ = ["shop", "store"]
PROJECT = ARCADE
MORNING = datetime(2021, 1, 3, tzinfo=UTC)


@dataclass
class Between:
    """A source that does something else between reading messages and handing them over, once."""

    source: Source
    work: Callable[[], Any]
    problem: str = ""
    began_again: int = 0

    def read(self, most: int, seconds: float) -> dict[str, list[Message]]:
        received = self.source.read(most, seconds)
        if received and self.work:
            self.work()
            self.work = lambda: None
        return received

    def assigned(self, topic: str) -> list[int]:
        return self.source.assigned(topic)

    def ends(self, topic: str) -> dict[int, int]:
        return self.source.ends(topic)

    def begin_again(self) -> None:
        self.began_again += 1
        self.source.begin_again()

    def acknowledge(self, topic: str, read: Mapping[int, int]) -> None:
        self.source.acknowledge(topic, read)

    def close(self) -> None:
        self.source.close()


@contextmanager
def member(name: str = "") -> Iterator[tuple[FeatureWorker, GroupReader]]:
    """A worker, and its source in a group of that name."""
    worker = FeatureWorker(feature_worker.tails_to_feed(), lambda _: None)
    source = GroupReader(worker.tables, name or feature_worker.group(), worker.starts)
    try:
        yield worker, source
    finally:
        source.close()


def step_until(condition: Callable[[], object], worker: FeatureWorker, source: Source) -> None:
    deadline = time.monotonic() + patience.SECONDS
    while not condition():
        assert time.monotonic() < deadline
        worker.step(source)


def positions() -> dict[int, int]:
    """The next offset of each partition in the only tail."""
    [tail] = tails.all_tails()
    return {p: at.next_offset for p, at in backends.configured().tails().positions(tail.name).items()}


def morning(shop: Shop, count: int) -> list[Row]:
    return shop.rounds(MORNING, count, minutes=12 * 60)


# --- workers


def test_a_zombie_is_fenced_and_reads_on_from_where_the_other_one_is(shop: Shop) -> None:
    shop.send(*morning(shop, 20))
    with member() as (zombie, source), member("another group, so that both have the partition") as (other, others):

        def overtake() -> None:
            step_until(lambda: not behind(shop.stream), other, others)
            shop.send(*morning(shop, 10))
            step_until(lambda: not behind(shop.stream), other, others)

        slow = Between(source, overtake)
        step_until(lambda: slow.began_again, zombie, slow)
        after = positions()
        assert sum(after.values()) == 30
        for _ in range(20):
            zombie.step(source)
        assert positions() == after
    assert shop.wrong(*shop.instants()) == []


def test_an_append_of_a_zombie_writes_nothing(shop: Shop) -> None:
    shop.send(*morning(shop, 20))
    with member() as (zombie, source), member("another") as (other, others):
        received: dict[str, list[Message]] = {}
        deadline = time.monotonic() + patience.SECONDS
        while not received:
            assert time.monotonic() < deadline
            received = source.read(5, 0.1)
        step_until(lambda: not behind(shop.stream), other, others)
        before = entries()
        with pytest.raises(FencedError):
            zombie._append(shop.stream.topic, received[shop.stream.topic])
        assert entries() == before


def entries() -> list[tuple[Any, ...]]:
    with sqlite3.connect(sqlite.path()) as connection:
        return connection.execute("SELECT * FROM entries").fetchall()


def test_workers_that_begin_a_tail_at_the_same_time(shop: Shop) -> None:
    shop.send(*morning(shop, 20))
    with member() as (first, source), member("another") as (second, others):
        store = first._backend.tails()
        advance, has_raced = type(store).advance, False

        def race(self: Any, steps: Any) -> None:
            nonlocal has_raced
            if not has_raced:
                has_raced = True
                step_until(lambda: len(positions()) == 2, second, others)
            advance(self, steps)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(store), "advance", race)
            step_until(lambda: has_raced and not behind(shop.stream), first, source)
    assert shop.wrong(*shop.instants()) == []


@pytest.mark.slow
def test_a_rollback_while_a_worker_begins_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tail begins again where the older release ends, not where the one does that is still online."""
    monkeypatch.setattr(feature_worker, "CHECK_SECONDS", 0.0)  # at each step, so before `behind` is asked
    shop.send(*morning(shop, 30))
    work(shop.stream)
    shop.stream.catch_up()
    publish("2021-01-01", "2021-01-04", "second")
    publish_twice(shop)
    prepare = handover.prepare
    with member() as (worker, source):
        step_until(lambda: source.assigned(shop.stream.topic), worker, source)

        def slow(*arguments: Any) -> None:
            prepare(*arguments)
            source.begin_again()  # it was fenced: the pointer has not moved yet

        monkeypatch.setattr(handover, "prepare", slow)
        pipeline.serve(1)
        monkeypatch.setattr(handover, "prepare", prepare)
        shop.send(*morning(shop, 2))
        step_until(lambda: not behind(shop.stream), worker, source)
    assert shop.wrong(*shop.instants()) == []


def publish_twice(shop: Shop) -> None:
    """Two more releases with messages, so that the first one's are no longer in the tail."""
    for number in range(2):
        shop.send(*morning(shop, 3))
        work(shop.stream)
        shop.stream.catch_up()
        publish("2021-01-01", "2021-01-04", f"more-{number}")


@pytest.mark.slow
def test_releases_are_served_while_a_worker_appends(shop: Shop) -> None:
    ended, failures = threading.Event(), list[BaseException]()

    def append() -> None:
        try:
            with member() as (worker, source):
                while not ended.is_set() or behind(shop.stream):
                    worker.step(source)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=append)
    thread.start()
    for number in range(2):
        shop.send(*morning(shop, 40))
        shop.stream.catch_up()
        publish("2021-01-01", "2021-01-04", f"while-{number}")
        shop.send(*morning(shop, 40))
    pipeline.serve(1)
    ended.set()
    thread.join()
    assert not failures
    assert shop.wrong(*shop.instants()) == []


# --- topics


@pytest.mark.slow
def test_a_topic_that_was_created_again_is_read_from_its_beginning(shop: Shop) -> None:
    """Also where it has more messages than the former one, so that its offsets go on."""
    kafka, topic = shop.stream.kafka, shop.stream.topic
    shop.send(*morning(shop, 20))
    shop.stream.catch_up()
    publish("2021-01-01", "2021-01-04", "second")
    with member() as (worker, source):
        step_until(lambda: not behind(shop.stream), worker, source)
        kafka.delete(topic)
        kafka.create_again(topic)
        shop.send(*morning(shop, 80))
        with suppress(UnreachableError):  # a partition that failed needs another reader
            step_until(lambda: not behind(shop.stream), worker, source)
    work(shop.stream)
    assert shop.wrong(*shop.instants()) == []


def test_messages_that_came_before_their_topic_was_looked_at_are_read_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would be appended where the tail of the other topic begins, and those before them would be missing."""
    shop.send(*morning(shop, 40))
    monkeypatch.setattr(feature_worker, "MOST_MESSAGES", 5)
    with member() as (worker, source):
        step_until(lambda: sum(positions().values()), worker, source)
        monkeypatch.setattr(group, "identity_of", lambda *_: 4_711)
        source._checked = float("-inf")
        step_until(lambda: not behind(shop.stream), worker, source)
    assert shop.wrong(*shop.instants()) == []


def test_messages_that_retention_has_passed_are_named_until_a_release_has_them(shop: Shop) -> None:
    shop.send(*morning(shop, 10))
    work(shop.stream)
    before = positions()
    late = [shop.round(MORNING, player=PLAYERS[0]) for _ in range(6)]
    shop.send(*late)
    shop.stream.catch_up()
    shop.stream.kafka.delete_before(shop.stream.topic, 0, before[0] + 4)
    with pytest.raises(StreamError, match=f"messages {before[0]} to {before[0] + 3} of partition 0 of"):
        work(shop.stream)
    publish("2021-01-01", "2021-01-04", "second")
    shop.send(*morning(shop, 10))
    work(shop.stream)
    assert shop.wrong(*shop.instants()) == []


def test_retention_of_messages_that_no_release_has(shop: Shop) -> None:
    """No release has read the topic: the gap is named all the same, and not passed over."""
    shop.send(*[shop.round(MORNING, player=PLAYERS[0]) for _ in range(3)])
    work(shop.stream)
    shop.send(*[shop.round(MORNING, player=PLAYERS[0]) for _ in range(6)])
    shop.stream.kafka.delete_before(shop.stream.topic, 0, 5)
    with pytest.raises(StreamError, match="messages 3 to 4 of partition 0 of"):
        work(shop.stream)


def test_a_partition_that_is_added_is_read_from_its_beginning(shop: Shop) -> None:
    shop.send(*morning(shop, 10))
    with member() as (worker, source):
        step_until(lambda: not behind(shop.stream), worker, source)
        shop.stream.kafka.add_partitions(shop.stream.topic, 3)
        row = shop.round(MORNING)
        patience.until(lambda: 2 in ranges(shop), "the partition was added")
        shop.stream.produce(row | {"ended_at": row["ended_at"].isoformat()}, partition=2)
        shop.counted[row["round"]] = row
        step_until(lambda: not behind(shop.stream), worker, source)
        assert source.assigned(shop.stream.topic) == [0, 1, 2]
    assert shop.wrong(*shop.instants()) == []


def ranges(shop: Shop) -> dict[int, tuple[int, int]]:
    reader = shop.stream.reader()
    try:
        return reader.ranges(shop.stream.table)
    finally:
        reader.close()


# --- messages


def test_large_odd_and_bad_messages(shop: Shop) -> None:
    """Ten megabytes, far in the future, before 1970, and one in ten unreadable."""
    moments = (datetime(2200, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC), MORNING)
    rows = [shop.round(at) for at in moments]
    shop.send(*rows)
    large = shop.round(MORNING)
    partition = PLAYERS.index(large["player"]) % 2
    shop.stream.produce(
        large | {"ended_at": large["ended_at"].isoformat(), "note": "x" * 10_000_000}, partition=partition
    )
    shop.counted[large["round"]] = large
    shop.stream.produce(b"x" * 10_000_000, partition=partition)
    for row in morning(shop, 30):
        shop.send(row)
        shop.stream.produce(b"poison", partition=0)
    work(shop.stream)
    instants = [*shop.instants(), datetime(2199, 12, 31, 23, 59, tzinfo=UTC)]
    assert shop.wrong(*instants) == []
    shop.stream.catch_up()
    publish("2021-01-01", "2021-01-04", "second")
    assert shop.wrong(*instants) == []


@pytest.mark.slow
def test_twenty_thousand_messages_of_one_player(shop: Shop) -> None:
    rows = [shop.round(MORNING + timedelta(seconds=n), player=PLAYERS[1]) for n in range(20_000)]
    values = [json.dumps(row | {"ended_at": row["ended_at"].isoformat()}).encode() for row in rows]
    shop.stream.kafka.produce(shop.stream.topic, *values, partition=1)
    shop.counted |= {row["round"]: row for row in rows}
    work(shop.stream)
    assert shop.wrong(MORNING + timedelta(seconds=12_345), NOON) == []


def test_the_server_answers_as_the_sdk_does(shop: Shop) -> None:
    names, store = [f"player_now:{name}" for name in SHOWN], registry.open_store()
    with TestClient(app(), base_url="http://127.0.0.1:6566", raise_server_exceptions=False) as client:

        def ask(**entities: Any) -> dict[str, list[Any]]:
            response = client.post("/get-online-features", json={"features": names, "entities": entities})
            assert response.status_code == 200, response.text
            body = response.json()
            known = body["metadata"]["feature_names"]
            return {name: body["results"][known.index(name)]["values"] for name in SHOWN}

        before = ask(player=PLAYERS, request_time=[NOON.isoformat()] * len(PLAYERS))
        shop.send(*morning(shop, 30))
        recent = shop.round(datetime.now(UTC) - MINUTE, player=PLAYERS[0], game="now")
        shop.send(recent)
        work(shop.stream)
        after = ask(player=PLAYERS, request_time=[NOON.isoformat()] * len(PLAYERS))
        rows = [{"player": player, "request_time": NOON} for player in PLAYERS]
        assert after == {name: store.get_online_features(names, rows).to_dict()[name] for name in SHOWN}
        assert after != before
        now = ask(player=PLAYERS)
        assert (now["rounds_now_10m"][0], now["newest_game_now"][0]) == (1, "now")
        assert now == {name: store.get_online_features(names, {"player": PLAYERS}).to_dict()[name] for name in SHOWN}
    assert shop.wrong(NOON) == []


def test_views_of_midnights_do_not_count_messages(shop: Shop) -> None:
    store, rows = registry.open_store(), {"player": PLAYERS}
    names = [f"player_rounds:{f.name}" for f in store.get_feature_view("player_rounds").features]
    before = store.get_online_features(names, rows).to_dict()
    shop.send(*morning(shop, 20))
    work(shop.stream)
    assert store.get_online_features(names, rows).to_dict() == before


# --- the store


def test_a_full_disk_loses_nothing(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.send(*morning(shop, 5))
    work(shop.stream)
    connect = sqlite._connect

    def full(name: str) -> sqlite3.Connection:
        connection = connect(name)
        connection.execute("PRAGMA max_page_count=1")  # sqlite takes as many as there are
        return connection

    shop.send(*shop.rounds(MORNING, 400, minutes=600))
    monkeypatch.setattr(sqlite, "_connect", full)
    with pytest.raises(feature_worker.PASSING, match="full"):
        work(shop.stream)
    monkeypatch.setattr(sqlite, "_connect", connect)
    work(shop.stream)
    assert shop.wrong(*shop.instants()) == []


def test_damaged_tails_are_named_and_rebuilt_once_the_file_is_deleted(shop: Shop) -> None:
    shop.send(*morning(shop, 30))
    work(shop.stream)
    assert shop.wrong(NOON) == []
    store, rows = registry.open_store(), [{"player": player, "request_time": NOON} for player in PLAYERS]
    before = store.get_online_features(["player_now:rounds_now_7d"], rows).to_dict()
    sqlite.remove_file()
    sqlite.path().write_bytes(b"no database" * 1_000)
    with pytest.raises(OnlineStoreDamagedError, match="Delete the file"):
        work(shop.stream)
    with pytest.raises(OnlineStoreDamagedError, match="Delete the file"):
        store.get_online_features(["player_now:rounds_now_7d"], rows)
    sqlite.remove_file()
    work(shop.stream)
    assert store.get_online_features(["player_now:rounds_now_7d"], rows).to_dict() == before
    assert shop.wrong(*shop.instants()) == []


def test_two_homes_read_the_topic_on_their_own(shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    group_name = feature_worker.group()
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "other"))
    assert feature_worker.group() != group_name

"""A run: messages flow, releases are made and served, faults hit at random, and at quiet points values are compared."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from confluent_kafka import Producer

from contracts import catalog
from etl.sources.kafka import CLIENT_LOG
from features import registry
from features.online import backends
from features.online.generation import OnlineStoreError
from features.streaming import tails
from lake import delta, release, settings
from tests.chaos.streams.processes import Killable
from tests.chaos.streams.rounds import ALL, FIRST, HORIZON, PLAYERS, Rounds
from tests.integration.test_instants import SHOWN
from tests.integration.test_second_project import SCHEMAS
from tests.kafka import Kafka
from tests.landing import LandingZone
from tests.servers import Server

TOPIC, PARTITIONS = "plays", 4
WORKERS = 2
RUN = ("run", "--start", str(FIRST.date()), "--end", str(HORIZON))
KILLS_A_ROUND = 20
FAULTS = {"worker": 45, "zombie": 10, "release": 20, "writer": 12, "broker": 7, "store": 6}
"""What is hit, in percent."""
ZOMBIE_SECONDS = (6.5, 9.0)
"""How long a process is stopped: longer than a member of the group may be silent."""
PAUSE = (0.2, 5.0)
"""Seconds between two faults."""
RATE = 60
"""Messages a second."""
QUIET_SECONDS = 120.0
INSTANTS = 6
SERVER_SECONDS = 8.0
"""A broker or a store that was killed answers after so long, on a busy machine."""


@dataclass
class Fault:
    """What was hit, when and how."""

    what: str
    name: str
    at: float
    how: str = "SIGKILL"


@dataclass
class Report:
    """What happened."""

    faults: list[Fault] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    values: int = 0
    requests: int = 0
    refused: int = 0
    messages: int = 0
    releases: int = 0
    rollbacks: int = 0
    seconds: float = 0.0
    kinds: dict[str, int] = field(default_factory=dict)


class Run:
    """One home, one broker, one store."""

    def __init__(self, folder: Path, seed: int, kafka: Kafka, store: Server | None, say: Callable[[str], None]) -> None:
        self.folder, self.kafka, self.store, self.say = folder, kafka, store, say
        self.draw, self.rounds = random.Random(seed), Rounds(random.Random(seed + 1))
        self.report = Report()
        self._began = time.monotonic()
        self._ended, self._flows, self._releases = threading.Event(), threading.Event(), threading.Event()
        self._store_answers = threading.Event()
        self._store_answers.set()
        self._producer = Producer(
            {
                "bootstrap.servers": kafka.url,
                "enable.idempotence": True,
                "linger.ms": 5,
                "delivery.timeout.ms": 300_000,
            },
            logger=CLIENT_LOG,
        )
        self._failed: list[str] = []
        self._resume: list[tuple[float, Killable]] = []
        self._release: Killable | None = None
        self._killed_releases: set[int] = set()
        start = ("millrace.foreground",)
        self.workers = [Killable(f"worker-{n}", (*start, "feature-worker"), folder) for n in range(WORKERS)]
        self.writer = Killable("lake-writer", (*start, "lake-writer"), folder, {"MILLRACE_STREAM_SECONDS": "0.5"})

    # --- the run

    def play(self, kills: int) -> Report:
        """Land and serve the first days, then hit `kills` times."""
        self.kafka.create(TOPIC, PARTITIONS)
        self._land()
        self._command(*RUN)
        self._command("serve")
        for member in (*self.workers, self.writer):
            member.start()
        threads = [
            threading.Thread(target=self._guarded, args=(work,)) for work in (self._produce, self._serve, self._read)
        ]
        for thread in threads:
            thread.start()
        try:
            number = 0
            while len(self.report.faults) < kills and not self.report.differences:
                self._round(min(KILLS_A_ROUND, kills - len(self.report.faults)), number)
                number += 1
            if not self.report.differences:
                self._finish()
        finally:
            self._ended.set()
            self._flows.set()
            self._releases.set()
            for member in (*self.workers, self.writer):
                member.signal(signal.SIGCONT)
                member.kill()
            if self._release:
                self._release.kill()
            for thread in threads:
                thread.join()
        self.report.seconds = time.monotonic() - self._began
        self.report.kinds = dict(self.rounds.kinds)
        return self.report

    def _land(self) -> None:
        zone, day = LandingZone(settings.landing()), FIRST.date()
        payment = {"number": 1, "player": PLAYERS[1], "paid_on": day, "amount": 2.5}
        players = [{"player": player, "tier": "basic", "country": None} for player in PLAYERS]
        plays = [
            self.rounds.new(player, FIRST + timedelta(minutes=self.draw.randrange(1440)))
            for player in PLAYERS
            for _ in range(20)
        ]
        for row in plays:
            self.rounds.count(row)
        naive = [row | {"ended_at": row["ended_at"].replace(tzinfo=None)} for row in plays]
        for table, rows in (("payments", [payment]), ("players", players), ("plays", naive)):
            zone.land(table, pa.Table.from_pylist(rows, schema=SCHEMAS[table]), day, table)

    def _command(self, *arguments: str) -> None:
        process = Killable("millrace", ("millrace", *arguments), self.folder)
        process.start()
        assert process.process
        assert process.process.wait() == 0, process.log.read_text()

    def _round(self, kills: int, number: int) -> None:
        """Some faults, then a comparison."""
        static = bool(number % 2)
        self._flows.set()
        self._releases.set()
        for _ in range(kills):
            self._wait(self.draw.uniform(*PAUSE))
            self._hit(static)
        self._wait(0.5)
        self._quiet()
        self._compare(f"round {number}")

    def _wait(self, seconds: float) -> None:
        """Wait, and let those go on that were stopped long enough."""
        until = time.monotonic() + seconds
        while True:
            due = [entry for entry in self._resume if entry[0] <= time.monotonic()]
            for entry in due:
                self._resume.remove(entry)
                entry[1].signal(signal.SIGCONT)
            for member in (*self.workers, self.writer):
                if not member.is_alive:
                    self._differs(f"{member.name} ended by itself: {_end(member.log)}")
                    member.start()
            if time.monotonic() >= until:
                return
            time.sleep(0.05)

    # --- faults

    def _hit(self, static: bool) -> None:
        faults = {what: share for what, share in FAULTS.items() if what != "store" or self.store}
        what = self.draw.choices([*faults], [*faults.values()])[0]
        stopped = [member for _, member in self._resume]
        free = [worker for worker in self.workers if worker not in stopped]
        if what == "release" and (self._release is None or not self._release.is_alive):
            what = "worker"
        if what in ("worker", "zombie") and not free:
            what = "writer"
        if what == "writer" and self.writer in stopped:
            return self._hit_server("broker", self.kafka)
        if what == "worker":
            self._kill_worker(self.draw.choice(free), static)
        elif what == "zombie":
            self._stop(self.draw.choice([*free, self.writer] if self.writer not in stopped else free))
        elif what == "release":
            self._kill_release()
        elif what == "writer":
            self._note("writer", self.writer.name)
            self.writer.kill()
            self.writer.start()
        else:
            self._hit_server(what, self.kafka if what == "broker" else self.store)
        return None

    def _kill_worker(self, worker: Killable, static: bool) -> None:
        measured = not self._resume and self.draw.random() < 0.2
        self._note("worker", worker.name)
        worker.kill()
        killed, ends = time.monotonic(), None
        if measured:
            ends = self._ends()
        identity = {"MILLRACE_KAFKA_CONF": f"group.instance.id={worker.name}"} if static else {}
        worker.start(**identity)
        if ends is None:
            return
        probes = {partition: end + 1 for partition, end in ends.items()}
        for partition in probes:
            self.kafka.produce(TOPIC, b"probe", partition=partition)
            self.rounds.kinds["poison"] += 1
        while not self._has_read(probes):
            if time.monotonic() > killed + QUIET_SECONDS:
                self._differs(f"{worker.name} was killed, and after {QUIET_SECONDS:.0f} s nobody reads on")
                return
            time.sleep(0.02)
        self.report.recoveries.append(time.monotonic() - killed)

    def _stop(self, member: Killable) -> None:
        self._note("zombie", member.name, "SIGSTOP")
        member.signal(signal.SIGSTOP)
        self._resume.append((time.monotonic() + self.draw.uniform(*ZOMBIE_SECONDS), member))

    def _kill_release(self) -> None:
        process = self._release
        if process is None or process.process is None:
            return
        self._note("release", process.arguments[1])
        self._killed_releases.add(process.process.pid)
        process.kill()

    def _hit_server(self, what: str, server: Server | None) -> None:
        if server is None or server.process is None:
            return
        if what == "store":
            self._store_answers.clear()
        if self.draw.random() < 0.25:
            self._note(what, what, "SIGSTOP")
            server.freeze()
            self._wait(self.draw.uniform(*ZOMBIE_SECONDS))
            server.thaw()
        else:
            self._note(what, what)
            server.process.kill()
            server.process.wait()
            server.start()
        self._store_answers.set()

    def _note(self, what: str, name: str, how: str = "SIGKILL") -> None:
        self.report.faults.append(Fault(what, name, time.monotonic() - self._began, how))
        self.say(f"{self.report.faults[-1].at:6.1f} s  {len(self.report.faults):4} {how} {name}")

    # --- what goes on meanwhile

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._differs(f"the harness: {type(error).__name__}: {error}")
            raise

    def _produce(self) -> None:
        while not self._ended.is_set():
            self._flows.wait()
            for _ in range(max(1, RATE // 20)):
                player, value = self.rounds.message()
                self._producer.produce(
                    TOPIC, value, player, PLAYERS.index(player) % PARTITIONS, on_delivery=self._delivered
                )
                self.report.messages += 1
            self._producer.poll(0)
            self._ended.wait(0.05)

    def _delivered(self, error: Any, _message: Any) -> None:
        if error is not None:
            self._failed.append(str(error))

    def _serve(self) -> None:
        """Make releases and serve them, now and then an older one."""
        back = random.Random(self.draw.random())
        while not self._ended.is_set():
            self._releases.wait()
            numbers = release.numbers()
            older = ("--release", str(back.choice(numbers[-3:]))) if len(numbers) > 2 and back.random() < 0.3 else ()
            steps = [("serve", *older)] if older else [RUN, ("serve",)]
            for step in steps:
                if not self._releases.is_set() or self._ended.is_set() or not self._do(*step):
                    break
            else:
                self.report.releases += not older
                self.report.rollbacks += bool(older)
            self._ended.wait(0.2)

    def _do(self, *arguments: str) -> bool:
        """Whether a command of a release was completed."""
        process = Killable(f"release-{arguments[0]}", ("millrace", *arguments), self.folder)
        process.log.unlink(missing_ok=True)
        process.start()
        self._release = process
        assert process.process
        status = process.process.wait()
        if status and process.process.pid not in self._killed_releases and not self.store:
            self._differs(f"{' '.join(arguments)} ended with {status}: {_end(process.log)}")
        return status == 0

    def _read(self) -> None:
        """Request features all the time: no response may count a round that never came, or one twice."""
        store = registry.open_store()
        rows = [{"player": player, "request_time": ALL} for player in PLAYERS]
        while not self._ended.wait(0.1):
            try:
                served = store.get_online_features(["player_now:rounds_now_7d"], rows).to_dict()["rounds_now_7d"]
            except OnlineStoreError as error:
                self.report.refused += 1
                if not self.store:
                    self._differs(f"a request failed: {error}")
                continue
            self.report.requests += 1
            for player, count in zip(PLAYERS, served, strict=True):
                if (count or 0) > (known := self.rounds.distinct(player)):
                    self._differs(f"{count} rounds of {player} were served, and {known} came")

    # --- comparison

    def _quiet(self) -> None:
        """Let everything go on until all messages are read."""
        self._flows.clear()
        self._releases.clear()
        while self._resume:
            self._wait(0.1)
        time.sleep(0.1)
        if self._producer.flush(QUIET_SECONDS):
            self._differs("the broker does not take messages")
        if self._failed:
            self._differs(f"{len(self._failed)} messages could not be produced: {self._failed[0]}")
        deadline = time.monotonic() + QUIET_SECONDS
        while self._release and self._release.is_alive:
            if time.monotonic() > deadline:
                return self._differs(f"{self._release.name} does not end: {_end(self._release.log)}")
            self._wait(0.1)
        ends = self._ends()
        while not self._has_read(ends):
            if time.monotonic() > deadline:
                logs = "".join(f"\n{worker.name}: {_end(worker.log)}" for worker in self.workers)
                return self._differs(f"the tails do not reach {ends}, but {self._positions()}{logs}")
            self._wait(0.1)
        return None

    def _ends(self) -> dict[int, int]:
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.kafka.url, "group.id": "ends"})
        try:
            ranges = {p: consumer.get_watermark_offsets(TopicPartition(TOPIC, p), 30) for p in range(PARTITIONS)}
        finally:
            consumer.close()
        return {partition: end for partition, (_, end) in ranges.items()}

    def _positions(self) -> list[dict[int, int]]:
        store = backends.configured().tails()
        return [{p: at.next_offset for p, at in store.positions(tail.name).items()} for tail in tails.all_tails()]

    def _has_read(self, ends: dict[int, int]) -> bool:
        """Whether every tail has the messages before these offsets."""
        try:
            return all(tail.get(p, 0) >= end for tail in self._positions() for p, end in ends.items())
        except OnlineStoreError:
            return False

    def _compare(self, when: str) -> None:
        """Served values of every player with those of the loop."""
        if self.report.differences:
            return
        store, before = registry.open_store(), len(self.report.differences)
        for at in self.rounds.instants(INSTANTS):
            rows = [{"player": player, "request_time": at} for player in PLAYERS]
            served = store.get_online_features([f"player_now:{name}" for name in SHOWN], rows).to_dict()
            for n, player in enumerate(PLAYERS):
                expected = self.rounds.expected(player, at) or (None,) * len(SHOWN)
                self.report.values += len(SHOWN)
                for name, value in zip(SHOWN, expected, strict=True):
                    if served[name][n] != value:
                        self._differs(f"{when}: {name} of {player} at {at} is {served[name][n]}, not {value}")
        wrong = len(self.report.differences) - before
        self.say(f"{time.monotonic() - self._began:6.1f} s  {when}: {self.report.values:,} values, {wrong} differ")

    def _finish(self) -> None:
        """The lake has each message once; and a last release serves what the tails did."""
        table = catalog.table("bronze.plays")
        deadline, ends = time.monotonic() + QUIET_SECONDS, self._ends()
        while len(read := self._in_lake(table.qualified)) < sum(ends.values()):
            if time.monotonic() > deadline:
                return self._differs(
                    f"bronze has {len(read):,} of {sum(ends.values()):,} messages: {_end(self.writer.log)}"
                )
            self._wait(0.2)
        if len(read) != len({*read}):
            self._differs(f"bronze has {len(read) - len({*read}):,} messages twice")
        self._command(*RUN)
        self._command("serve")
        self._compare("the last release")
        for member in (*self.workers, self.writer):
            began = time.monotonic()
            status = member.terminate()
            if status:
                self._differs(f"{member.name} ended with {status} after SIGTERM: {_end(member.log)}")
            self.say(f"{member.name} ended {time.monotonic() - began:.1f} s after SIGTERM")
        return None

    @staticmethod
    def _in_lake(qualified: str) -> list[tuple[int, int]]:
        opened, bad = delta.open_table(qualified), delta.open_table("quarantine.plays")
        rows = opened.to_pyarrow_table(columns=["_partition", "_offset"]).to_pylist() if opened else []
        rejected = bad.to_pyarrow_table(columns=["layer", "file"]).to_pylist() if bad else []
        places = [(row["_partition"], row["_offset"]) for row in rows if row["_offset"] is not None]
        names = [row["file"].split("/") for row in rejected if row["layer"] == "bronze"]
        return [*places, *((int(partition), int(offset)) for _, _, partition, offset in names)]

    def _differs(self, what: str) -> None:
        self.report.differences.append(what)
        self.say(f"DIFFERS: {what}")


def _end(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-8:]) if log.exists() else ""

"""Keep online features up with topics: `millrace start feature-worker`.

A worker reads messages as a member of a consumer group, computes the events that they give to the views of instants,
and appends them to the views' tails in the online store, with the offset after them in the same transaction. Nothing
else says how far it has read. So workers can be added, killed or stopped: each message counts once.
"""

from __future__ import annotations

import hashlib
import signal
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from setproctitle import setproctitle

from contracts import project
from contracts.columns import AUDIT_COLUMNS, STREAM_COLUMNS
from contracts.model import Table
from etl.sources import messages
from etl.sources.group import GroupReader
from etl.sources.kafka import StreamError, UnreachableError
from etl.sources.landing import Rejected
from etl.sources.messages import Message
from features.online import backends, generation
from features.online.generation import InUse, OnlineBackend, OnlineStoreError, in_use
from features.streaming import tails
from features.streaming.events import Evaluator
from features.streaming.tail_store import EARLIEST, Advance, FencedError, Position
from features.streaming.tails import Tail
from lake import settings
from lake.publishing import arrow_type
from lake.topics import UNKNOWN
from millrace import health, memory
from millrace.contract_files import ContractChangedError, ContractFiles, start_again
from millrace.output import print_line

if TYPE_CHECKING:
    import pyarrow as pa

MOST_MESSAGES, POLL_SECONDS = 5_000, 0.005
REPORT_SECONDS = 10.0
CHECK_SECONDS = 1.0
"""How often to look whether tails were moved."""
LONGEST_PAUSE = 10.0
"""Seconds between two attempts to reach brokers or store, at most."""
ATTEMPTS = 20
"""How often a tail is begun while others move it."""
PASSING = (UnreachableError, OnlineStoreError, sqlite3.OperationalError)
"""Errors of servers and disks, after which a worker tries again."""


class Source(Protocol):
    """What a worker reads from: `etl.sources.group.GroupReader`."""

    problem: str

    def read(self, most: int, seconds: float) -> dict[str, list[Message]]:
        """Messages by topic."""

    def assigned(self, topic: str) -> list[int]:
        """The partitions of a topic that are read."""

    def ends(self, topic: str) -> dict[int, int]:
        """The end of each partition that was read up to it."""

    def begin_again(self) -> None:
        """Read all partitions again from where the tails are."""

    def acknowledge(self, topic: str, read: Mapping[int, int]) -> None:
        """Tell the source how far a topic is read."""

    def close(self) -> None:
        """Leave the group."""


class FeatureWorker:
    """Appends the events of messages to tails. Its Source asks `starts` where to read from."""

    def __init__(
        self, of: Sequence[Tail], say: Callable[[str], None], ensure_contracts: Callable[[], None] = lambda: None
    ) -> None:
        """`ensure_contracts` raises where the contracts have changed, and so the tails."""
        self._ensure_contracts = ensure_contracts
        self._backend: OnlineBackend = backends.configured()
        self._store = self._backend.tails()
        self._say = say
        self._tails: dict[str, list[Tail]] = defaultdict(list)
        for tail in of:
            self._tails[tail.topic].append(tail)
        self._evaluators = {topic: Evaluator(members) for topic, members in self._tails.items()}
        self._positions: dict[tuple[str, int], Position] = {}
        self._counts: Counter[tuple[str, str]] = Counter()
        self._rejected: dict[str, Rejected] = {}
        """By topic, the last message that was none of its table's rows."""
        self._reported = self._checked = time.monotonic()
        self._generation: str | None = None

    @property
    def tables(self) -> list[Table]:
        """The bronze tables whose topics are read."""
        return [members[0].bronze for members in self._tails.values()]

    def starts(self, table: Table, identity: int, ranges: Mapping[int, tuple[int, int]]) -> dict[int, int]:
        """Where to read each partition from: the least that one of its tails has read up to.

        A tail that is new, or of a topic that was created again, begins where the generation in use ends, and so does
        one that is behind it. StreamError where messages from there on are gone.
        """
        starts: dict[int, int] = {}
        for tail in self._tails[messages.topic_of(table)]:
            for partition, position in self._begin(tail, identity, ranges).items():
                self._positions[tail.name, partition] = position
                starts[partition] = min(position.next_offset, starts.get(partition, position.next_offset))
        return starts

    def _begin(self, tail: Tail, identity: int, ranges: Mapping[int, tuple[int, int]]) -> dict[int, Position]:
        """The positions of a tail in these partitions, moved on in the store where that is right."""
        for _ in range(ATTEMPTS):
            stored, served = self._store.positions(tail.name), in_use(self._backend)
            self._generation = served.name if served else None
            begun, steps = _begun(tail, identity, ranges, stored, served)
            if not steps:
                return begun
            with suppress(FencedError):  # another member begins it, too
                self._store.advance(steps)
                return begun
        raise OnlineStoreError(f"the tail of {tail.view} is moved by others all the time")

    def step(self, source: Source) -> int:
        """Read for a moment, and append what came. Returns the number of messages."""
        count = 0
        for topic, received in source.read(MOST_MESSAGES, POLL_SECONDS).items():
            count += len(received)
            try:
                self._append(topic, received)
            except FencedError:  # another member has read on, or a release begins the tail again
                source.begin_again()
                break  # all topics are read again
            else:
                source.acknowledge(topic, messages.ends(received))
        if time.monotonic() - self._checked >= CHECK_SECONDS:
            self._checked = time.monotonic()
            self._ensure_contracts()
            self._follow(source)
        if time.monotonic() - self._reported >= REPORT_SECONDS:
            self.report()
        return count

    def _follow(self, source: Source) -> None:
        """Begin again where a release, or another member, has moved a tail: no message may come to notice it by."""
        moved = (
            self._is_moved(tail, source.assigned(topic)) for topic, members in self._tails.items() for tail in members
        )
        is_other = bool(self._positions) and self._backend.current() != self._generation
        if is_other or any(moved):
            source.begin_again()
            return
        with suppress(FencedError):  # it is noticed the next time
            for topic in self._tails:
                self._pass_gaps(topic, source.ends(topic))

    def _pass_gaps(self, topic: str, ends: Mapping[int, int]) -> None:
        """Move tails over offsets without a message, as transactions leave them, so that they are no lag."""
        steps = [
            self._step(tail, partition, end, ())
            for tail in self._tails[topic]
            for partition, end in ends.items()
            if end > self._positions[tail.name, partition].next_offset
        ]
        if steps:
            self._advance(steps)

    def _is_moved(self, tail: Tail, partitions: Sequence[int]) -> bool:
        stored = self._store.positions(tail.name) if partitions else {}
        known = ((stored.get(partition), self._positions.get((tail.name, partition))) for partition in partitions)
        return any(position is None or not position.is_at(expected) for position, expected in known)

    def _append(self, topic: str, received: Sequence[Message]) -> None:
        table, ends = self._tails[topic][0].bronze, messages.ends(received)
        rows, rejected = bronze_rows(table, received)
        since = {key: position.next_offset for key, position in self._positions.items()}
        entries = self._evaluators[topic].entries(rows, since)
        steps = [
            self._step(tail, partition, end, entries[tail.name].get(partition, ()))
            for tail in self._tails[topic]
            for partition, end in ends.items()
        ]
        self._advance(steps)
        self._counts[topic, "read"] += len(received)
        self._counts[topic, "rejected"] += len(rejected)
        if rejected:
            self._rejected[topic] = rejected[-1]

    def _advance(self, steps: Sequence[Advance]) -> None:
        self._store.advance(steps)
        for step in steps:
            self._positions[step.tail, step.partition] = step.reached

    def _step(self, tail: Tail, partition: int, end: int, entries: Sequence[tuple[bytes, int, bytes]]) -> Advance:
        position = self._positions[tail.name, partition]
        reached = Position(position.identity, position.complete_from, max(end, position.next_offset))
        return Advance(tail.name, partition, position, reached, entries)

    def report(self) -> None:
        """Say what was read since the last report."""
        seconds = time.monotonic() - self._reported
        for topic in self._tails:
            read, rejected = self._counts[topic, "read"], self._counts[topic, "rejected"]
            if read:
                last = self._rejected.get(topic)
                bad = f", {rejected:,} unreadable, as {last.file}: {last.reasons[0]}" if rejected and last else ""
                self._say(f"{topic}: {read:,} messages in {seconds:.0f} s{bad}")
        self._counts.clear()
        self._reported = time.monotonic()


def run() -> int:
    """Work until SIGTERM; 1 with a message where messages are missing or nothing is to do."""
    setproctitle("millrace feature-worker")
    ended = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda _signum, _frame: ended.set())
    state = _State()
    probe = health.Probe(state.health)
    health.serve(probe, settings.health_port())
    try:
        worker = FeatureWorker(tails_to_feed(), print_line, ContractFiles().ensure_unchanged)
        memory.collect_rarely()
        _wait_for_generation(ended, state)
        pause = 1.0
        while not ended.is_set():
            try:
                if _work(worker, ended, state):
                    pause = 1.0
            except PASSING as error:
                state.problem = str(error)
                print_line(f"{str(error).rstrip('.')}. Trying again in {pause:.0f} s")
                ended.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
        probe.ending = "the feature worker is ending"
        worker.report()
    except ContractChangedError as change:
        if not ended.is_set():
            start_again(change)
    except StreamError as error:
        raise SystemExit(str(error)) from None
    return 0


def tails_to_feed() -> list[Tail]:
    """The tails of all views that have one; StreamError, with the reasons, where none has."""
    known = tails.all_tails()
    if not known:
        reasons = "".join(f"\n  {table.qualified}: {reason}" for table, reason in tails.obstacles())
        raise StreamError(
            "no view counts messages before a release has them: that takes a feature table at=At.INSTANTS over events"
            f" of a topic. See docs/realtime.md{reasons}"
        )
    return known


def group() -> str:
    """The name of the consumer group: of this project and this online store."""
    store = f"{backends.configured().where} {settings.home() if settings.online() == 'sqlite' else ''}"
    prefix = settings.kafka_conf().get("group.id", "millrace")
    return f"{prefix}-features-{project.current().name}-{hashlib.sha256(store.encode()).hexdigest()[:8]}"


def bronze_rows(table: Table, received: Sequence[Message]) -> tuple[pa.Table, list[Rejected]]:
    """Messages as rows of the bronze table, without those that are none, and those."""
    import pyarrow as pa

    now = datetime.now(UTC)
    decoded = messages.decode(table, received, now.date())
    rows, kept = decoded.rows, decoded.messages
    added = {
        "_file": [f"kafka/{messages.topic_of(table)}"] * len(kept),
        "_file_hash": [""] * len(kept),
        "_landed_date": [now.date()] * len(kept),
        "_loaded_at": [now] * len(kept),
        "_partition": [message.partition for message in kept],
        "_offset": [message.offset for message in kept],
    }
    for column in (*AUDIT_COLUMNS, *STREAM_COLUMNS):
        rows = rows.append_column(column.name, pa.array(added[column.name], arrow_type(column.type)))
    return rows, decoded.rejected


class _State:
    """What the health probe says."""

    def __init__(self) -> None:
        self.problem, self.source = "the feature worker is starting", None

    source: Source | None

    def health(self) -> health.Health:
        """Not ready while brokers or store cannot be used."""
        return health.Health(unready=self.problem or (self.source.problem if self.source else ""))


def _work(worker: FeatureWorker, ended: threading.Event, state: _State) -> bool:
    """Read and append until an error, or the end. Returns whether anything was read."""
    source = GroupReader(worker.tables, group(), worker.starts)
    state.source, state.problem = source, ""
    print_line(f"Reading {', '.join(messages.topic_of(table) for table in worker.tables)}")
    has_read = False
    try:
        while not ended.is_set():
            has_read = bool(worker.step(source)) or has_read
    finally:
        state.source = None
        source.close()
    return has_read


def _wait_for_generation(ended: threading.Event, state: _State) -> None:
    """Wait until a release is online: tails begin where it ends."""
    said = False
    while not ended.is_set():
        try:
            if in_use(backends.configured()) is not None:
                return
            state.problem = "no release is online yet"
        except OnlineStoreError as error:
            state.problem = str(error)
        if not said:
            print_line(f"Waiting: {state.problem.rstrip('.')}. To put a release online: millrace serve")
            said = True
        ended.wait(1.0)


def _begun(
    tail: Tail,
    identity: int,
    ranges: Mapping[int, tuple[int, int]],
    stored: Mapping[int, Position],
    served: InUse | None,
) -> tuple[dict[int, Position], list[Advance]]:
    """Where a tail begins, or goes on, in each partition, and the steps to there."""
    included = generation.offsets(served.metadata.streams.get(tail.view) if served else None, identity)
    begun, steps = {}, []
    for partition, (first, end) in ranges.items():
        position = stored.get(partition)
        if position is None or position.next_offset == EARLIEST or identity not in (UNKNOWN, position.identity):
            # a release that has read the topic, and not this partition, has read it before the partition was added
            start = included.get(partition, 0 if included else first)
        elif position.complete_from <= included.get(partition, first) and position.next_offset >= included.get(
            partition, 0
        ):
            start = None
        else:  # it lacks messages that the generation does not include, or is behind it
            start = included.get(partition, first)
        if start is not None:
            reached = Position(identity, start, start)
            steps.append(Advance(tail.name, partition, position, reached, clears=True))
            position = reached
        if position is not None:
            _ensure_readable(tail, partition, position.next_offset, first, end)
            begun[partition] = position
    return begun, steps


def _ensure_readable(tail: Tail, partition: int, start: int, first: int, end: int) -> None:
    """StreamError where a tail's next message is gone, or was never there."""
    if start < first:
        raise StreamError(
            f"{tail.view}: messages {start:,} to {first - 1:,} of partition {partition} of {tail.topic} are gone:"
            " Kafka's retention passed them before they were counted. If the lake has them, a release will: run"
            " `millrace run`, then start the worker again. If not: millrace stream lag"
        )
    if start > end:
        raise StreamError(
            f"{tail.view}: partition {partition} of {tail.topic} is read up to {start:,} and ends at {end:,}: the topic"
            " was created again, or its brokers lost messages. To go on: millrace stream skip"
            f" {tail.bronze.qualified}, then millrace run and millrace serve --fresh"
        )

"""Write the messages of topics to bronze tables, each exactly once: `millrace start lake-writer`.

Messages are collected for a moment and published like a landed file: decoded, audited, quarantined where they are bad,
and committed with their offsets. After a kill, or a failed commit, reading goes on from the newest commit.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

from setproctitle import setproctitle

from contracts import catalog
from contracts.model import Layer, Table
from contracts.report import TableReport
from etl.sources import messages
from etl.sources.kafka import Reader, StreamError
from etl.sources.messages import Message
from etl.sources.offsets import Start
from lake import delta, publishing, settings
from lake.delta import STREAM_RUNS
from lake.publishing import SchemaError
from millrace import errors, health, maintenance, memory, pipeline
from millrace.contract_files import ContractChangedError, ContractFiles, start_again
from millrace.output import print_line

MOST_MESSAGES, MOST_BYTES = 100_000, 64 << 20
"""A batch is published before its time when it has so many messages or bytes."""
POLL_MESSAGES, POLL_SECONDS = 10_000, 0.2
LONGEST_PAUSE = 30.0
"""Seconds between two attempts to publish a batch, at most."""
REPORT_SECONDS = 10.0
CLEAN_SECONDS = 6 * 3600.0
"""Between two deletions of files that compaction has replaced."""


class Source(Protocol):
    """What the writer reads from: `etl.sources.kafka.Reader`."""

    problem: str

    @property
    def tables(self) -> Mapping[str, Table]:
        """The table of each topic."""

    def read(self, most: int, seconds: float) -> list[tuple[Table, Message]]:
        """Messages, with their tables."""

    def starts(self, table: Table) -> dict[int, Start]:
        """Where the reading of each partition started."""

    def gaps(self, table: Table) -> dict[int, tuple[int, int]]:
        """Partition -> from which offset to which one there is no message."""

    def identity(self, table: Table) -> int:
        """The identity of the topic; StreamError where it was created again since."""

    def rewind(self) -> None:
        """Read all messages again from where the tables' commits end."""

    def acknowledge(self, table: Table, read: dict[int, int]) -> None:
        """Tell the source how far the table has read."""


@dataclass
class _Waiting:
    """Messages of a table that are not published yet."""

    messages: list[Message] = field(default_factory=list)
    size: int = 0
    since: float = 0.0

    @property
    def is_full(self) -> bool:
        """Whether to publish them at once."""
        return len(self.messages) >= MOST_MESSAGES or self.size >= MOST_BYTES


@dataclass
class _Failure:
    """Why a table's messages could not be published, and when to try again."""

    reason: str
    pause: float
    resumes: float = 0.0

    def __post_init__(self) -> None:
        self.resumes = time.monotonic() + self.pause


def tables() -> list[Table]:
    """The bronze tables that have a topic."""
    return [table for table in catalog.tables(Layer.BRONZE) if table.topic]


def run(on_cluster: Callable[[Reader, Callable[[str], None], Callable[[], None]], LakeWriter]) -> int:
    """Write until SIGTERM, then publish what was read and return 0; 1 with a message where messages are missing.

    `on_cluster` makes the writer for `MILLRACE_STREAM_READER=spark`.
    """
    setproctitle("millrace lake-writer")
    ended = threading.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, lambda _signum, _frame: ended.set())
    streamed = tables()
    if not streamed:
        raise SystemExit("No bronze table has a topic: give its contract topic=Topic(...). See docs/streams.md")
    contracts = ContractFiles()
    try:
        ensure_schemas(streamed)
        warm_up(streamed)
        memory.collect_rarely()
        make = on_cluster if _reads_on_cluster() else LakeWriter
        writer = make(Reader(streamed), print_line, contracts.ensure_unchanged)
        probe = health.Probe(writer.health)
        health.serve(probe, settings.health_port())
        print_line(
            f"Reading {', '.join(f'{table.topic.name} into {table.qualified}' for table in streamed if table.topic)}"
        )
        try:
            while not ended.is_set():
                writer.step()
        finally:
            probe.ending = "the lake writer is ending"
            writer.flush()  # what was read may be gone from Kafka later
    except ContractChangedError as change:
        if ended.is_set():  # what was read is read again by the next writer
            return 0
        start_again(change)
    except (StreamError, SchemaError) as error:
        raise SystemExit(str(error)) from None
    return 0


def _reads_on_cluster() -> bool:
    if settings.stream_reader() != "spark":
        return False
    if settings.engine() == "sail":
        raise SystemExit(
            "MILLRACE_STREAM_READER is spark, and MILLRACE_ENGINE is sail, which reads no topics. Set MILLRACE_ENGINE"
            " to spark or to the URL of a Spark Connect server, or unset MILLRACE_STREAM_READER"
        )
    return True


def ensure_schemas(streamed: Sequence[Table]) -> None:
    """SchemaError for a published table that cannot take the contract's columns, or has columns that it lacks."""
    for table in streamed:
        if published := delta.open_table(table.qualified):
            publishing.ensure_schema(table, published)


def warm_up(streamed: Sequence[Table]) -> None:
    """Start the engine and import Great Expectations: the first messages would wait seconds for both."""
    from etl import engine
    from expectations.suite import Facts, expectations_of

    engine.session()
    for table in streamed:
        expectations_of(table, Facts())


class LakeWriter:
    """Collects messages and publishes them."""

    def __init__(
        self, source: Source, say: Callable[[str], None], ensure_contracts: Callable[[], None] = lambda: None
    ) -> None:
        """`ensure_contracts` is called before each commit, and raises where the contracts have changed."""
        self._source, self._say, self._ensure_contracts = source, say, ensure_contracts
        self._run_id = f"{STREAM_RUNS}{datetime.now(UTC):%Y%m%dT%H%M%S}"
        self._waiting: dict[str, _Waiting] = defaultdict(_Waiting)
        self._tables = {table.qualified: table for table in source.tables.values()}
        self._counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        self._reported = time.monotonic()
        self._failures: dict[str, _Failure] = {}
        self._cleaned: dict[str, float] = {}

    def health(self) -> health.Health:
        """Not ready while the brokers, or the lake, cannot be used."""
        failures = " ".join(failure.reason for failure in self._failures.values())
        return health.Health(unready=failures or self._source.problem)

    def step(self) -> None:
        """Read for a moment, then publish what has waited long enough."""
        for table, message in self._read():
            waiting = self._waiting[table.qualified]
            waiting.since = waiting.since or time.monotonic()
            waiting.messages.append(message)
            waiting.size += len(message.value or b"")
        for name, waiting in list(self._waiting.items()):
            if self._is_due(name, waiting):
                self._publish(self._tables[name])
        if time.monotonic() - self._reported >= REPORT_SECONDS:
            self._pass_gaps()
            self._compact()
            self._report()

    def flush(self) -> None:
        """Publish all that was read."""
        for name in list(self._waiting):
            self._publish(self._tables[name])
        self._pass_gaps()
        self._report()

    def _is_due(self, name: str, waiting: _Waiting) -> bool:
        waited = time.monotonic() - waiting.since
        return not self._is_paused(name) and (waited >= settings.stream_seconds() or waiting.is_full)

    def _is_paused(self, name: str) -> bool:
        failure = self._failures.get(name)
        return failure is not None and time.monotonic() < failure.resumes

    def _read(self) -> list[tuple[Table, Message]]:
        if any(waiting.is_full for waiting in self._waiting.values()):
            time.sleep(POLL_SECONDS)  # the lake cannot be written now, and memory is limited
            return []
        return self._source.read(POLL_MESSAGES, POLL_SECONDS)

    def _publish(self, table: Table) -> None:
        """Publish the table's messages. If that fails, all tables' messages are read again: none is lost."""
        waiting = self._waiting.get(table.qualified)
        if waiting is None:  # dropped when another table's messages could not be published
            return
        self._ensure_contracts()
        with self._read_again_on_failure(table):
            identity, starts = self._source.identity(table), self._source.starts(table)
            report = pipeline.append_messages(table, waiting.messages, self._run_id, identity, starts)
            del self._waiting[table.qualified]  # not before: offsets of waiting messages are no gaps to pass
            self._source.acknowledge(table, messages.ends(waiting.messages))
            self._count(report)

    def _pass_gaps(self) -> None:
        """Commit offsets at which there is no message, so that they are neither lag nor missing later."""
        for name, table in self._tables.items():
            waiting = self._waiting.get(name, _Waiting()).messages
            busy = {message.partition for message in waiting}
            gaps = {partition: gap for partition, gap in self._source.gaps(table).items() if partition not in busy}
            if gaps and not self._is_paused(name):
                with self._read_again_on_failure(table):
                    identity = self._source.identity(table)
                    self._source.acknowledge(table, pipeline.pass_gaps(table, identity, gaps, self._run_id))

    def _compact(self) -> None:
        """Compact tables that have many small files: each commit adds one. Best effort, nothing depends on it."""
        for table in self._tables.values():
            try:
                compacted = maintenance.compact_small_files(table)
                for name in compacted:
                    self._say(f"{name}: compacted its small files")
                if compacted and time.monotonic() - self._cleaned.get(table.qualified, float("-inf")) > CLEAN_SECONDS:
                    maintenance.delete_replaced_files(table)
                    self._cleaned[table.qualified] = time.monotonic()
            except Exception as error:
                if not errors.is_ours(error):
                    raise
                self._say(f"{table.qualified}: its small files are not compacted ({str(error).rstrip('.')})")

    @contextmanager
    def _read_again_on_failure(self, table: Table) -> Iterator[None]:
        """If the table cannot be written within it, say why, pause, and read the messages of all tables again."""
        try:
            yield
        except (StreamError, SchemaError):
            raise
        except Exception as error:
            if not errors.is_ours(error):
                raise
            former = self._failures.get(table.qualified)
            failure = _Failure(str(error), min(2 * former.pause, LONGEST_PAUSE) if former else 1.0)
            self._failures[table.qualified] = failure
            self._say(f"{failure.reason.rstrip('.')}. Trying again in {failure.pause:.0f} s")
            self._waiting.clear()
            self._source.rewind()
        else:
            self._failures.pop(table.qualified, None)

    def _count(self, report: TableReport) -> None:
        counts = self._counts[report.table]
        counts[0] += report.account.published
        counts[1] += report.account.quarantined

    def _report(self) -> None:
        """Say what was published since the last report."""
        seconds = time.monotonic() - self._reported
        for name, (published, quarantined) in self._counts.items():
            bad = f", {quarantined:,} to quarantine" if quarantined else ""
            self._say(f"{name}: {published:,} messages published in {seconds:.0f} s{bad}")
        self._counts.clear()
        self._reported = time.monotonic()

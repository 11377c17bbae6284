"""The lake writer on a Spark cluster (`MILLRACE_STREAM_READER=spark`): executors read the messages, this process plans
and commits.

The offsets of the commits are those of `millrace.lake_writer`, so one may take over from the other at any time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from contracts.model import Table
from etl.sources.kafka import UnreachableError
from etl.sources.offsets import Start
from lake import settings
from millrace import lake_writer, pipeline
from millrace.lake_writer import LakeWriter, Source

MOST_OFFSETS = 1_000_000
"""Messages of a partition in one commit, at most."""
PAUSE = 0.2


class Planner(Source, Protocol):
    """What tells how far the topics have grown: `etl.sources.kafka.Reader`."""

    def unread(self, table: Table) -> tuple[Mapping[int, Start], Mapping[int, int]]:
        """Where the table's reading starts and the topic ends, by partition."""


class ClusterWriter(LakeWriter):
    """Publishes what topics have beyond the tables, batch by batch."""

    def __init__(
        self, source: Planner, say: Callable[[str], None], ensure_contracts: Callable[[], None] = lambda: None
    ) -> None:
        super().__init__(source, say, ensure_contracts)
        self._planner = source
        self._resumes = 0.0

    def step(self) -> None:
        """Publish what has come, at most every `MILLRACE_STREAM_SECONDS`."""
        if time.monotonic() < self._resumes:
            time.sleep(PAUSE)
            return
        self._resumes = time.monotonic() + settings.stream_seconds()
        for table in self._tables.values():
            if not self._is_paused(table.qualified):
                self._append(table)
        if time.monotonic() - self._reported >= lake_writer.REPORT_SECONDS:
            self._compact()
            self._report()

    def flush(self) -> None:
        """Nothing waits in this process: the next writer reads on from the last commit."""
        self._report()

    def _append(self, table: Table) -> None:
        self._ensure_contracts()
        with self._read_again_on_failure(table):
            try:
                starts, ends = self._planner.unread(table)
            except UnreachableError as error:
                self._planner.problem = str(error)
                return
            self._planner.problem = ""
            ends = {partition: min(end, starts[partition].offset + MOST_OFFSETS) for partition, end in ends.items()}
            if all(starts[partition].offset == end for partition, end in ends.items()):
                return
            self._count(
                pipeline.append_offsets(table, self._run_id, lambda: self._planner.identity(table), starts, ends)
            )
            self._planner.acknowledge(table, dict(ends))

"""Committing: how rows get into a Delta table, the same on every engine, done by delta-rs or by delta-spark.

`committer()` chooses: delta-spark where the engine is a Spark that has Delta, delta-rs everywhere else (Sail ignores some of Delta's write options), and for a lake in a bucket,
where delta-spark looks whether a version exists and then writes it, so that of two writers at once the second wins unseen; delta-rs makes the store refuse it. Tables written
by one are read and continued by the other, and each commit carries the same `State`. Callers hold the table's lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from contracts import settings, storage
from contracts.interval import Interval
from contracts.model import Table
from etl.delta import State

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


@dataclass(frozen=True)
class Commit:
    """One version of a table: when it was made, by which operation, in which run (empty when it is not ours)."""

    version: int
    at: datetime
    operation: str
    run_id: str


class Committer(Protocol):
    """What can be done to a table. Each method but the last three makes one version, or none when there is nothing to do, and returns the newest version.

    `staged` are parquet files with the contract's columns, on the table's file system. `base` is the version that the work was based on (None for a new table): when the
    table has moved on, PublishError is raised and nothing is written. `state` is what the commit records.
    """

    def publish(self, contract: Table, staged: Sequence[Path], state: State, *, base: int | None, replace: Sequence[Interval] = (), whole: bool = False) -> int:
        """Append the rows; `replace` names the days of these rows, and whatever else the table holds there goes in the same commit; `whole` replaces all rows."""

    def append_once(self, contract: Table, staged: Sequence[Path], state: State, once: str) -> int:
        """Append the rows unless a commit named `once` has been made before: a repeat after a kill adds nothing."""

    def merge(self, contract: Table, staged: Sequence[Path], state: State, *, base: int | None) -> int:
        """Put each row in the place of the row with its key, or add it. A key that comes twice is refused."""

    def delete(self, contract: Table, condition: str, state: State, *, base: int) -> int:
        """Remove the rows for which the SQL condition is true; those for which it is NULL stay."""

    def optimize(self, contract: Table) -> int:
        """Write small files together. No row changes, and what was built from the table stays up to date."""

    def vacuum(self, contract: Table, older_than: timedelta, keep: Sequence[int] = (), *, delete: bool = True) -> int:
        """Delete data files that no version needs that is younger than `older_than` or in `keep`, or only count them. Returns how many. No row changes here either."""

    def history(self, contract: Table) -> list[Commit]:
        """The commits that the log still holds, newest first."""

    def at(self, contract: Table, version: int) -> DataFrame:
        """The rows of a version."""


def committer() -> Committer:
    """The one that belongs to the engine."""
    from etl.commits.delta_rs import DeltaRs
    from etl.commits.delta_spark import DeltaSpark

    by_spark = settings.engine() != "sail" and not storage.is_remote(settings.lake()) and _is_spark_with_delta()
    return DeltaSpark() if by_spark else DeltaRs()


def _is_spark_with_delta() -> bool:
    """A remote engine may be Sail as well; only Spark knows this setting."""
    from etl.engine import session

    return "DeltaSparkSessionExtension" in (session().conf.get("spark.sql.extensions", "") or "")

"""Committing: how rows get into a Delta table, the same on every engine, done by delta-rs or by delta-spark.

`committer()` chooses: delta-spark where the engine is a Spark that has Delta, delta-rs everywhere else (Sail ignores some of Delta's write options), and for a lake in a bucket,
where delta-spark looks whether a version exists and then writes it, so that of two writers at once the second wins unseen; delta-rs makes the store refuse it. Tables written
by one are read and continued by the other, and each commit carries the same `State`. Callers hold the table's lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from contracts import settings, storage
from contracts.interval import Interval
from contracts.model import Table
from etl.delta import State


class Committer(Protocol):
    """What can be done to a table. `publish` and `optimize` make one version, or none when there is nothing to do, and return the newest version.

    `staged` are parquet files with the contract's columns, on the table's file system. `base` is the version that the work was based on (None for a new table): when the
    table has moved on, PublishError is raised and nothing is written. `state` is what the commit records.
    """

    def publish(self, contract: Table, staged: Sequence[Path], state: State, *, base: int | None, replace: Sequence[Interval] = (), whole: bool = False) -> int:
        """Append the rows; `replace` names the days of these rows, and whatever else the table holds there goes in the same commit; `whole` replaces all rows."""

    def optimize(self, contract: Table) -> int:
        """Write small files together. No row changes, and what was built from the table stays up to date."""

    def vacuum(self, contract: Table, older_than: timedelta, keep: Sequence[int] = (), *, delete: bool = True) -> int:
        """Delete data files that no version needs that is younger than `older_than` or in `keep`, or only count them. Returns how many. No row changes here either."""


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

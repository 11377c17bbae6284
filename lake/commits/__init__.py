"""Commit rows to a Delta table, the same way on every engine. `etl.commits` chooses the committer of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from contracts.interval import Interval
from contracts.model import Table
from lake.delta import CommitMetadata


class Committer(Protocol):
    """Writes to a table. `publish` and `optimize` make at most one version and return the newest one.

    `staged` are parquet files with the contract's columns, on the table's file system. `base` is the version that the
    rows were computed from (None for a new table): PublishError when the table has a newer one, and nothing is
    written. `metadata` goes into the commit.
    """

    def publish(
        self,
        contract: Table,
        staged: Sequence[Path],
        metadata: CommitMetadata,
        *,
        base: int | None,
        replace: Sequence[Interval] = (),
        whole: bool = False,
    ) -> int:
        """Append the rows, and in the same commit remove the old rows of the days `replace`, or all if `whole`."""

    def optimize(self, contract: Table) -> int:
        """Compact small files. No row changes, so tables built from this one stay up to date."""

    def vacuum(self, contract: Table, older_than: timedelta, keep: Sequence[int] = (), *, delete: bool = True) -> int:
        """Delete the data files that no version in `keep` or younger than `older_than` needs; without `delete`, only
        count them. Returns how many. No row changes.
        """

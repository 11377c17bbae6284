"""Committing: how rows get into a Delta table, the same on every engine. Which committer belongs to an engine is in
`etl.commits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from contracts.interval import Interval
from contracts.model import Table
from lake.delta import CommitMetadata


class Committer(Protocol):
    """What can be done to a table. `publish` and `optimize` make one version, or none when there is nothing to do, and
    return the newest version.

    `staged` are parquet files with the contract's columns, on the table's file system. `base` is the version that the
    work was based on (None for a new table): when the table has moved on, PublishError is raised and nothing is
    written. `state` is what the commit records.
    """

    def publish(
        self,
        contract: Table,
        staged: Sequence[Path],
        state: CommitMetadata,
        *,
        base: int | None,
        replace: Sequence[Interval] = (),
        whole: bool = False,
    ) -> int:
        """Append the rows; `replace` names the days of these rows, and whatever else the table holds there goes in the
        same commit; `whole` replaces all rows.
        """

    def optimize(self, contract: Table) -> int:
        """Write small files together. No row changes, and what was built from the table stays up to date."""

    def vacuum(self, contract: Table, older_than: timedelta, keep: Sequence[int] = (), *, delete: bool = True) -> int:
        """Delete data files that no version needs that is younger than `older_than` or in `keep`, or only count them.
        Returns how many. No row changes here either.
        """

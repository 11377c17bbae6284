"""Commit with delta-rs, in this process: for Sail, and any engine without a Delta of its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.interval import Interval
from contracts.model import Table
from lake import delta, publishing, settings, storage
from lake.delta import METADATA_KEY, CommitMetadata

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable


class DeltaRs:
    """See `lake.commits.Committer`."""

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
        """Move the files into the table's folder and commit them."""
        return publishing.publish(contract, staged, metadata, base=base, replace=replace, whole=whole)

    def optimize(self, contract: Table) -> int:
        """Compact. The commit repeats the last metadata, with no changed days."""
        table = open_for_maintenance(contract, "optimize")
        table.optimize.compact(commit_properties=_properties(maintenance_metadata(delta.last_commit(table)), table))
        return publishing.finish_commit(contract, table)

    def vacuum(self, contract: Table, older_than: timedelta, keep: Sequence[int] = (), *, delete: bool = True) -> int:
        """Versions in `keep` keep their files, however old. delta-rs commits before and after the deletion; both repeat
        the last metadata, as for a compaction.
        """
        table = open_for_maintenance(contract, "vacuum") if delete else publishing.open_or_create(contract)
        hours = int(older_than / timedelta(hours=1))
        vacuum = partial(
            table.vacuum, hours, enforce_retention_duration=False, keep_versions=[*keep, table.version()], full=True
        )
        root = settings.table_path(contract.qualified)
        existing = {path.relative_to(root).as_posix() for path in storage.tree(root, ".parquet")}
        unneeded = existing.intersection(vacuum(dry_run=True))  # it also lists files deleted long ago
        if delete and unneeded:
            vacuum(
                dry_run=False, commit_properties=_properties(maintenance_metadata(delta.last_commit(table), "vacuum"))
            )
            publishing.finish_commit(contract, table)
        return len(unneeded)


def open_for_maintenance(contract: Table, operation: str) -> DeltaTable:
    """The table, with the retention of its kind: tables of earlier releases get it at their first maintenance."""
    table = publishing.open_or_create(contract)
    before = table.version()
    publishing.ensure_retention(
        contract, table, _properties(maintenance_metadata(delta.last_commit(table), operation), table)
    )
    if table.version() > before:
        publishing.finish_commit(contract, table)
    return table


def maintenance_metadata(last: CommitMetadata | None, operation: str = "optimize") -> CommitMetadata:
    """The metadata of a commit that changes no row: that of the last commit, under the name of the operation."""
    return dataclasses.replace(last, run_id=operation, changed_days=()) if last else CommitMetadata(operation)


def _properties(metadata: CommitMetadata, table: DeltaTable | None = None) -> CommitProperties:
    """Properties of a commit; with `table`, fenced to its next version."""
    from deltalake import CommitProperties

    transactions = publishing.fence_transactions(table) if table else None
    return CommitProperties(
        custom_metadata={METADATA_KEY: metadata.to_json()}, app_transactions=transactions, max_commit_retries=0
    )

"""Commits by delta-rs, in this process: for Sail, and for any engine that has no Delta of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as changed
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
        state: CommitMetadata,
        *,
        base: int | None,
        replace: Sequence[Interval] = (),
        whole: bool = False,
    ) -> int:
        """Move the files under the table and commit them."""
        return publishing.publish(contract, staged, state, base=base, replace=replace, whole=whole)

    def optimize(self, contract: Table) -> int:
        """Compaction; the commit repeats the last state, with no day touched."""
        table = open_to_tidy(contract, "optimize")
        table.optimize.compact(commit_properties=_properties(untouched(delta.last_state(table)), table))
        return publishing.settled(contract, table)

    def vacuum(self, contract: Table, older_than: timedelta, keep: Sequence[int] = (), *, delete: bool = True) -> int:
        """Versions in `keep` keep their files, however old. Two commits frame the deletion; like that of a compaction
        they repeat the last state.
        """
        table = open_to_tidy(contract, "vacuum") if delete else publishing.open_or_create(contract)
        hours = int(older_than / timedelta(hours=1))
        vacuuming = partial(
            table.vacuum, hours, enforce_retention_duration=False, keep_versions=[*keep, table.version()], full=True
        )
        root = settings.table_path(contract.qualified)
        there = {path.relative_to(root).as_posix() for path in storage.tree(root, ".parquet")}
        unneeded = there.intersection(vacuuming(dry_run=True))  # it names files too that went long ago
        if delete and unneeded:
            vacuuming(dry_run=False, commit_properties=_properties(untouched(delta.last_state(table), "vacuum")))
            publishing.settled(contract, table)
        return len(unneeded)


def open_to_tidy(contract: Table, act: str) -> DeltaTable:
    """The table, whose old versions are readable for as long as those of a new one. Former code left that out for
    deleted files: a table gets it when it is tidied up.
    """
    table = publishing.open_or_create(contract)
    before = table.version()
    publishing.keep_versions(table, _properties(untouched(delta.last_state(table), act), table))
    if table.version() > before:
        publishing.settled(contract, table)
    return table


def untouched(last: CommitMetadata | None, act: str = "optimize") -> CommitMetadata:
    """The state of a commit that changes no row: that of the one before, by another name."""
    return changed(last, run_id=act, touched=()) if last else CommitMetadata(act)


def _properties(state: CommitMetadata, fenced: DeltaTable | None = None) -> CommitProperties:
    from deltalake import CommitProperties

    transactions = publishing.fenced(fenced) if fenced else None
    return CommitProperties(
        custom_metadata={METADATA_KEY: state.to_json()}, app_transactions=transactions, max_commit_retries=0
    )

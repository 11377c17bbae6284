"""Commits by delta-rs, in this process: for Sail, and for any engine that has no Delta of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace as changed
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts import settings, storage
from contracts.interval import Interval
from contracts.model import Table
from etl import delta, publishing
from etl.commits import Commit
from etl.delta import METADATA_KEY, State
from etl.publishing import PublishError

if TYPE_CHECKING:
    from deltalake import CommitProperties, DeltaTable
    from pyspark.sql import DataFrame


class DeltaRs:
    """See `etl.commits.Committer`."""

    def publish(self, contract: Table, staged: Sequence[Path], state: State, *, base: int | None, replace: Sequence[Interval] = (), whole: bool = False) -> int:
        """Move the files under the table and commit them."""
        return publishing.publish(contract, staged, state, base=base, replace=replace, whole=whole)

    def append_once(self, contract: Table, staged: Sequence[Path], state: State, once: str) -> int:
        """Delta's transaction id remembers what was appended."""
        known = delta.open_table(contract.qualified)
        if known is not None and known.transaction_version(once) is not None:
            return int(known.version())
        return publishing.publish(contract, staged, state, base=known.version() if known else None, once=once)

    def merge(self, contract: Table, staged: Sequence[Path], state: State, *, base: int | None) -> int:
        """A file is rewritten if it holds a row that is replaced."""
        refuse_doubled_keys(contract, staged)
        table = publishing.open_at(contract, base)
        rows = storage.dataset(staged).scanner(columns=list(contract.column_names)).to_reader()
        same = " AND ".join(f"target.{name} = source.{name}" for name in contract.key)
        merging = table.merge(rows, same, source_alias="source", target_alias="target", commit_properties=_properties(state, table))
        merging.when_matched_update_all().when_not_matched_insert_all().execute()
        return publishing.settled(contract, table)

    def delete(self, contract: Table, condition: str, state: State, *, base: int) -> int:
        """A file is rewritten if it holds a row that goes."""
        table = publishing.open_at(contract, base)
        table.delete(condition, commit_properties=_properties(state, table))
        return publishing.settled(contract, table)

    def optimize(self, contract: Table) -> int:
        """Compaction; the commit repeats the last state, with no day touched."""
        table = publishing.open_or_create(contract)
        table.optimize.compact(commit_properties=_properties(untouched(delta.last_state(table)), table))
        return publishing.settled(contract, table)

    def vacuum(self, contract: Table, older_than: timedelta, keep: Sequence[int] = (), *, delete: bool = True) -> int:
        """Versions in `keep` keep their files, however old. Two commits frame the deletion; like that of a compaction they repeat the last state."""
        table = publishing.open_or_create(contract)
        hours = int(older_than / timedelta(hours=1))
        vacuuming = partial(table.vacuum, hours, enforce_retention_duration=False, keep_versions=[*keep, table.version()], full=True)
        root = settings.table_path(contract.qualified)
        there = {path.relative_to(root).as_posix() for path in storage.tree(root, ".parquet")}
        unneeded = there.intersection(vacuuming(dry_run=True))  # it names files too that went long ago
        if delete and unneeded:
            vacuuming(dry_run=False, commit_properties=_properties(untouched(delta.last_state(table), "vacuum")))
            publishing.settled(contract, table)
        return len(unneeded)

    def history(self, contract: Table) -> list[Commit]:
        """From the log."""
        table = delta.open_table(contract.qualified)
        return [_commit(one) for one in table.history()] if table else []

    def at(self, contract: Table, version: int) -> DataFrame:
        """As the engine reads it."""
        return delta.read(contract.qualified, version).select(*contract.column_names)


def refuse_doubled_keys(contract: Table, staged: Sequence[Path]) -> None:
    """Which of two rows should win is not for a merge to say."""
    import duckdb

    key = ", ".join(contract.key)
    if not contract.key:
        raise PublishError(f"{contract.qualified} has no key, so nothing can be merged by it. Declare one in the contract, or replace days")
    with storage.readable(duckdb.connect(), settings.lake()) as con:
        con.execute("SET TimeZone = 'UTC'")
        query = f"SELECT {key}, count(*) FROM read_parquet(?) GROUP BY ALL HAVING count(*) > 1 LIMIT 1"
        found = con.execute(query, [[str(path) for path in staged]]).fetchone()
    if found:
        raise PublishError(
            f"{contract.qualified}: the key {key} = {', '.join(map(str, found[:-1]))} comes {found[-1]} times among the rows to merge. Nothing was written"
        )


def untouched(last: State | None, act: str = "optimize") -> State:
    """The state of a commit that changes no row: that of the one before, by another name."""
    return changed(last, run_id=act, touched=()) if last else State(act)


def _properties(state: State, fenced: DeltaTable | None = None) -> CommitProperties:
    from deltalake import CommitProperties

    transactions = publishing.fenced(fenced) if fenced else None
    return CommitProperties(custom_metadata={METADATA_KEY: state.to_json()}, app_transactions=transactions, max_commit_retries=0)


def _commit(one: dict[str, Any]) -> Commit:
    state = delta.state_of(one)
    return Commit(one["version"], datetime.fromtimestamp(one["timestamp"] / 1000, UTC), one.get("operation") or "", state.run_id if state else "")

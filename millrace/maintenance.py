"""Table maintenance: compact small files, and delete files that no release, training set or recent version needs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from contracts import catalog
from contracts.model import Layer, Table
from lake import delta, manifest, publishing, release
from lake.publishing import locked
from millrace.pipeline import translate_errors


@dataclass(frozen=True)
class MaintenanceReport:
    """What maintenance did to a table, or would do: the data files of its newest version, the number of files that it
    removed (`gone`), and the pinned versions.
    """

    table: str
    version: int
    files: int
    gone: int
    pinned: tuple[int, ...]


def published_tables(name: str | None = None) -> list[str]:
    """The named table, or all tables, as far as they are published. StageError if none is."""
    from etl.transforms import StageError

    selected = [catalog.table(name)] if name else catalog.all_tables()
    published = [table.qualified for table in selected if delta.version_of(table.qualified) is not None]
    if not published:
        raise StageError(f"{name or 'no table'} was {'never' if name else 'ever'} published. Run the DAG first")
    return published


def optimize(name: str) -> MaintenanceReport:
    """Compact a table's small files. Its rows stay the same, and files that older versions need are kept."""
    from etl.commits import committer

    table = catalog.table(name)
    with translate_errors(name), locked(name):
        before = _files(name)
        version = committer().optimize(table)
        return MaintenanceReport(name, version, _files(name), before - _files(name), pinned_versions(name))


SMALL_FILES = 200
"""Small files of a table that a lake writer compacts: those of some minutes."""
COMPACTED = 128 << 20
"""Bytes of the files that it makes of them, at most, so that it never rewrites more than that of what is there."""


REPLACED_KEPT = timedelta(days=1)
"""How long a run may read a version that the lake writer has compacted."""


def compact_small_files(table: Table) -> list[str]:
    """Compact the small files of a table and of its quarantine, where there are many, with delta-rs on every engine.
    Returns the tables' names.

    A run that reads the table meanwhile reads its version, whose files are kept; one that writes it waits.
    """
    compacted = []
    for name in (table.qualified, f"{Layer.QUARANTINE}.{table.name}"):
        if _small_files(name) >= SMALL_FILES:
            with translate_errors(name, "the lake writer tries again"), locked(name):
                _compact(name, table if name == table.qualified else None)
            compacted.append(name)
    return compacted


def delete_replaced_files(table: Table) -> int:
    """Delete files that a table with a topic has replaced a day ago: no release pins its versions. Returns how many."""
    from lake.commits.delta_rs import DeltaRs

    with translate_errors(table.qualified, "the lake writer tries again"), locked(table.qualified):
        return DeltaRs().vacuum(table, REPLACED_KEPT, pinned_versions(table.qualified))


def _small_files(name: str) -> int:
    opened = delta.open_table(name)
    return sum(file["size_bytes"] < COMPACTED // 2 for file in delta.data_files(opened)) if opened else 0


def _compact(name: str, contract: Table | None) -> None:
    """Commit the compaction; the metadata is that of the last commit, with no changed days. Of a table with a contract,
    the log is shortened to what its retention says.
    """
    from deltalake import CommitProperties

    from lake.commits.delta_rs import maintenance_metadata, open_for_maintenance

    opened = open_for_maintenance(contract, "optimize") if contract else delta.open_to_write(name)
    if opened is None:
        return
    metadata = maintenance_metadata(delta.last_commit(opened)).to_json()
    properties = CommitProperties(
        custom_metadata={delta.METADATA_KEY: metadata},
        app_transactions=publishing.fence_transactions(opened),
        max_commit_retries=0,
    )
    opened.optimize.compact(target_size=COMPACTED, commit_properties=properties)
    opened.update_incremental()
    publishing.sync_log(name, opened.version())
    if contract:
        publishing.write_checkpoint(contract, opened)
        opened.cleanup_metadata()


def pinned_versions(name: str, since: int = 0, forgotten: Collection[str] = ()) -> tuple[int, ...]:
    """The versions of a table that releases from number `since` on, or training sets not in `forgotten`, pin."""
    identity = delta.id_of(name)
    return tuple(
        sorted({*release.pinned_versions(name, identity, since), *manifest.pinned_versions(name, identity, forgotten)})
    )


def forget_releases(before: int) -> list[int]:
    """Remove the releases before that number, and return their numbers.

    The next vacuum deletes the files that only they needed; training sets keep theirs.
    """
    with locked("release"):
        return release.forget_before(before)


def vacuum(
    name: str, older_than: timedelta, *, delete: bool, since: int = 0, forgotten: Collection[str] = ()
) -> MaintenanceReport:
    """Delete, or only count, the files of a table that no pinned version needs and that were replaced before
    `older_than`.

    Releases before number `since`, and the `forgotten` training sets, pin nothing.
    """
    from etl.commits import committer

    table = catalog.table(name)
    with translate_errors(name), locked("release"), locked(name):
        pinned = pinned_versions(name, since, forgotten)
        gone = committer().vacuum(table, older_than, pinned, delete=delete)
        return MaintenanceReport(name, delta.version_of(name) or 0, _files(name), gone, pinned)


def _files(name: str) -> int:
    opened = delta.open_table(name)
    return len(delta.data_files(opened)) if opened else 0

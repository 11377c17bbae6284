"""Maintenance of tables: compact small files, and delete those that no release, training set or recent version
needs.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from contracts import catalog
from lake import manifest, release
from millrace.pipeline import translate_errors


@dataclass(frozen=True)
class MaintenanceReport:
    """What tidying up did to a table, or would do: the data files of its newest version, how many others went, and the
    versions that are pinned.
    """

    table: str
    version: int
    files: int
    gone: int
    pinned: tuple[int, ...]


def published_tables(name: str | None = None) -> list[str]:
    """That table, or all; the published ones. StageError when there is none."""
    from etl.transforms import StageError
    from lake import delta

    wanted = [catalog.table(name)] if name else catalog.all_tables()
    found = [one.qualified for one in wanted if delta.version_of(one.qualified) is not None]
    if not found:
        raise StageError(f"{name or 'no table'} was {'never' if name else 'ever'} published. Run the DAG first")
    return found


def optimize(name: str) -> MaintenanceReport:
    """Write a table's small files together. Rows stay, and so do the files that older versions need."""
    from etl.commits import committer
    from lake.publishing import locked

    table = catalog.table(name)
    with translate_errors(name), locked(name):
        before = _files(name)
        version = committer().optimize(table)
        return MaintenanceReport(name, version, _files(name), before - _files(name), pinned_versions(name))


def pinned_versions(name: str, since: int = 0, forgotten: Collection[str] = ()) -> tuple[int, ...]:
    """The versions of a table that a release from number `since` on names, or a training set that is not
    `forgotten`.
    """
    from lake import delta

    identity = delta.id_of(name)
    return tuple(
        sorted({*release.pinned_versions(name, identity, since), *manifest.pinned_versions(name, identity, forgotten)})
    )


def forget_releases(before: int) -> list[int]:
    """Remove the releases before that number, and return theirs. Their files go with the next vacuum, but for those
    that training sets need.
    """
    from lake.publishing import locked

    with locked("release"):
        return release.forget_before(before)


def vacuum(
    name: str, older_than: timedelta, *, delete: bool, since: int = 0, forgotten: Collection[str] = ()
) -> MaintenanceReport:
    """Delete the files of a table that only versions need that are not pinned and that were replaced so long ago, or
    only count them.

    Releases before number `since`, and the `forgotten` training sets, pin nothing.
    """
    from etl.commits import committer
    from lake import delta
    from lake.publishing import locked

    table = catalog.table(name)
    with translate_errors(name), locked("release"), locked(name):
        pinned = pinned_versions(name, since, forgotten)
        gone = committer().vacuum(table, older_than, pinned, delete=delete)
        return MaintenanceReport(name, delta.version_of(name) or 0, _files(name), gone, pinned)


def _files(name: str) -> int:
    from lake import delta

    found = delta.open_table(name)
    return len(delta.data_files(found)) if found else 0

"""Table maintenance: compact small files, and delete files that no release, training set or recent version needs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta

from contracts import catalog
from lake import manifest, release
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
    from lake import delta

    selected = [catalog.table(name)] if name else catalog.all_tables()
    published = [table.qualified for table in selected if delta.version_of(table.qualified) is not None]
    if not published:
        raise StageError(f"{name or 'no table'} was {'never' if name else 'ever'} published. Run the DAG first")
    return published


def optimize(name: str) -> MaintenanceReport:
    """Compact a table's small files. Its rows stay the same, and files that older versions need are kept."""
    from etl.commits import committer
    from lake.publishing import locked

    table = catalog.table(name)
    with translate_errors(name), locked(name):
        before = _files(name)
        version = committer().optimize(table)
        return MaintenanceReport(name, version, _files(name), before - _files(name), pinned_versions(name))


def pinned_versions(name: str, since: int = 0, forgotten: Collection[str] = ()) -> tuple[int, ...]:
    """The versions of a table that releases from number `since` on, or training sets not in `forgotten`, pin."""
    from lake import delta

    identity = delta.id_of(name)
    return tuple(
        sorted({*release.pinned_versions(name, identity, since), *manifest.pinned_versions(name, identity, forgotten)})
    )


def forget_releases(before: int) -> list[int]:
    """Remove the releases before that number, and return their numbers.

    The next vacuum deletes the files that only they needed; training sets keep theirs.
    """
    from lake.publishing import locked

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
    from lake import delta
    from lake.publishing import locked

    table = catalog.table(name)
    with translate_errors(name), locked("release"), locked(name):
        pinned = pinned_versions(name, since, forgotten)
        gone = committer().vacuum(table, older_than, pinned, delete=delete)
        return MaintenanceReport(name, delta.version_of(name) or 0, _files(name), gone, pinned)


def _files(name: str) -> int:
    from lake import delta

    opened = delta.open_table(name)
    return len(delta.data_files(opened)) if opened else 0

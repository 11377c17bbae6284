"""Whether the table versions that a training set was made from can still be read, and if not, why."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from lake import settings, storage


class VersionGoneError(LookupError):
    """A required table version is gone; the message says which one and why."""


def ensure_available(versions: Iterable[tuple[str, str, int]], reader: str) -> None:
    """Raise VersionGoneError unless all files of each (table name, Delta id, version) exist."""
    files = cache(_files)
    for table, identity, version in versions:
        if why := _problem(table, identity, version, files(table)):
            raise VersionGoneError(
                f"{reader} needs version {version} of {table}, which is gone: {why}. It cannot be rebuilt; read the"
                " data that it holds, or create another one from a current release"
            )


def _problem(table: str, identity: str, version: int, present: frozenset[str]) -> str:
    path = settings.table_path(table)
    try:
        newest = DeltaTable(str(path))
        if identity and str(newest.metadata().id) != identity:
            return "the table was removed and rebuilt since"
        if version > newest.version():
            return f"the table's newest version is {newest.version()}, so its log was rolled back"
        actions = DeltaTable(str(path), version=version).get_add_actions(flatten=True)
    except TableNotFoundError:
        return f"there is no table at {path}"
    except DeltaError as error:
        return f"its log cannot be read back that far ({str(error).splitlines()[0].rstrip('.')})"
    expected = {str(name) for name in actions.column("path").to_pylist()}
    gone = expected - present
    if not gone:
        return ""
    return f"{len(gone)} of its {len(expected)} data files were deleted, {_likely_cause(newest)}"


def _likely_cause(table: DeltaTable) -> str:
    """The likely cause: the last vacuum in the log, if there was one."""
    vacuums = [commit for commit in table.history() if "VACUUM" in (commit.get("operation") or "").upper()]
    return (
        f"probably by the vacuum that made version {vacuums[0]['version']} of the table and was told to delete it"
        if vacuums
        else "though the log has no vacuum"
    )


def _files(table: str) -> frozenset[str]:
    root = settings.table_path(table)
    return frozenset(path.relative_to(root).as_posix() for path in storage.tree(root, ".parquet"))

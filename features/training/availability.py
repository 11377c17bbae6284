"""Whether the versions that a training set was made from can still be read, and if not, why."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from lake import settings, storage


class VersionGoneError(LookupError):
    """A table version that is needed is gone; the message says which, and what happened to it."""


def ensure_there(versions: Iterable[tuple[str, str, int]], who: str) -> None:
    """Raise VersionGoneError unless each table (name, Delta id, version) can be read whole."""
    files = cache(_files)
    for table, identity, version in versions:
        if why := _lacking(table, identity, version, files(table)):
            raise VersionGoneError(
                f"{who} needs version {version} of {table}, which is gone: {why}. It cannot be made again; read the"
                " data that it holds, or make another from a release of today"
            )


def _lacking(table: str, identity: str, version: int, present: frozenset[str]) -> str:
    path = settings.table_path(table)
    try:
        newest = DeltaTable(str(path))
        if identity and str(newest.metadata().id) != identity:
            return "the table was removed and built anew since"
        if version > newest.version():
            return f"the table's newest version is {newest.version()}, so its log was set back"
        named = DeltaTable(str(path), version=version).get_add_actions(flatten=True)
    except TableNotFoundError:
        return f"there is no table at {path}"
    except DeltaError as error:
        return f"its log cannot be read back so far ({str(error).splitlines()[0].rstrip('.')})"
    wanted = {str(one) for one in named.column("path").to_pylist()}
    gone = wanted - present
    if not gone:
        return ""
    return f"{len(gone)} of its {len(wanted)} data files were deleted, {_by_whom(newest)}"


def _by_whom(table: DeltaTable) -> str:
    """The last vacuum of the log, if there was one."""
    vacuums = [one for one in table.history() if "VACUUM" in (one.get("operation") or "").upper()]
    return (
        f"probably by the vacuum that made version {vacuums[0]['version']} of the table and was told to let it go"
        if vacuums
        else "and not by a vacuum that the log knows of"
    )


def _files(table: str) -> frozenset[str]:
    root = settings.table_path(table)
    return frozenset(path.relative_to(root).as_posix() for path in storage.tree(root, ".parquet"))

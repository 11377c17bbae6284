"""The files of the lake, on a file system or in an S3 bucket: one set of verbs for both.

A local file is moved by renaming and locked by the kernel. A bucket knows neither: there a copy stands in for the move, and a lease, kept by conditional PUTs, for the lock.
Paths in a bucket are `UPath`s, which have the methods of `Path`. Credentials and endpoint come from the environment, under the names that AWS gave them.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from contracts import bucket, files
from contracts.bucket import LockedError, StorageError

if TYPE_CHECKING:
    import duckdb


class Entry(NamedTuple):
    """A file in a folder. `mark` changes whenever its content does."""

    name: str
    size: int
    mark: tuple[Any, ...]


def place(root: str) -> Path:
    """A folder, or `s3://bucket/key`; StorageError for anything else."""
    return bucket.place(root) if is_remote(root) else absolute(root)


def absolute(path: Path | str) -> Path:
    """The path without links, whether it exists or not; OSError with the path for a link that leads back to itself."""
    expanded = Path(path).expanduser()
    try:
        expanded.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:  # `resolve` would raise a RuntimeError, and from Python 3.13 on say nothing
            raise
    return expanded.resolve()


def is_remote(path: Path | str) -> bool:
    """Whether this lies in an object store."""
    return "://" in str(path)


# --- files


def read(path: Path) -> bytes | None:
    """The content; None when there is no such file."""
    try:
        if not is_remote(path):
            return path.read_bytes()
        store, key = bucket.located(path)
        with bucket.answering(path):
            return bytes(store.get(key).bytes())
    except FileNotFoundError:
        return None


def write_whole(path: Path, content: bytes, *, new: bool = False) -> None:
    """Put `content` at `path` in one step; a reader sees the old bytes or the new ones. If it has to be `new`, FileExistsError where something is."""
    if not is_remote(path):
        if new and path.exists():
            raise FileExistsError(str(path))
        files.write_whole(path, content)
        return
    from obstore.exceptions import AlreadyExistsError

    store, key = bucket.located(path)
    with bucket.answering(path):
        try:
            store.put(key, content, mode="create" if new else "overwrite")
        except AlreadyExistsError:
            raise FileExistsError(str(path)) from None


def move(source: Path, target: Path) -> None:
    """Give a complete file its final name, on the disk before anyone may rely on it. In a bucket the source stays, for its folder's owner to remove."""
    if not is_remote(target):
        files.sync(source)
        source.rename(target)
        return
    store, key = bucket.located(target)
    with bucket.answering(target):
        store.copy(bucket.located(source)[1], key)


def sync(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk; an object store sees to that itself."""
    if not is_remote(path):
        files.sync(path)


def make_folder(path: Path) -> None:
    """A bucket has no folders to make."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def remove(path: Path) -> None:
    """Remove a file, if it is there."""
    if not is_remote(path):
        path.unlink(missing_ok=True)
        return
    store, key = bucket.located(path)
    with suppress(FileNotFoundError), bucket.answering(path):
        store.delete(key)


def remove_tree(path: Path) -> None:
    """Remove all below, as far as it is there and can be removed."""
    if not is_remote(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    store, key = bucket.located(path)
    with suppress(StorageError), bucket.answering(path):
        for page in store.list(f"{key}/"):
            store.delete([one["path"] for one in page])


def tree(path: Path, suffix: str) -> list[Path]:
    """The files below whose names end so, sorted."""
    if not is_remote(path):
        return sorted(path.rglob(f"*{suffix}"))
    store, key = bucket.located(path)
    with bucket.answering(path):
        found = [one["path"] for page in store.list(f"{key}/") for one in page]
    return [path / one.removeprefix(f"{key}/") for one in sorted(found) if one.endswith(suffix)]


def newest(folder: Path, suffix: str) -> Entry | None:
    """The file with the greatest name that begins with a digit and ends so; None when there is none."""
    if is_remote(folder):
        with bucket.answering(folder):
            return _newest_remote(folder, suffix)
    try:
        with os.scandir(folder) as entries:
            found = max((one for one in entries if one.name[0].isdigit() and one.name.endswith(suffix)), key=lambda one: one.name, default=None)
    except FileNotFoundError:
        return None
    if found is None:
        return None
    about = found.stat()
    return Entry(found.name, about.st_size, (found.name, found.inode(), about.st_size, about.st_mtime_ns))


def _newest_remote(folder: Path, suffix: str) -> Entry | None:
    """Listed from the last one seen on: a log of thousands of commits would be pages to list. When that one is gone, listed whole."""
    store, key = bucket.located(folder)
    before = _seen.pop(str(folder), None)
    for offset in (before, None) if before else (None,):
        found = [(one["path"].removeprefix(f"{key}/"), one) for page in store.list(f"{key}/", offset=offset) for one in page]
        numbered = [(name, one) for name, one in found if name[0].isdigit() and name.endswith(suffix) and "/" not in name]
        if numbered:
            name, one = max(numbered, key=lambda pair: pair[0])
            _seen[str(folder)] = f"{key}/{name[:-1]}"
            return Entry(name, one["size"], (name, one["e_tag"], one["size"], one["last_modified"]))
    return None


_seen: dict[str, str] = {}
"""Folder -> a key just before the newest file in it."""


def footer(path: Path) -> Any:
    """What the end of a parquet file says about it."""
    import pyarrow.parquet as pq

    if not is_remote(path):
        return pq.read_metadata(path)
    with path.open("rb") as file:
        return pq.read_metadata(file)


def dataset(paths: Sequence[Path]) -> Any:
    """Parquet files as an Arrow dataset."""
    import pyarrow.dataset as ds

    if not paths or not is_remote(paths[0]):
        return ds.dataset([str(path) for path in paths], format="parquet")
    filesystem = paths[0].fs  # type: ignore[attr-defined]
    return ds.dataset([str(path).removeprefix("s3://") for path in paths], format="parquet", filesystem=filesystem)


def readable(connection: duckdb.DuckDBPyConnection, root: Path) -> duckdb.DuckDBPyConnection:
    """The connection, able to read files below `root`."""
    if is_remote(root):
        connection.register_filesystem(root.fs)  # type: ignore[attr-defined]
    return connection


# --- locks


@contextmanager
def locked(path: Path, timeout: float) -> Iterator[None]:
    """Be the only one inside, among all processes that see the path. It ends with its process: at once on a file system, after LEASE_SECONDS in a bucket."""
    if is_remote(path):
        with bucket.Lease(path, timeout):
            yield
        return
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(path, timeout=timeout):
            yield
    except Timeout:
        raise LockedError(str(path)) from None

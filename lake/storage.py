"""The files of lake and landing zone, on a file system or in an S3 bucket: one set of verbs for both.

A local file is moved by renaming and locked by the kernel. A bucket knows neither: there a copy stands in for the move,
and a lease, kept by conditional PUTs, for the lock. Paths in a bucket are `UPath`s, which have the methods of `Path`.
Credentials and endpoint come from the environment, under the names that AWS gave them.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, TypeAlias, TypeVar

from lake import bucket, files
from lake.bucket import ChangedError, FolderEntry, LockedError, ObjectSource, StorageError

if TYPE_CHECKING:
    import duckdb


T = TypeVar("T")
R = TypeVar("R")


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
    """Put `content` at `path` in one step; a reader sees the old bytes or the new ones. If it has to be `new`,
    FileExistsError where something is.
    """
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
    """Give a complete file its final name, on the disk before anyone may rely on it. In a bucket the source stays, for
    its folder's owner to remove.
    """
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
            found = max(
                (one for one in entries if one.name[0].isdigit() and one.name.endswith(suffix)),
                key=lambda one: one.name,
                default=None,
            )
    except FileNotFoundError:
        return None
    if found is None:
        return None
    about = found.stat()
    return Entry(found.name, about.st_size, (found.name, found.inode(), about.st_size, about.st_mtime_ns))


def _newest_remote(folder: Path, suffix: str) -> Entry | None:
    """Listed from the last one seen on: a log of thousands of commits would be pages to list. When that one is gone,
    listed whole.
    """
    store, key = bucket.located(folder)
    before = _seen.pop(str(folder), None)
    for offset in (before, None) if before else (None,):
        found = [
            (one["path"].removeprefix(f"{key}/"), one) for page in store.list(f"{key}/", offset=offset) for one in page
        ]
        numbered = [
            (name, one) for name, one in found if name[0].isdigit() and name.endswith(suffix) and "/" not in name
        ]
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


# --- files that others write


class FileSource:
    """A file on a file system, in the state of the mark, or in any if there is none."""

    held = 0

    def __init__(self, path: Path, mark: tuple[int, ...] | None = None) -> None:
        self.path, self.mark = path, mark

    def fetch(self) -> FileSource:
        """This source: a file system needs no head start."""
        return self

    def open(self, mode: str = "rb") -> BinaryIO:  # noqa: ARG002 (as `Path.open`)
        """The content as a file."""
        return self.path.open("rb")

    def for_arrow(self) -> Any:
        """What Arrow reads it from."""
        return self.path

    def release(self) -> None:
        """It is not in memory."""

    def ensure_same(self) -> None:
        """Raise ChangedError if the file is not in the state of its mark any more."""
        try:
            if self.mark is None or _mark(self.path.stat()) == self.mark:
                return
            what = f"{self.path} was replaced while it was read"
        except FileNotFoundError:
            what = f"{self.path} was removed while it was read"
        remedy = "Wait until it is whole"
        raise ChangedError(f"{what}. {remedy}, then run again", what, remedy)


AnyEntry: TypeAlias = "os.DirEntry[str] | FolderEntry"
"""A file or a folder, in a folder of a file system or of a bucket."""
Source: TypeAlias = "FileSource | ObjectSource"
"""A file in one state, to be read several times."""


def _mark(about: os.stat_result) -> tuple[int, ...]:
    return about.st_ino, about.st_size, about.st_mtime_ns


def source(path: Path) -> Source:
    """The file as it is now."""
    return ObjectSource(path) if is_remote(path) else FileSource(path)


def digest(path: Path) -> tuple[str, Source]:
    """SHA-256 of a file's content, in hex, and the file in the state that has it.

    A large file is never in memory as a whole.
    """
    if is_remote(path):
        return bucket.digest(path)
    with path.open("rb") as content:
        mark = _mark(os.fstat(content.fileno()))  # before: what is written meanwhile changes it
        return hashlib.file_digest(content, "sha256").hexdigest(), FileSource(path, mark)


def is_folder(path: Path | str) -> bool:
    """Whether there is such a folder; in a bucket, whether anything lies in it."""
    return bucket.exists(path) if is_remote(path) else Path(path).is_dir()


def entries(folder: Path | str) -> Sequence[AnyEntry]:
    """What lies in a folder: files and folders, in any order.

    Raises OSError if a file system has no such folder; in a bucket it is empty.
    """
    if is_remote(folder):
        return bucket.entries(folder)
    with os.scandir(folder) as found:
        return list(found)


def entries_of(folders: Sequence[str]) -> Iterator[Sequence[AnyEntry]]:
    """What lies in each of these folders of one parent; in a bucket, by one listing."""
    if folders and is_remote(folders[0]):
        return bucket.entries_of(folders)
    return map(entries, folders)


def side_by_side(function: Callable[[T], R], items: Iterable[T], where: Path) -> Iterator[R]:
    """The function of each item, in their order: of objects in a bucket some at a time, as each waits for an answer."""
    return bucket.side_by_side(function, items) if is_remote(where) else map(function, items)


# --- locks


@contextmanager
def locked(path: Path, timeout: float) -> Iterator[None]:
    """Be the only one inside, among all processes that see the path. It ends with its process: at once on a file
    system, after LEASE_SECONDS in a bucket.
    """
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

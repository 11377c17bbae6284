"""File operations of the lake and the landing zone, on a file system or in an S3 bucket.

A local file is moved with a rename and locked by the kernel; in a bucket, a copy replaces the rename, and a lease of
conditional PUTs the lock. Paths in a bucket are `UPath`s, which have the methods of `Path`. Credentials and endpoint
come from the usual AWS variables.
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
Mark: TypeAlias = tuple[Any, ...]
"""Identifies one version of a file. JSON can hold it."""


class Entry(NamedTuple):
    """A file in a folder. `mark` changes whenever its content does."""

    name: str
    size: int
    mark: tuple[Any, ...]


def to_path(root: str) -> Path:
    """The path of a folder or of `s3://bucket/key`; StorageError for anything else."""
    return bucket.to_path(root) if is_remote(root) else absolute(root)


def absolute(path: Path | str) -> Path:
    """The absolute path with symbolic links resolved, existing or not; OSError for a link that leads back to itself."""
    expanded = Path(path).expanduser()
    try:
        expanded.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:  # `resolve` raises a RuntimeError, and nothing from Python 3.13 on
            raise
    return expanded.resolve()


def is_remote(path: Path | str) -> bool:
    """Whether the path is in an object store."""
    return "://" in str(path)


# --- files


def read(path: Path) -> bytes | None:
    """The content of a file; None when there is no such file."""
    try:
        if not is_remote(path):
            return path.read_bytes()
        store, key = bucket.store_and_key(path)
        with bucket.translate_errors(path):
            return bytes(store.get(key).bytes())
    except FileNotFoundError:
        return None


def write_whole(path: Path, content: bytes, *, new: bool = False) -> None:
    """Write `content` to `path` atomically: a reader sees the old bytes or the new ones. FileExistsError if `path` must
    be `new` and exists.
    """
    if not is_remote(path):
        if new and path.exists():
            raise FileExistsError(str(path))
        files.write_whole(path, content)
        return
    from obstore.exceptions import AlreadyExistsError

    store, key = bucket.store_and_key(path)
    with bucket.translate_errors(path):
        try:
            store.put(key, content, mode="create" if new else "overwrite")
        except AlreadyExistsError:
            raise FileExistsError(str(path)) from None


def move(source: Path, target: Path) -> None:
    """fsync a file and rename it. In a bucket this is a copy, and the source stays."""
    if not is_remote(target):
        files.sync(source)
        source.rename(target)
        return
    store, key = bucket.store_and_key(target)
    with bucket.translate_errors(target):
        store.copy(bucket.store_and_key(source)[1], key)


def place(source: Path, target: Path) -> None:
    """Give a complete file of this machine the name `target`, at once and whole: on its file system, or in a bucket,
    where it is uploaded and `source` stays.
    """
    if not is_remote(target):
        move(source, target)
        files.sync(target.parent)
        return
    store, key = bucket.store_and_key(target)
    with bucket.translate_errors(target):
        store.put(key, source)


def sync(path: Path) -> None:
    """fsync a file or a directory. Object stores need no such call."""
    if not is_remote(path):
        files.sync(path)


def make_folder(path: Path) -> None:
    """Make a folder and its parents. Buckets have no folders to make."""
    if not is_remote(path):
        path.mkdir(parents=True, exist_ok=True)


def remove(path: Path) -> None:
    """Remove a file, if it exists."""
    if not is_remote(path):
        path.unlink(missing_ok=True)
        return
    store, key = bucket.store_and_key(path)
    with suppress(FileNotFoundError), bucket.translate_errors(path):
        store.delete(key)


def remove_tree(path: Path) -> None:
    """Remove a folder and all of its files, as far as possible; errors are ignored."""
    if not is_remote(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    store, key = bucket.store_and_key(path)
    with suppress(StorageError), bucket.translate_errors(path):
        for page in store.list(f"{key}/"):
            store.delete([meta["path"] for meta in page])


def tree(path: Path, suffix: str) -> list[Path]:
    """The files below `path` with names that end in `suffix`, sorted."""
    if not is_remote(path):
        return sorted(path.rglob(f"*{suffix}"))
    store, key = bucket.store_and_key(path)
    with bucket.translate_errors(path):
        keys = [meta["path"] for page in store.list(f"{key}/") for meta in page]
    return [path / name.removeprefix(f"{key}/") for name in sorted(keys) if name.endswith(suffix)]


def newest(folder: Path, suffix: str) -> Entry | None:
    """The file with the greatest name that begins with a digit and ends in `suffix`; None when there is none."""
    if is_remote(folder):
        with bucket.translate_errors(folder):
            return _newest_remote(folder, suffix)
    try:
        with os.scandir(folder) as entries:
            last = max(
                (entry for entry in entries if entry.name[0].isdigit() and entry.name.endswith(suffix)),
                key=lambda entry: entry.name,
                default=None,
            )
    except FileNotFoundError:
        return None
    if last is None:
        return None
    stat = last.stat()
    return Entry(last.name, stat.st_size, (last.name, last.inode(), stat.st_size, stat.st_mtime_ns))


def _newest_remote(folder: Path, suffix: str) -> Entry | None:
    """`newest` in a bucket: list from the newest file of the last call on, because a log of thousands of commits takes
    several pages. List the whole folder when that file is gone.
    """
    store, key = bucket.store_and_key(folder)
    before = _seen.pop(str(folder), None)
    for offset in (before, None) if before else (None,):
        objects = {
            meta["path"].removeprefix(f"{key}/"): meta for page in store.list(f"{key}/", offset=offset) for meta in page
        }
        numbered = [name for name in objects if name[0].isdigit() and name.endswith(suffix) and "/" not in name]
        if numbered:
            name = max(numbered)
            meta = objects[name]
            _seen[str(folder)] = f"{key}/{name[:-1]}"
            return Entry(name, meta["size"], (name, meta["e_tag"], meta["size"], meta["last_modified"]))
    return None


_seen: dict[str, str] = {}
"""Folder -> a key just before its newest file."""


def footer(path: Path) -> Any:
    """The metadata of a parquet file."""
    import pyarrow.parquet as pq

    if not is_remote(path):
        return pq.read_metadata(path)
    with path.open("rb") as file:
        return pq.read_metadata(file)


def dataset(paths: Sequence[Path]) -> Any:
    """An Arrow dataset of parquet files."""
    import pyarrow.dataset as ds

    if not paths or not is_remote(paths[0]):
        return ds.dataset([str(path) for path in paths], format="parquet")
    filesystem = paths[0].fs  # type: ignore[attr-defined]
    return ds.dataset([str(path).removeprefix("s3://") for path in paths], format="parquet", filesystem=filesystem)


def readable(connection: duckdb.DuckDBPyConnection, root: Path) -> duckdb.DuckDBPyConnection:
    """The connection, set up to read files below `root`."""
    if is_remote(root):
        connection.register_filesystem(root.fs)  # type: ignore[attr-defined]
    return connection


# --- files that other systems write


class FileSource:
    """A file on a file system: the version with this fingerprint, or any version without one."""

    cached_bytes = 0

    def __init__(self, path: Path, fingerprint: tuple[int, ...] | None = None) -> None:
        self.path, self.fingerprint = path, fingerprint

    def fetch(self) -> FileSource:
        """This source. A file system needs no prefetching."""
        return self

    def open(self, mode: str = "rb") -> BinaryIO:  # noqa: ARG002 (as `Path.open`)
        """The content as a file."""
        return self.path.open("rb")

    def for_arrow(self) -> Any:
        """The input for Arrow's readers."""
        return self.path

    def release(self) -> None:
        """Do nothing: the content is not cached."""

    def ensure_unchanged(self) -> None:
        """Raise ChangedError if the file no longer has its fingerprint."""
        try:
            if self.fingerprint is None or _fingerprint(self.path.stat()) == self.fingerprint:
                return
            what = f"{self.path} was replaced while it was read"
        except FileNotFoundError:
            what = f"{self.path} was removed while it was read"
        remedy = "Wait until it is complete"
        raise ChangedError(f"{what}. {remedy}, then run again", what, remedy)


AnyEntry: TypeAlias = "os.DirEntry[str] | FolderEntry"
"""A file or a folder of a file system or of a bucket."""
Source: TypeAlias = "FileSource | ObjectSource"
"""One version of a file, which can be read several times."""


def _fingerprint(stat: os.stat_result) -> tuple[int, ...]:
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def source(path: Path) -> Source:
    """The current version of a file."""
    return ObjectSource(path) if is_remote(path) else FileSource(path)


def digest(path: Path) -> tuple[str, Source]:
    """SHA-256 of a file's content, in hex, and the version that has it. Large files are hashed in chunks."""
    if is_remote(path):
        return bucket.digest(path)
    with path.open("rb") as content:
        fingerprint = _fingerprint(os.fstat(content.fileno()))  # before hashing, so that a write meanwhile is noticed
        return hashlib.file_digest(content, "sha256").hexdigest(), FileSource(path, fingerprint)


def is_folder(path: Path | str) -> bool:
    """Whether the folder exists; in a bucket, whether it has any object."""
    return bucket.exists(path) if is_remote(path) else Path(path).is_dir()


def entries(folder: Path | str) -> Sequence[AnyEntry]:
    """The files and folders in a folder, in any order. OSError if a file system has no such folder; in a bucket it is
    empty.
    """
    if is_remote(folder):
        return bucket.entries(folder)
    with os.scandir(folder) as listing:
        return list(listing)


def entries_of(folders: Sequence[str]) -> Iterator[Sequence[AnyEntry]]:
    """`entries` of each of these folders of one parent, in a bucket from one listing."""
    if folders and is_remote(folders[0]):
        return bucket.entries_of(folders)
    return map(entries, folders)


def marks(folder: Path | str) -> dict[str, Mark]:
    """The mark of each file in the folders of a folder, by `<folder>/<file>`; empty where there is no such folder.

    What is removed meanwhile is left out, and so are links that lead nowhere.
    """
    if is_remote(folder):
        return bucket.marks(folder)
    found: dict[str, Mark] = {}
    for inner in _scan(folder):
        if inner.is_dir():
            for file in _scan(inner.path):
                with suppress(OSError):
                    if file.is_file():
                        found[f"{inner.name}/{file.name}"] = _mark(file.stat())
    return found


def _scan(folder: Path | str) -> Sequence[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as listing:
            return list(listing)
    except (FileNotFoundError, NotADirectoryError):
        return ()


def _mark(stat: os.stat_result) -> Mark:
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def map_concurrently(function: Callable[[T], R], items: Iterable[T], where: Path) -> Iterator[R]:
    """`map`, in order; for objects in a bucket with several requests at a time."""
    return bucket.map_concurrently(function, items) if is_remote(where) else map(function, items)


# --- locks


@contextmanager
def locked(path: Path, timeout: float) -> Iterator[None]:
    """Hold an exclusive lock among all processes that see the path. It ends with its process: at once on a file system,
    after LEASE_SECONDS in a bucket.
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

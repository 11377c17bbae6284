"""Generations as sqlite files in one folder, for the processes of one machine; a pointer file names the one in use.

A read is one index lookup per view, without a server.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Hashable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from itertools import chain
from pathlib import Path

from features.online import tables
from features.online.generation import (
    GenerationMetadata,
    Key,
    OnlineStoreDamagedError,
    ReadRow,
    RowSchema,
    StoredRow,
    damaged_error,
    empty_error,
    ensure_views,
    new_name,
    parse_metadata,
)
from features.streaming import sqlite as tails
from features.streaming.tail_store import TailRows
from features.type_mapping import convert_row
from lake import settings
from lake.files import locked, sync, write_whole
from lake.sql import identifier

BUSY_SECONDS = 10.0
LARGEST_PIECE = 64
"""Keys that one statement looks up."""
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.sqlite")
"""A generation's file name in the pointer; it cannot lead outside of the folder."""
WHERE = "$MILLRACE_HOME/feast/online"
"""The folder's name in messages, which HTTP clients may see."""
MAPPED_BYTES = 1 << 40
"""Memory-mapped bytes per generation; sqlite maps 2 GB at most."""


def folder() -> Path:
    """`$MILLRACE_HOME/feast/online`."""
    return settings.home() / "feast" / "online"


def pointer() -> Path:
    """The file that names the current generation, and the former one."""
    return folder() / "current.json"


def path_of(name: str) -> Path:
    """The file of a generation."""
    return folder() / f"{name}.sqlite"


class SqliteBackend:
    """The folder below `MILLRACE_HOME`."""

    @property
    def where(self) -> str:
        """The folder, under a name that is the same on every machine."""
        return WHERE

    def current(self) -> str | None:
        """The generation in use; None also when its file was deleted."""
        files = _pointer_files()
        return Path(files[0]).stem if files and (folder() / files[0]).exists() else None

    def metadata(self) -> GenerationMetadata | None:
        """Read from the file in use."""
        if self.current() is None:
            return None
        name, connection = _open_current()
        with closing(connection):
            return _metadata(connection, name)

    def published_at(self) -> datetime | None:
        """The time of the pointer file, which is replaced as a whole."""
        with suppress(FileNotFoundError):
            return datetime.fromtimestamp(pointer().stat().st_mtime, UTC)
        return None

    def session(self) -> SqliteSession:
        """Costs one stat a request while the generation stays the same."""
        return SqliteSession()

    def open(self, name: str) -> SqliteReader:
        """A reader of that file."""
        return SqliteReader(name, _open(name))

    @contextmanager
    def drafting(self, label: str) -> Iterator[SqliteDraft]:
        """One at a time on a machine."""
        with locked(_load_lock()):
            _clean()
            draft = SqliteDraft(label)
            try:
                yield draft
            finally:
                draft.discard()
                _clean()

    def merge(self, row_schema: RowSchema, rows: Sequence[StoredRow]) -> None:
        """In one transaction."""
        with _writing() as connection:
            _prepare(connection, row_schema)
            connection.executemany(tables.upsert(identifier(row_schema.view), row_schema, "?"), rows)

    def drop(self, views: Sequence[str]) -> None:
        """Drop their tables."""
        if views and self.current() is not None:
            with _writing() as connection:
                for view in views:
                    connection.execute(f"DROP TABLE IF EXISTS {identifier(view)}")

    def remove_all(self) -> None:
        """Delete the files; a loader is waited for."""
        with locked(_load_lock()), locked(_write_lock()):
            pointer().unlink(missing_ok=True)
            for path in folder().glob("*.sqlite*"):
                path.unlink()
            tails.remove_file()

    def tails(self) -> tails.SqliteTailStore:
        """In a file of their own."""
        return tails.SqliteTailStore()


class SqliteSession:
    """Detects a new generation by the pointer's inode and modification time."""

    def __init__(self) -> None:
        self._version: Hashable = None
        self._reader: SqliteReader | None = None

    def reader(self) -> SqliteReader:
        """OnlineStoreEmptyError when nothing is online."""
        version: Hashable = None
        with suppress(FileNotFoundError):
            seen = os.stat(_pointer_path(os.environ.get("MILLRACE_HOME")))  # noqa: PTH116 (a third of the time of Path.stat)
            version = (seen.st_ino, seen.st_mtime_ns, os.getpid())
        if self._reader is None or version is None or self._version != version:
            self._reader, self._version = SqliteReader(*_open_current()), version
        return self._reader


class SqliteReader:
    """An open file and the queries that were made for it."""

    def __init__(self, name: str, connection: sqlite3.Connection) -> None:
        self.name, self.connection = name, connection
        connection.execute(f"PRAGMA mmap_size={MAPPED_BYTES}")
        self._queries: dict[tuple[str, tuple[str, ...]], Query] = {}
        self._tails = tails.SqliteTailReader()

    def metadata(self) -> GenerationMetadata:
        """From the file."""
        return _metadata(self.connection, self.name)

    def tail_rows(self, tail: str, keys: Sequence[bytes]) -> TailRows | None:
        """From the file of tails."""
        return self._tails.rows(tail, keys)

    def begin(self) -> None:
        """Lock the file once per request instead of once per query."""
        self.connection.execute("BEGIN")

    def end(self) -> None:
        """Release the lock."""
        if self.connection.in_transaction:
            self.connection.execute("COMMIT")

    def rows(self, row_schema: RowSchema, features: Sequence[str], keys: Sequence[Key]) -> list[ReadRow | None]:
        """Lookups by primary key, many in one statement."""
        try:
            return self._rows(row_schema, tuple(features), keys)
        except sqlite3.DatabaseError as error:  # the view was dropped or replaced
            self._queries.clear()
            with _translate_damage(self.name):
                if not isinstance(error, sqlite3.OperationalError):
                    raise
                return self._rows(row_schema, tuple(features), keys)

    def _rows(self, row_schema: RowSchema, features: tuple[str, ...], keys: Sequence[Key]) -> list[ReadRow | None]:
        query = self._query(row_schema, features)
        return query.rows(keys) if query else [None] * len(keys)

    def keys(self, row_schema: RowSchema, limit: int | None) -> list[Key]:
        """All in the order of the keys, or some."""
        if not self._columns(row_schema.view):
            return []
        order = "" if limit is None else f" ORDER BY random() LIMIT {limit}"
        sql = f"SELECT {tables.primary(row_schema)} FROM {identifier(row_schema.view)}{order}"
        with _translate_damage(self.name):
            return self.connection.execute(sql).fetchall()

    def _query(self, row_schema: RowSchema, features: tuple[str, ...]) -> Query | None:
        """None while the generation lacks the view; a push may add the view, or a feature."""
        query = self._queries.get((row_schema.view, features))
        if query is None and (present := self._columns(row_schema.view)):
            query = Query(self.connection, row_schema, features, present)
            if query.complete:
                self._queries[row_schema.view, features] = query
        return query

    def _columns(self, view: str) -> dict[str, str]:
        """Column -> type; empty where an intact generation lacks the view."""
        columns = {row[1]: row[2] for row in self.connection.execute(f"PRAGMA table_info({identifier(view)})")}
        if not columns:
            _metadata(self.connection, self.name)
        return columns


class Query:
    """Finds the event time and some features of a view's rows by their keys."""

    def __init__(
        self, connection: sqlite3.Connection, row_schema: RowSchema, features: tuple[str, ...], present: dict[str, str]
    ) -> None:
        self._connection, self._pieces, self._width = connection, dict[int, str](), len(row_schema.keys)
        self.complete = present.keys() >= {*features}
        table, row, keys = (
            f"main.{identifier(row_schema.view)} t",
            tables.selected(features, present),
            [f"t.{identifier(name)}" for name in row_schema.keys],
        )
        self._single = f"SELECT {row} FROM {table} WHERE {' AND '.join(f'{key} = ?' for key in keys)}"
        same = " AND ".join(f"{key} = requests.k{i}" for i, key in enumerate(keys))
        self._many = f"SELECT {row} FROM requests LEFT JOIN {table} ON {same} ORDER BY requests.position"
        # sqlite has no booleans, and the table may predate the definitions
        mappings = {position: row_schema.features[name] for position, name in enumerate(features, 1)}
        self._changed_protos = {
            position: mapping.proto
            for position, mapping in mappings.items()
            if mapping.proto == "bool_val" or present.get(features[position - 1]) != mapping.sqlite
        }

    def rows(self, keys: Sequence[Key]) -> list[ReadRow | None]:
        """In the order of the keys."""
        if len(keys) == 1:
            rows = [self._connection.execute(self._single, keys[0]).fetchone()]
        else:
            rows = [row if row[0] is not None else None for row in self._many_rows(keys)]
        return [row and convert_row(row, self._changed_protos) for row in rows] if self._changed_protos else rows

    def _many_rows(self, keys: Sequence[Key]) -> Iterator[ReadRow]:
        """A row for each key, NULLs where there is none; looked up in pieces of a few sizes, so that few statements are
        compiled.
        """
        size, start = LARGEST_PIECE, 0
        while start < len(keys):
            while size > len(keys) - start:
                size //= 2
            yield from self._connection.execute(
                self._piece(size), list(chain.from_iterable(keys[start : start + size]))
            )
            start += size

    def _piece(self, size: int) -> str:
        """The statement for so many keys."""
        if size not in self._pieces:
            names = "".join(f", k{i}" for i in range(self._width))
            values = ", ".join(f"({position}{', ?' * self._width})" for position in range(size))
            self._pieces[size] = f"WITH requests (position{names}) AS (VALUES {values}) {self._many}"
        return self._pieces[size]


class SqliteDraft:
    """A file that nobody reads yet, written without a journal: an unfinished one is deleted."""

    def __init__(self, label: str) -> None:
        folder().mkdir(parents=True, exist_ok=True)
        self.name = new_name(label)
        self.path = path_of(self.name)
        self._open()

    def copy_from(self, name: str) -> None:
        """Copy the file between two pushes. Opening it for writing rolls back what a killed push left."""
        self.connection.close()
        with (
            locked(_write_lock()),
            closing(sqlite3.connect(path_of(name), timeout=BUSY_SECONDS, isolation_level=None)) as former,
        ):
            with _translate_damage(name):
                former.execute("BEGIN IMMEDIATE")
                _metadata(former, name)
            shutil.copyfile(path_of(name), self.path)
        self._open()

    def _open(self) -> None:
        self.connection = sqlite3.connect(self.path, isolation_level=None)
        for pragma in (
            "page_size=16384",
            "journal_mode=OFF",
            "synchronous=OFF",
            "locking_mode=EXCLUSIVE",
            "cache_size=-65536",
        ):
            self.connection.execute(f"PRAGMA {pragma}")
        self.connection.execute("BEGIN")

    def load(self, row_schema: RowSchema, batches: Iterable[Sequence[StoredRow]]) -> int:
        """Rows in the order of the keys are only ever appended."""
        self.connection.execute(f"DROP TABLE IF EXISTS {identifier(row_schema.view)}")
        self.connection.execute(_create(row_schema))
        return self._insert(row_schema, batches)

    def apply_changes(self, row_schema: RowSchema, keys: Sequence[Key], batches: Iterable[Sequence[StoredRow]]) -> int:
        """By primary key."""
        table, where = identifier(row_schema.view), " AND ".join(f"{identifier(key)} = ?" for key in row_schema.keys)
        self.connection.executemany(f"DELETE FROM {table} WHERE {where}", keys)
        self._insert(row_schema, batches)
        count: int = self.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return count

    def _insert(self, row_schema: RowSchema, batches: Iterable[Sequence[StoredRow]]) -> int:
        sql, rows = tables.insert(identifier(row_schema.view), row_schema, "?"), 0
        for batch in batches:
            self.connection.executemany(sql, batch)
            rows += len(batch)
        return rows

    def finish(self, metadata: GenerationMetadata) -> None:
        """Write the metadata and fsync the file."""
        self.connection.execute("CREATE TABLE IF NOT EXISTS _generation (about TEXT NOT NULL)")
        self.connection.execute("DELETE FROM _generation")
        self.connection.execute("INSERT INTO _generation VALUES (?)", [metadata.to_json()])
        self.connection.execute("COMMIT")
        self.connection.close()
        sync(self.path)
        sync(self.path.parent)

    def publish(self) -> None:
        """Rename a pointer into place."""
        with locked(_write_lock()):
            _point_to(self.path.name)

    def discard(self) -> None:
        """Remove what was written; does no harm after `publish`."""
        self.connection.close()
        if self.path.name not in _kept():
            self.path.unlink(missing_ok=True)


@contextmanager
def _writing() -> Iterator[sqlite3.Connection]:
    """A transaction on the generation in use, or on a new empty one; its metadata says `pushed` from then on."""
    with locked(_write_lock()):
        files = _pointer_files()
        path = folder() / files[0] if files else None
        if path is None or not path.exists():
            draft = SqliteDraft("pushed")
            draft.finish(GenerationMetadata())
            path = draft.path
            _point_to(path.name)
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
            with _translate_damage(path.stem):
                connection.execute("BEGIN IMMEDIATE")
                metadata = _metadata(connection, path.stem)
            yield connection
            connection.execute("UPDATE _generation SET about = ?", [replace(metadata, pushed=True).to_json()])
            connection.execute("COMMIT")


def _create(row_schema: RowSchema) -> str:
    """DDL. Composite and text keys are clustered, which halves the file; a single integer key is sqlite's own row
    id.
    """
    single = [mapping.sqlite for mapping in row_schema.keys.values()] == ["INTEGER"]
    table, columns = identifier(row_schema.view), ", ".join(tables.columns(row_schema, "sqlite"))
    return (
        f"CREATE TABLE IF NOT EXISTS {table} ({columns}, PRIMARY KEY"
        f" ({tables.primary(row_schema)})){'' if single else ' WITHOUT ROWID'}"
    )


def _prepare(connection: sqlite3.Connection, row_schema: RowSchema) -> None:
    """Create the table, or add its missing columns."""
    connection.execute(_create(row_schema))
    present = {row[1] for row in connection.execute(f"PRAGMA table_info({identifier(row_schema.view)})")}
    for name in row_schema.features.keys() - present:
        connection.execute(
            f"ALTER TABLE {identifier(row_schema.view)} ADD COLUMN {identifier(name)}"
            f" {row_schema.features[name].sqlite}"
        )


@contextmanager
def _translate_damage(name: str) -> Iterator[None]:
    """Raise OnlineStoreDamagedError for a torn file or one that is no database; an OperationalError, such as a lock
    timeout, passes.
    """
    try:
        yield
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise damaged_error(f"the generation {name} in {WHERE} cannot be read: {error}") from error


def _metadata(connection: sqlite3.Connection, name: str) -> GenerationMetadata:
    """The generation's metadata; OnlineStoreDamagedError when it is missing, or views that it names are."""
    with _translate_damage(name):
        present = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        rows = connection.execute("SELECT about FROM _generation").fetchall() if "_generation" in present else []
        metadata = parse_metadata(rows[0][0] if rows else None, name, WHERE)
        if not metadata.pushed:  # a push may come with views being dropped
            ensure_views(
                name,
                WHERE,
                (
                    view
                    for view, count in metadata.rows.items()
                    if view not in present or (count and _is_empty(connection, view))
                ),
            )
    return metadata


def _is_empty(connection: sqlite3.Connection, view: str) -> bool:
    return connection.execute(f"SELECT 1 FROM {identifier(view)} LIMIT 1").fetchone() is None


def _open(name: str) -> sqlite3.Connection:
    """A read-only connection for any thread; OnlineStoreDamagedError for an incomplete generation. The file is opened
    for writing where allowed, so that sqlite can roll back what a killed push left.
    """
    uri = f"{path_of(name).as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        with _translate_damage(name):
            connection.execute("PRAGMA query_only=ON")
            _metadata(connection, name)
    except BaseException:
        connection.close()
        raise
    return connection


def _open_current() -> tuple[str, sqlite3.Connection]:
    failure: sqlite3.OperationalError | None = None
    for _ in range(3):  # the pointer may move on between its reading and the opening of the file
        files = _pointer_files()
        if not files or not (folder() / files[0]).exists():
            raise empty_error(WHERE)
        try:
            return Path(files[0]).stem, _open(Path(files[0]).stem)
        except sqlite3.OperationalError as error:
            failure = error
    if failure:
        raise damaged_error(f"the generation in use in {WHERE} cannot be opened: {failure}") from failure
    raise empty_error(WHERE)


@cache
def _pointer_path(home: str | None) -> str:  # noqa: ARG001 (the key: another home is another pointer)
    return str(pointer())


def _load_lock() -> Path:
    return folder().parent / ".materialize.lock"


def _write_lock() -> Path:
    return folder().parent / ".online.lock"


def _pointer_files() -> list[str]:
    """File names of the current and the previous generation, empty without a pointer; OnlineStoreDamagedError for an
    invalid pointer.
    """
    try:
        content = pointer().read_bytes()
    except FileNotFoundError:
        return []
    try:
        files: list[str] = json.loads(content)
    except (ValueError, RecursionError):
        files = []
    if isinstance(files, list) and files and all(isinstance(name, str) and FILE.fullmatch(name) for name in files):
        return files
    problem = "is not a list with the file of the generation in use" if content.strip(b"\0 \n") else "is empty"
    raise damaged_error(f"the pointer current.json in {WHERE} {problem}")


def _kept() -> list[str]:
    """The same for writers, which replace a damaged pointer."""
    try:
        return _pointer_files()
    except OnlineStoreDamagedError:
        return []


def _point_to(name: str) -> None:
    former = [file for file in _kept() if file != name][:1]
    write_whole(pointer(), json.dumps([name, *former]).encode())


def _clean() -> None:
    """Remove generations that are neither current nor former, among them what killed runs left."""
    with locked(_write_lock()):
        kept = _kept()
        for path in folder().glob("*.sqlite*"):
            if not path.name.startswith(tuple(kept)):
                path.unlink(missing_ok=True)

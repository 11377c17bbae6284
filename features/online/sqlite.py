"""Generations as sqlite files of one folder, for all processes of this machine: a read is one index lookup per view,
with no server to ask. A pointer file names the one in use.
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
    Found,
    GenerationMetadata,
    Key,
    OnlineStoreDamagedError,
    RowSchema,
    Stored,
    damaged,
    empty,
    ensure_views,
    new_name,
    parsed,
)
from features.type_mapping import retyped_row
from lake import settings
from lake.files import locked, sync, write_whole
from lake.sql import identifier

BUSY_SECONDS = 10.0
LARGEST_PIECE = 64
"""Keys that one statement looks up."""
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*\.sqlite")
"""A generation's file, as the pointer names it: never one outside of the folder."""
WHERE = "$MILLRACE_HOME/feast/online"
"""The folder in messages, which HTTP clients may read."""
MAPPED_BYTES = 1 << 40
"""A generation is read where the operating system has it in memory; sqlite maps 2 GB of it at most."""


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
        """The folder, as it is named on every machine."""
        return WHERE

    def current(self) -> str | None:
        """The generation in use; None also when its file was deleted."""
        named = _named()
        return Path(named[0]).stem if named and (folder() / named[0]).exists() else None

    def about(self) -> GenerationMetadata | None:
        """Read from the file in use."""
        if self.current() is None:
            return None
        name, connection = _open_current()
        with closing(connection):
            return _about(connection, name)

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
        with locked(_turn()):
            _clean()
            draft = SqliteDraft(label)
            try:
                yield draft
            finally:
                draft.discard()
                _clean()

    def merge(self, layout: RowSchema, rows: Sequence[Stored]) -> None:
        """In one transaction."""
        with _writing() as connection:
            _prepare(connection, layout)
            connection.executemany(tables.upsert(identifier(layout.view), layout, "?"), rows)

    def drop(self, views: Sequence[str]) -> None:
        """Drop their tables."""
        if views and self.current() is not None:
            with _writing() as connection:
                for view in views:
                    connection.execute(f"DROP TABLE IF EXISTS {identifier(view)}")

    def remove_all(self) -> None:
        """Delete the files; a loader is waited for."""
        with locked(_turn()), locked(_write_lock()):
            pointer().unlink(missing_ok=True)
            for path in folder().glob("*.sqlite*"):
                path.unlink()


class SqliteSession:
    """Notices by the pointer's inode and time that another generation is in use."""

    def __init__(self) -> None:
        self._sign: Hashable = None
        self._reader: SqliteReader | None = None

    def reader(self) -> SqliteReader:
        """OnlineStoreEmptyError when nothing is online."""
        sign: Hashable = None
        with suppress(FileNotFoundError):
            seen = os.stat(_pointer(os.environ.get("MILLRACE_HOME")))  # noqa: PTH116 (a third of the time of Path.stat)
            sign = (seen.st_ino, seen.st_mtime_ns, os.getpid())
        if self._reader is None or sign is None or self._sign != sign:
            self._reader, self._sign = SqliteReader(*_open_current()), sign
        return self._reader


class SqliteReader:
    """An open file and the queries that were made for it."""

    def __init__(self, name: str, connection: sqlite3.Connection) -> None:
        self.name, self.connection = name, connection
        connection.execute(f"PRAGMA mmap_size={MAPPED_BYTES}")
        self._made: dict[tuple[str, tuple[str, ...]], Query] = {}

    def begin(self) -> None:
        """The file is locked once, and not once a query."""
        self.connection.execute("BEGIN")

    def end(self) -> None:
        """Let go of it."""
        if self.connection.in_transaction:
            self.connection.execute("COMMIT")

    def rows(self, layout: RowSchema, features: Sequence[str], keys: Sequence[Key]) -> list[Found | None]:
        """Lookups by primary key, many in one statement."""
        try:
            return self._rows(layout, tuple(features), keys)
        except sqlite3.DatabaseError as error:  # of a view that was dropped, or became another one
            self._made.clear()
            with _undamaged(self.name):
                if not isinstance(error, sqlite3.OperationalError):
                    raise
                return self._rows(layout, tuple(features), keys)

    def _rows(self, layout: RowSchema, features: tuple[str, ...], keys: Sequence[Key]) -> list[Found | None]:
        made = self._query(layout, features)
        return made.rows(keys) if made else [None] * len(keys)

    def keys(self, layout: RowSchema, some: int | None) -> list[Key]:
        """All in the order of the keys, or some."""
        if not self._columns(layout.view):
            return []
        order = "" if some is None else f" ORDER BY random() LIMIT {some}"
        sql = f"SELECT {tables.primary(layout)} FROM {identifier(layout.view)}{order}"
        with _undamaged(self.name):
            return self.connection.execute(sql).fetchall()

    def _query(self, layout: RowSchema, features: tuple[str, ...]) -> Query | None:
        """None while the generation does not have the view; a push may add it, or a feature."""
        made = self._made.get((layout.view, features))
        if made is None and (present := self._columns(layout.view)):
            made = Query(self.connection, layout, features, present)
            if made.complete:
                self._made[layout.view, features] = made
        return made

    def _columns(self, view: str) -> dict[str, str]:
        """The type of each column; none where a whole generation does not have the view."""
        columns = {row[1]: row[2] for row in self.connection.execute(f"PRAGMA table_info({identifier(view)})")}
        if not columns:
            _about(self.connection, self.name)
        return columns


class Query:
    """Finds the event time and some features of a view's rows by their keys."""

    def __init__(
        self, connection: sqlite3.Connection, layout: RowSchema, features: tuple[str, ...], present: dict[str, str]
    ) -> None:
        self._connection, self._pieces, self._width = connection, dict[int, str](), len(layout.keys)
        self.complete = present.keys() >= {*features}
        table, row, keys = (
            f"main.{identifier(layout.view)} t",
            tables.picked(features, present),
            [f"t.{identifier(name)}" for name in layout.keys],
        )
        self._one = f"SELECT {row} FROM {table} WHERE {' AND '.join(f'{key} = ?' for key in keys)}"
        same = " AND ".join(f"{key} = asked.k{i}" for i, key in enumerate(keys))
        self._many = f"SELECT {row} FROM asked LEFT JOIN {table} ON {same} ORDER BY asked.place"
        # sqlite has no booleans, and the table may be older than the definitions
        kinds = {at: layout.features[name] for at, name in enumerate(features, 1)}
        self._retyped = {
            at: kind.proto
            for at, kind in kinds.items()
            if kind.proto == "bool_val" or present.get(features[at - 1]) != kind.sqlite
        }

    def rows(self, keys: Sequence[Key]) -> list[Found | None]:
        """In the order of the keys."""
        if len(keys) == 1:
            found = [self._connection.execute(self._one, keys[0]).fetchone()]
        else:
            found = [row if row[0] is not None else None for row in self._found(keys)]
        return [row and retyped_row(row, self._retyped) for row in found] if self._retyped else found

    def _found(self, keys: Sequence[Key]) -> Iterator[Found]:
        """A row for each key, of NULLs where there is none, in pieces of a few sizes, so that few statements are
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
            values = ", ".join(f"({place}{', ?' * self._width})" for place in range(size))
            self._pieces[size] = f"WITH asked (place{names}) AS (VALUES {values}) {self._many}"
        return self._pieces[size]


class SqliteDraft:
    """A file that nobody reads yet. It is written without a journal: one that was not finished is thrown away."""

    def __init__(self, label: str) -> None:
        folder().mkdir(parents=True, exist_ok=True)
        self.name = new_name(label)
        self.path = path_of(self.name)
        self._open()

    def copy_from(self, name: str) -> None:
        """A copy of its file, between two pushes. Opening it for writing takes back what a push that was killed has
        half written.
        """
        self.connection.close()
        with (
            locked(_write_lock()),
            closing(sqlite3.connect(path_of(name), timeout=BUSY_SECONDS, isolation_level=None)) as former,
        ):
            with _undamaged(name):
                former.execute("BEGIN IMMEDIATE")
                _about(former, name)
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

    def load(self, layout: RowSchema, batches: Iterable[Sequence[Stored]]) -> int:
        """Rows in the order of the keys are only ever appended."""
        self.connection.execute(f"DROP TABLE IF EXISTS {identifier(layout.view)}")
        self.connection.execute(_create(layout))
        return self._insert(layout, batches)

    def apply_changes(self, layout: RowSchema, keys: Sequence[Key], batches: Iterable[Sequence[Stored]]) -> int:
        """By primary key."""
        table, where = identifier(layout.view), " AND ".join(f"{identifier(key)} = ?" for key in layout.keys)
        self.connection.executemany(f"DELETE FROM {table} WHERE {where}", keys)
        self._insert(layout, batches)
        count: int = self.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return count

    def _insert(self, layout: RowSchema, batches: Iterable[Sequence[Stored]]) -> int:
        sql, rows = tables.insert(identifier(layout.view), layout, "?"), 0
        for batch in batches:
            self.connection.executemany(sql, batch)
            rows += len(batch)
        return rows

    def finish(self, about: GenerationMetadata) -> None:
        """Complete the file and have it on the disk."""
        self.connection.execute("CREATE TABLE IF NOT EXISTS _generation (about TEXT NOT NULL)")
        self.connection.execute("DELETE FROM _generation")
        self.connection.execute("INSERT INTO _generation VALUES (?)", [about.to_json()])
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
    """A transaction on the generation in use, which counts as pushed to from then on; without one, an empty one is made
    first.
    """
    with locked(_write_lock()):
        named = _named()
        path = folder() / named[0] if named else None
        if path is None or not path.exists():
            draft = SqliteDraft("pushed")
            draft.finish(GenerationMetadata())
            path = draft.path
            _point_to(path.name)
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
            with _undamaged(path.stem):
                connection.execute("BEGIN IMMEDIATE")
                about = _about(connection, path.stem)
            yield connection
            connection.execute("UPDATE _generation SET about = ?", [replace(about, pushed=True).to_json()])
            connection.execute("COMMIT")


def _create(layout: RowSchema) -> str:
    """DDL. Composite and text keys are clustered, which halves the file; a single integer key is sqlite's own row
    id.
    """
    single = [kind.sqlite for kind in layout.keys.values()] == ["INTEGER"]
    table, columns = identifier(layout.view), ", ".join(tables.columns(layout, "sqlite"))
    return (
        f"CREATE TABLE IF NOT EXISTS {table} ({columns}, PRIMARY KEY"
        f" ({tables.primary(layout)})){'' if single else ' WITHOUT ROWID'}"
    )


def _prepare(connection: sqlite3.Connection, layout: RowSchema) -> None:
    """Have the table with all its columns."""
    connection.execute(_create(layout))
    present = {row[1] for row in connection.execute(f"PRAGMA table_info({identifier(layout.view)})")}
    for name in layout.features.keys() - present:
        connection.execute(
            f"ALTER TABLE {identifier(layout.view)} ADD COLUMN {identifier(name)} {layout.features[name].sqlite}"
        )


@contextmanager
def _undamaged(name: str) -> Iterator[None]:
    """A file that is no database, or a torn one, as OnlineStoreDamagedError; an OperationalError, such as of a lock,
    passes.
    """
    try:
        yield
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise damaged(f"the generation {name} in {WHERE} cannot be read: {error}") from error


def _about(connection: sqlite3.Connection, name: str) -> GenerationMetadata:
    """What the generation was made from; OnlineStoreDamagedError unless it says so, and has the views that it names."""
    with _undamaged(name):
        present = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        rows = connection.execute("SELECT about FROM _generation").fetchall() if "_generation" in present else []
        about = parsed(rows[0][0] if rows else None, name, WHERE)
        if not about.pushed:  # a push may come with views being dropped
            ensure_views(
                name,
                WHERE,
                (
                    view
                    for view, count in about.rows.items()
                    if view not in present or (count and _is_empty(connection, view))
                ),
            )
    return about


def _is_empty(connection: sqlite3.Connection, view: str) -> bool:
    return connection.execute(f"SELECT 1 FROM {identifier(view)} LIMIT 1").fetchone() is None


def _open(name: str) -> sqlite3.Connection:
    """To read, from any thread; OnlineStoreDamagedError for a file that is not a whole generation. The file itself is
    opened for writing too, where that is allowed: what a push that was killed has half written, sqlite takes back when
    it is read next.
    """
    uri = f"{path_of(name).as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        with _undamaged(name):
            connection.execute("PRAGMA query_only=ON")
            _about(connection, name)
    except BaseException:
        connection.close()
        raise
    return connection


def _open_current() -> tuple[str, sqlite3.Connection]:
    refused: sqlite3.OperationalError | None = None
    for _ in range(3):  # the pointer may move on between its reading and the opening of the file
        named = _named()
        if not named or not (folder() / named[0]).exists():
            raise empty(WHERE)
        try:
            return Path(named[0]).stem, _open(Path(named[0]).stem)
        except sqlite3.OperationalError as error:
            refused = error
    if refused:
        raise damaged(f"the generation in use in {WHERE} cannot be opened: {refused}") from refused
    raise empty(WHERE)


@cache
def _pointer(home: str | None) -> str:  # noqa: ARG001 (the key: another home is another pointer)
    return str(pointer())


def _turn() -> Path:
    return folder().parent / ".materialize.lock"


def _write_lock() -> Path:
    return folder().parent / ".online.lock"


def _named() -> list[str]:
    """File names of the current and the former generation; OnlineStoreDamagedError for a pointer that names none."""
    try:
        content = pointer().read_bytes()
    except FileNotFoundError:
        return []
    try:
        named: list[str] = json.loads(content)
    except (ValueError, RecursionError):
        named = []
    if isinstance(named, list) and named and all(isinstance(name, str) and FILE.fullmatch(name) for name in named):
        return named
    problem = "is not a list with the file of the generation in use" if content.strip(b"\0 \n") else "is empty"
    raise damaged(f"the pointer current.json in {WHERE} {problem}")


def _kept() -> list[str]:
    """The same for a writer, who replaces a damaged pointer."""
    try:
        return _named()
    except OnlineStoreDamagedError:
        return []


def _point_to(name: str) -> None:
    former = [one for one in _kept() if one != name][:1]
    write_whole(pointer(), json.dumps([name, *former]).encode())


def _clean() -> None:
    """Remove generations that are neither current nor former, among them what killed runs left."""
    with locked(_write_lock()):
        named = _kept()
        for path in folder().glob("*.sqlite*"):
            if not path.name.startswith(tuple(named)):
                path.unlink(missing_ok=True)

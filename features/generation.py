"""Generations: the online store's files. One sqlite file holds every view as of one materialization; a pointer file says which one is read.

A generation is filled beside the one in use and becomes visible, for all views at once, when the pointer is renamed into place. Readers in other
processes look at the pointer on each read. A process that is killed leaves the former generation in use. The current generation and the one before
it are kept, so that a reader that is just opening a file still finds it.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from contracts import settings
from contracts.files import locked, sync, write_whole
from features.kinds import Kind
from features.queries import identifier

EVENT, CREATED = "_event_at", "_created_at"
"""Microseconds since 1970, UTC."""
BUSY_SECONDS = 10.0


class OnlineStoreEmptyError(LookupError):
    """Nothing was materialized yet."""


@dataclass(frozen=True)
class About:
    """What a generation was made from; all None for one that only ever received pushed rows."""

    release: int | None = None
    horizon: str | None = None
    definitions: str | None = None
    tables: dict[str, int] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """A view's table: the join keys are the primary key, then both times, then one column per feature, each in its own type."""

    view: str
    keys: dict[str, Kind]
    features: dict[str, Kind]

    @cached_property
    def create(self) -> str:
        """DDL. Composite and text keys are clustered, which halves the file; a single integer key is sqlite's own row id."""
        columns = [f"{identifier(name)} {kind.sqlite} NOT NULL" for name, kind in self.keys.items()]
        columns += [f"{EVENT} INTEGER NOT NULL", f"{CREATED} INTEGER", *(f"{identifier(name)} {kind.sqlite}" for name, kind in self.features.items())]
        primary = ", ".join(identifier(name) for name in self.keys)
        single = [kind.sqlite for kind in self.keys.values()] == ["INTEGER"]
        return f"CREATE TABLE IF NOT EXISTS {identifier(self.view)} ({', '.join(columns)}, PRIMARY KEY ({primary})){'' if single else ' WITHOUT ROWID'}"

    @cached_property
    def insert(self) -> str:
        """Values in the order keys, event time, creation time, features."""
        names = [*self.keys, EVENT, CREATED, *self.features]
        return f"INSERT INTO {identifier(self.view)} ({', '.join(map(identifier, names))}) VALUES ({', '.join('?' * len(names))})"

    @cached_property
    def upsert(self) -> str:
        """`insert`, but an older event never replaces a newer one; at the same event time the row created or written later counts."""
        updates = ", ".join(f"{identifier(name)} = excluded.{identifier(name)}" for name in (EVENT, CREATED, *self.features))
        later = f"excluded.{EVENT} > {EVENT} OR (excluded.{EVENT} = {EVENT} AND coalesce(excluded.{CREATED} >= {CREATED}, true))"
        return f"{self.insert} ON CONFLICT ({', '.join(map(identifier, self.keys))}) DO UPDATE SET {updates} WHERE {later}"

    def prepare(self, connection: sqlite3.Connection) -> None:
        """Have the table with all its columns."""
        connection.execute(self.create)
        present = {row[1] for row in connection.execute(f"PRAGMA table_info({identifier(self.view)})")}
        for name in self.features.keys() - present:
            connection.execute(f"ALTER TABLE {identifier(self.view)} ADD COLUMN {identifier(name)} {self.features[name].sqlite}")


def folder() -> Path:
    """`$MILLRACE_HOME/feast/online`."""
    return settings.home() / "feast" / "online"


def pointer() -> Path:
    """The file that names the current generation, and the former one."""
    return folder() / "current.json"


def current() -> Path | None:
    """The file of the generation in use, or None when there is none or it was deleted."""
    named = _named()
    path = folder() / named[0] if named else None
    return path if path and path.exists() else None


@dataclass(frozen=True)
class Preview:
    """A generation to read, in use or not, and the instant to take for now."""

    path: Path
    at: datetime


previewed: ContextVar[Preview | None] = ContextVar("previewed", default=None)


def now() -> datetime:
    """The instant as of which features are served."""
    preview = previewed.get()
    return preview.at if preview else datetime.now(UTC)


@contextmanager
def previewing(path: Path, at: datetime) -> Iterator[None]:
    """Read this generation as of that instant, here and nowhere else."""
    token = previewed.set(Preview(path, at))
    try:
        yield
    finally:
        previewed.reset(token)


def open_current() -> sqlite3.Connection:
    """A read-only connection to the generation in use (or previewed), for any thread."""
    for _ in range(3):  # the pointer may move on between its reading and the opening of the file
        preview = previewed.get()
        path = preview.path if preview else current()
        if path is None:
            break
        try:
            return sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        except sqlite3.OperationalError:
            continue
    raise OnlineStoreEmptyError(
        f"no features are online below {folder()}. Run the DAG `millrace` (or `make demo`), or features.materialize.materialize(release)"
    )


def about() -> About | None:
    """What the generation in use was made from."""
    if current() is None:
        return None
    with closing(open_current()) as connection:
        return About(**json.loads(connection.execute("SELECT about FROM _generation").fetchone()[0]))


class Draft:
    """A generation that nobody reads yet."""

    def __init__(self, label: str) -> None:
        folder().mkdir(parents=True, exist_ok=True)
        self.path = folder() / f"{label}-{datetime.now(UTC):%Y%m%dT%H%M%S%f}-{os.getpid()}.sqlite"
        self.connection = sqlite3.connect(self.path, isolation_level=None)
        for pragma in ("page_size=16384", "journal_mode=OFF", "synchronous=OFF", "locking_mode=EXCLUSIVE", "cache_size=-65536"):
            self.connection.execute(f"PRAGMA {pragma}")
        self.connection.execute("BEGIN")

    @property
    def name(self) -> str:
        """The generation's id."""
        return self.path.stem

    def publish(self) -> None:
        """Make this, once finished, the generation that everybody reads."""
        with locked(_write_lock()):
            _point_to(self.path.name)

    def finish(self, about: About) -> None:
        """Complete the file and have it on the disk, still unread."""
        self.connection.execute("CREATE TABLE _generation (about TEXT NOT NULL)")
        self.connection.execute("INSERT INTO _generation VALUES (?)", [json.dumps(vars(about))])
        self.connection.execute("COMMIT")
        self.connection.close()
        sync(self.path)
        sync(self.path.parent)

    def discard(self) -> None:
        """Remove what was written; does no harm after `publish`."""
        self.connection.close()
        named = _named()
        if not named or self.path.name not in named:
            self.path.unlink(missing_ok=True)


@contextmanager
def drafting(label: str) -> Iterator[Draft]:
    """A draft, which is discarded unless the block publishes it. One at a time on a machine."""
    with locked(folder().parent / ".materialize.lock"):
        _clean()
        draft = Draft(label)
        try:
            yield draft
        finally:
            draft.discard()
            _clean()


@contextmanager
def writing() -> Iterator[sqlite3.Connection]:
    """A transaction on the generation in use; without one, an empty one is made first."""
    with locked(_write_lock()):
        path = current()
        if path is None:
            draft = Draft("pushed")
            draft.finish(About())
            path = draft.path
            _point_to(path.name)
        with closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")


def remove_all() -> None:
    """Take everything offline; readers find nothing from then on."""
    with locked(_write_lock()):
        pointer().unlink(missing_ok=True)
        for path in folder().glob("*.sqlite*"):
            path.unlink()


def drop(views: list[str]) -> None:
    """Remove these views' rows from the generation in use, if there is one."""
    if views and current() is not None:
        with writing() as connection:
            for view in views:
                connection.execute(f"DROP TABLE IF EXISTS {identifier(view)}")


def _write_lock() -> Path:
    return folder().parent / ".online.lock"


def _named() -> list[str]:
    """File names of the current and the former generation."""
    try:
        named: list[str] = json.loads(pointer().read_text())
    except FileNotFoundError:
        return []
    return named


def _point_to(name: str) -> None:
    former: list[Any] = [one for one in _named() if one != name][:1]
    write_whole(pointer(), json.dumps([name, *former]).encode())


def _clean() -> None:
    """Remove generations that are neither current nor former, among them what killed runs left."""
    with locked(_write_lock()):
        named = _named()
        for path in folder().glob("*.sqlite*"):
            if not path.name.startswith(tuple(named)):
                path.unlink(missing_ok=True)

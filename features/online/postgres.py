"""Generations as schemas of a PostgreSQL database: a table for each view, and a pointer row that one transaction moves.
The user needs the right to create schemas in the database.

A generation is loaded with COPY in one transaction, so that a loader that dies leaves nothing. One loader at a time is
let in by an advisory lock, which ends with its connection; the same connection moves the pointer, so that a loader that
lost the lock cannot publish.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from features.online import tables
from features.online.generation import (
    Found,
    GenerationGoneError,
    GenerationMetadata,
    Key,
    OnlineStoreDamagedError,
    OnlineStoreUnfitError,
    RowSchema,
    Stored,
    empty,
    ensure_views,
    new_name,
    parsed,
)
from features.online.server import ANSWER_SECONDS, CONNECT_SECONDS, Explained, Words, masked, reaching, unreadable
from features.type_mapping import retyped_row
from lake import tls
from lake.sql import identifier

HOME = "millrace"
"""The schema of the pointer; generations are in schemas that begin with it and `_`."""
ABOUT = "_generation"
"""The table, in each of these schemas and in no other, that says what it was made from."""
LOCK = 6_566_000_001
LONGEST_NAME = 63
"""Bytes; PostgreSQL cuts longer names, and two views could become one."""
CLEAN_SECONDS = 5
WORK_SECONDS = 600
"""A loader's longest statement: the index or the copy of a large view."""
TURN_SECONDS = 0.2
ANY = "\0"
"""Stands for a parameter: no name has it."""
WORDS = Words(
    "sslrootcert",
    "sslcert and sslkey",
    "Where the network may be trusted, set sslmode=disable in MILLRACE_ONLINE",
    "Set sslmode=verify-full and sslrootcert in MILLRACE_ONLINE",
)
DOWN = (psycopg.OperationalError, psycopg.InterfaceError)
LIMITS = ["statement_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"]
"""Settings of the server by which it would end a loader that works or compares for long."""


class Bounded(psycopg.Connection[Any]):
    """A connection on which no statement is waited for longer than so many seconds, even when the server is there and
    silent.
    """

    seconds: ClassVar[float] = ANSWER_SECONDS

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """As psycopg waits, but not for ever."""
        deadline = time.monotonic() + self.seconds
        try:
            return super().wait(gen, interval, self.seconds if timeout is None else timeout)
        except psycopg.Error as error:
            if timeout is not None or time.monotonic() < deadline:
                raise
            self.pgconn.finish()  # an answer that comes now would be taken for that of the next statement
            raise psycopg.OperationalError(f"no answer within {self.seconds} s") from error


class Working(Bounded):
    """One that writes, which takes longer."""

    seconds = WORK_SECONDS


class PostgresBackend:
    """One database."""

    def __init__(self, url: str) -> None:
        self._url, self.where = url, masked(url)
        try:
            conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            raise unreadable() from None
        self._prepared = False

    def current(self) -> str | None:
        """One query."""
        with self.connected(Bounded) as connection:
            return _named(connection)[0]

    def about(self) -> GenerationMetadata | None:
        """From the generation's own table."""
        with self.connected(Bounded) as connection:
            name, _ = _named(connection)
            while name is not None:
                try:
                    return _about(connection, name, self.where)
                except OnlineStoreDamagedError:
                    before, name = name, _named(connection)[0]
                    if name == before:  # else it was replaced twice while it was looked at
                        raise
            return None

    def published_at(self) -> datetime | None:
        """By the server's clock, in the pointer's row."""
        with self.connected(Bounded) as connection:
            row = connection.execute(f"SELECT published_at FROM {HOME}.pointer").fetchone()
        return row[0] if row else None

    def session(self) -> PostgresSession:
        """One query a request asks for the pointer."""
        return PostgresSession(self)

    def open(self, name: str) -> PostgresReader:
        """With a connection of its own."""
        reader = PostgresReader(self, name, self.connect(Bounded))
        reader.ensure_whole()
        return reader

    @contextmanager
    def drafting(self, label: str) -> Iterator[PostgresDraft]:
        """One at a time in a database; the lock is the connection's."""
        with self.connected(Working) as connection:
            connection.execute("SELECT set_config(name, '0', false) FROM pg_settings WHERE name = ANY(%s)", [LIMITS])
            _take_turn(connection)
            _clean(connection)
            try:
                yield PostgresDraft(connection, label)
            finally:
                if not connection.closed:
                    connection.rollback()
                    connection.autocommit = True
                    _clean(connection)

    def merge(self, layout: RowSchema, rows: Sequence[Stored]) -> None:
        """In one transaction, which holds the pointer."""
        with self._writing() as (connection, schema):
            table = f"{schema}.{identifier(layout.view)}"
            if not _columns(connection, schema, layout.view):
                _create(connection, table, layout)
                _index(connection, table, layout)
            _refuse_long_names(layout)
            present = _columns(connection, schema, layout.view)
            if other := _retyped(layout, layout.features, present):
                raise OnlineStoreUnfitError(
                    f"{', '.join(other)} of {layout.view} is online in another type; materialize before you push"
                )
            for name in layout.features.keys() - present:
                connection.execute(
                    f"ALTER TABLE {table} ADD COLUMN {identifier(name)} {layout.features[name].postgres}"
                )
            with _fitting(layout):
                connection.cursor().executemany(_literally(tables.upsert(table, layout, ANY)).replace(ANY, "%s"), rows)

    def drop(self, views: Sequence[str]) -> None:
        """Drop their tables."""
        if views and self.current() is not None:
            with self._writing() as (connection, schema):
                for view in views:
                    connection.execute(f"DROP TABLE IF EXISTS {schema}.{identifier(view)}")

    def remove_all(self) -> None:
        """Drop all generations; a loader is waited for."""
        with self.connected(Working) as connection:
            _take_turn(connection)
            connection.execute(f"DELETE FROM {HOME}.pointer")
            _clean(connection)

    @contextmanager
    def connected(self, kind: type[psycopg.Connection[Any]]) -> Iterator[psycopg.Connection[Any]]:
        """A connection for as long as this lasts; OnlineStoreUnreachableError when it fails."""
        with reaching(self.where, psycopg.Error), self.connect(kind) as connection:
            yield connection

    def connect(self, kind: type[psycopg.Connection[Any]]) -> psycopg.Connection[Any]:
        """A new connection; each statement is a transaction, unless told otherwise."""
        with reaching(self.where, psycopg.Error, explained=self._explained):
            connection = kind.connect(
                self._url, autocommit=True, connect_timeout=CONNECT_SECONDS, application_name="millrace"
            )
            if not self._prepared:
                _prepare(connection)
                self._prepared = True
            return connection

    def _explained(self, text: str) -> Explained | None:
        """What keeps a connection from being encrypted.

        libpq says only that the verification failed, of an expired certificate as of an untrusted one.
        """
        if text.endswith("no encryption"):
            return (
                text,
                (
                    "If the server wants encrypted connections, set sslmode=verify-full and sslrootcert in"
                    " MILLRACE_ONLINE. If not, let its pg_hba.conf admit this host"
                ),
            )
        fault = tls.classify(text)
        if fault is tls.Fault.UNTRUSTED:
            known = conninfo_to_dict(self._url)
            host, port = str(known.get("host") or ""), str(known.get("port") or "5432")
            authority = str(
                known.get("sslrootcert") or os.environ.get("PGSSLROOTCERT") or Path.home() / ".postgresql" / "root.crt"
            )
            if port.isdecimal() and "," not in host:
                fault = tls.probe(host, int(port), None if authority == "system" else authority, postgres=True) or fault
        return WORDS.explained(fault) if fault else None

    @contextmanager
    def _writing(self) -> Iterator[tuple[psycopg.Connection[Any], str]]:
        """A transaction and the schema of the generation in use, which counts as pushed to from then on; without one,
        an empty one is made first.
        """
        with self.connected(Working) as connection, connection.transaction():
            connection.execute(f"LOCK TABLE {HOME}.pointer IN SHARE ROW EXCLUSIVE MODE")
            name, _ = _named(connection)
            if name is None:
                name = new_name("pushed")
                _start(connection, name)
                _describe(connection, name, GenerationMetadata())
                _point_to(connection, name)
            about = _about(connection, name, self.where)
            yield connection, _schema(name)
            _describe(connection, name, replace(about, pushed=True))


class PostgresSession:
    """A connection, made anew after it broke."""

    def __init__(self, place: PostgresBackend) -> None:
        self._place = place
        self._reader: PostgresReader | None = None

    def reader(self) -> PostgresReader:
        """OnlineStoreEmptyError when nothing is online."""
        if self._reader:
            with suppress(*DOWN):  # of a server that was started anew since the last request
                return self._newest(self._reader.connection)
        with reaching(self._place.where, *DOWN):
            return self._newest(self._place.connect(Bounded))

    def _newest(self, connection: psycopg.Connection[Any]) -> PostgresReader:
        name, _ = _named(connection)
        if name is None:
            raise empty(self._place.where)
        if self._reader is None or (self._reader.name, self._reader.connection) != (name, connection):
            reader = PostgresReader(self._place, name, connection)
            reader.ensure_whole()
            self._reader = reader
        return self._reader


class PostgresReader:
    """A generation's tables over one connection."""

    def __init__(self, place: PostgresBackend, name: str, connection: psycopg.Connection[Any]) -> None:
        self._place, self.name, self.connection = place, name, connection
        self._schema = _schema(name)
        self._made: dict[tuple[str, tuple[str, ...]], Query] = {}

    def begin(self) -> None:
        """Nothing: rows that are pushed during a request may be seen by a part of it."""

    def end(self) -> None:
        """Nothing."""

    def ensure_whole(self) -> None:
        """OnlineStoreDamagedError unless the generation is as it was published; GenerationGoneError where it is no
        longer in use, and was removed.
        """
        with reaching(self._place.where, *DOWN):
            try:
                _about(self.connection, self.name, self._place.where)
            except OnlineStoreDamagedError as error:
                if self.name != _named(self.connection)[0]:
                    raise self._gone() from error
                raise

    def rows(self, layout: RowSchema, features: Sequence[str], keys: Sequence[Key]) -> list[Found | None]:
        """One query for all keys; once more where a view was dropped or became another one."""
        try:
            return self._rows(layout, features, keys)
        except GenerationGoneError:
            self._made.clear()
            return self._rows(layout, features, keys)

    def _rows(self, layout: RowSchema, features: Sequence[str], keys: Sequence[Key]) -> list[Found | None]:
        made = self._query(layout, tuple(features))
        if made is None or not keys:
            return [None] * len(keys)
        width = len(layout.keys)
        try:
            answer = self._run(made.sql, [list(column) for column in zip(*keys, strict=True)] if width else [])
        except psycopg.DataError as error:
            raise OnlineStoreUnfitError(
                f"PostgreSQL cannot hold one of the keys of {layout.view}: {' '.join(str(error).split())}"
            ) from error
        if not answer and not self._run(
            f"SELECT FROM {_literally(f'{self._schema}.{identifier(layout.view)}')} LIMIT 1", []
        ):
            self.ensure_whole()  # a view without any row: lost, unless it was published so
        found = {row[:width]: made.typed(row[width:]) for row in answer}
        return [found.get(tuple(key)) for key in keys]

    def keys(self, layout: RowSchema, some: int | None) -> list[Key]:
        """All, or some."""
        if not self._columns(layout.view):
            return []
        order = "" if some is None else f" ORDER BY random() LIMIT {some}"
        return self._run(f"SELECT {tables.primary(layout)} FROM {self._schema}.{identifier(layout.view)}{order}", [])

    def _run(self, sql: str, values: list[Any]) -> list[Any]:
        """Binary, because a float of four bytes is not what its digits say."""
        try:
            with reaching(self._place.where, *DOWN):
                return self.connection.cursor(binary=True).execute(sql.encode(), values).fetchall()
        except (errors.UndefinedTable, errors.UndefinedColumn, errors.InvalidSchemaName) as error:
            self.ensure_whole()
            raise self._gone() from error

    def _gone(self) -> GenerationGoneError:
        return GenerationGoneError(f"generation {self.name} was removed from {self._place.where} while it was read")

    def _columns(self, view: str) -> dict[str, str]:
        """None when a whole generation does not have the view; GenerationGoneError when there is no such generation."""
        with reaching(self._place.where, *DOWN):
            present = _columns(self.connection, self._schema, view)
        if not present:
            self.ensure_whole()
        return present

    def _query(self, layout: RowSchema, features: tuple[str, ...]) -> Query | None:
        """None while the generation does not have the view; a push may add it, or a feature."""
        made = self._made.get((layout.view, features))
        if made is None:
            present = self._columns(layout.view)
            if not present:
                return None
            made = self._select(layout, features, present)
            if present.keys() >= {*features}:
                self._made[layout.view, features] = made
        return made

    def _select(self, layout: RowSchema, features: tuple[str, ...], present: dict[str, str]) -> Query:
        keys, table = _literally(tables.primary(layout)), _literally(f"{self._schema}.{identifier(layout.view)}")
        asked = ", ".join(f"%s::{kind.postgres}[]" for kind in layout.keys.values())
        sql = (
            f"SELECT {keys}, {_literally(tables.picked(features, present))} FROM {table} t JOIN (SELECT DISTINCT * FROM"
            f" unnest({asked}) AS asked({keys})) AS asked USING ({keys})"
        )
        other = _retyped(layout, features, present)
        return Query(sql, {at: layout.features[name].proto for at, name in enumerate(features, 1) if name in other})


@dataclass(frozen=True)
class Query:
    """SQL for a view's rows, and which of their values (the event time is the first) are stored in a type that the
    definitions had before.
    """

    sql: str
    retyped: dict[int, str]

    def typed(self, row: Found) -> Found:
        """With the types of the definitions."""
        return retyped_row(row, self.retyped) if self.retyped else row


class PostgresDraft:
    """A schema that becomes visible to others only when it is complete, and is read by nobody before the pointer names
    it.
    """

    def __init__(self, connection: psycopg.Connection[Any], label: str) -> None:
        self.name, self.connection = new_name(label), connection
        self._schema, self._like = _schema(self.name), ""
        connection.autocommit = False
        _start(connection, self.name)

    def copy_from(self, name: str) -> None:
        """Its rows are copied where a view is changed."""
        self._like = name

    def load(self, layout: RowSchema, batches: Iterable[Sequence[Stored]]) -> int:
        """With COPY; the index comes last."""
        table = self._table(layout)
        _create(self.connection, table, layout)
        rows = self._copy(table, layout, batches)
        _index(self.connection, table, layout)
        return rows

    def apply_changes(self, layout: RowSchema, keys: Sequence[Key], batches: Iterable[Sequence[Stored]]) -> int:
        """The other generation's rows are copied inside the server."""
        table, names = self._table(layout), tables.primary(layout)
        former = f"{_schema(self._like)}.{identifier(layout.view)}"
        types = ", ".join(f"{identifier(name)} {kind.postgres}" for name, kind in layout.keys.items())
        self.connection.execute(f"CREATE TEMPORARY TABLE gone ({types}) ON COMMIT DROP")
        with _fitting(layout), self.connection.cursor().copy(f"COPY gone ({names}) FROM STDIN") as copy:
            for key in keys:
                copy.write_row(key)
        _create(self.connection, table, layout)
        columns, same = (
            ", ".join(tables.names(layout)),
            " AND ".join(f"gone.{identifier(name)} = former.{identifier(name)}" for name in layout.keys),
        )
        self.connection.execute("ANALYZE gone")
        self.connection.execute(
            f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {former} former WHERE NOT EXISTS (SELECT FROM gone"
            f" WHERE {same})"
        )
        self.connection.execute("DROP TABLE gone")
        self._copy(table, layout, batches)
        _index(self.connection, table, layout)
        count: int = self.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # type: ignore[index]
        return count

    def finish(self, about: GenerationMetadata) -> None:
        """Commit."""
        _describe(self.connection, self.name, about)
        self.connection.commit()

    def publish(self) -> None:
        """Over the connection that holds the lock."""
        _point_to(self.connection, self.name)
        self.connection.commit()

    def _table(self, layout: RowSchema) -> str:
        return f"{self._schema}.{identifier(layout.view)}"

    def _copy(self, table: str, layout: RowSchema, batches: Iterable[Sequence[Stored]]) -> int:
        kinds, rows = [*layout.keys.values(), None, None, *layout.features.values()], 0
        types = [kind.postgres.lower() if kind else "bigint" for kind in kinds]
        with (
            _fitting(layout),
            self.connection.cursor().copy(
                f"COPY {table} ({', '.join(tables.names(layout))}) FROM STDIN (FORMAT BINARY)"
            ) as copy,
        ):
            copy.set_types(types)
            for batch in batches:
                for row in batch:
                    copy.write_row(row)
                rows += len(batch)
        return rows


@contextmanager
def _fitting(layout: RowSchema) -> Iterator[None]:
    try:
        yield
    except psycopg.DataError as error:
        raise OnlineStoreUnfitError(
            f"PostgreSQL cannot hold a row of {layout.view}: {' '.join(str(error).split())}"
        ) from error


def _literally(sql: str) -> str:
    """With per cent signs that psycopg takes for themselves."""
    return sql.replace("%", "%%")


def _take_turn(connection: psycopg.Connection[Any]) -> None:
    """Wait for the lock in many short statements, so that a server that is gone meanwhile is noticed."""
    while connection.execute("SELECT pg_try_advisory_lock(%s)", [LOCK]).fetchone() != (True,):
        time.sleep(TURN_SECONDS)


def _schema(name: str) -> str:
    return identifier(f"{HOME}_{name}")


def _prepare(connection: psycopg.Connection[Any]) -> None:
    """Have the pointer's table; two who come first at once do not disturb each other."""
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK + 1])
        if connection.execute("SELECT to_regclass(%s)", [f"{HOME}.pointer"]).fetchone() == (None,):
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {HOME}")
            connection.execute(
                f"CREATE TABLE {HOME}.pointer (one boolean PRIMARY KEY DEFAULT true CHECK (one), current text NOT NULL,"
                " former text)"
            )
        if "published_at" not in _columns(connection, HOME, "pointer"):
            connection.execute(f"ALTER TABLE {HOME}.pointer ADD COLUMN published_at timestamptz")


def pending(url: str) -> list[str]:
    """What `_prepare` would do to the database, in words; nothing is written."""
    where = masked(url)
    with (
        reaching(where, psycopg.Error),
        Bounded.connect(url, autocommit=True, connect_timeout=CONNECT_SECONDS) as connection,
    ):
        columns = _columns(connection, HOME, "pointer")
    if not columns:
        return [f"make the table {HOME}.pointer"]
    return [] if "published_at" in columns else [f"add published_at to {HOME}.pointer"]


def _start(connection: psycopg.Connection[Any], name: str) -> None:
    connection.execute(f"CREATE SCHEMA {_schema(name)}")
    connection.execute(
        f"CREATE TABLE {_schema(name)}.{ABOUT} (one boolean PRIMARY KEY DEFAULT true CHECK (one), about jsonb NOT NULL)"
    )


def _create(connection: psycopg.Connection[Any], table: str, layout: RowSchema) -> None:
    _refuse_long_names(layout)
    connection.execute(f"CREATE TABLE {table} ({', '.join(tables.columns(layout, 'postgres'))})")


def _refuse_long_names(layout: RowSchema) -> None:
    for name in (layout.view, *layout.keys, *layout.features):
        if len(name.encode()) > LONGEST_NAME:
            raise OnlineStoreUnfitError(
                f"PostgreSQL cuts names of more than {LONGEST_NAME} bytes, so {name} cannot be online there. Give it a"
                " shorter name"
            )


def _index(connection: psycopg.Connection[Any], table: str, layout: RowSchema) -> None:
    connection.execute(f"ALTER TABLE {table} ADD PRIMARY KEY ({tables.primary(layout)})")
    connection.execute(f"ANALYZE {table}")


def _columns(connection: psycopg.Connection[Any], schema: str, view: str) -> dict[str, str]:
    """The type of each column."""
    sql = (
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = to_regclass(%s) AND"
        " attnum > 0"
    )
    return dict(connection.execute(sql, [f"{schema}.{identifier(view)}"]).fetchall())


def _retyped(layout: RowSchema, features: Iterable[str], present: dict[str, str]) -> list[str]:
    """Features whose columns are of another type than the layout says."""
    return [name for name in features if name in present and present[name] != layout.features[name].postgres.lower()]


def _named(connection: psycopg.Connection[Any]) -> tuple[str | None, str | None]:
    """The current and the former generation."""
    return connection.execute(f"SELECT current, former FROM {HOME}.pointer").fetchone() or (None, None)


def _point_to(connection: psycopg.Connection[Any], name: str) -> None:
    connection.execute(
        f"INSERT INTO {HOME}.pointer AS old (current, published_at) VALUES (%s, clock_timestamp()) ON CONFLICT (one) DO"
        " UPDATE SET current = excluded.current, former = old.current, published_at = excluded.published_at",
        [name],
    )


def _about(connection: psycopg.Connection[Any], name: str, where: str) -> GenerationMetadata:
    """What the generation was made from; OnlineStoreDamagedError unless it says so, and has rows of the views of which
    it says so.
    """
    schema = _schema(name)
    row = (
        connection.execute(f"SELECT about::text FROM {schema}.{ABOUT}").fetchone()
        if _columns(connection, schema, ABOUT)
        else None
    )
    about = parsed(row[0] if row else None, name, where)
    if not about.pushed:  # a push may come with views being dropped
        ensure_views(
            name, where, (view for view, count in about.rows.items() if _lacks(connection, schema, view, count))
        )
    return about


def _lacks(connection: psycopg.Connection[Any], schema: str, view: str, count: int) -> bool:
    """Whether the table is missing, or has no row although it had some."""
    if not _columns(connection, schema, view):
        return True
    return count > 0 and connection.execute(f"SELECT FROM {schema}.{identifier(view)} LIMIT 1").fetchone() is None


def _describe(connection: psycopg.Connection[Any], name: str, about: GenerationMetadata) -> None:
    connection.execute(
        f"INSERT INTO {_schema(name)}.{ABOUT} (about) VALUES (%s) ON CONFLICT (one) DO UPDATE SET about ="
        " excluded.about",
        [about.to_json()],
    )


def _clean(connection: psycopg.Connection[Any]) -> None:
    """Drop generations that are neither current nor former, among them what loaders left; one that is still read is
    left to the next. By whom the lock is held.
    """
    named = {f"{HOME}_{name}" for name in _named(connection) if name}
    present = connection.execute(
        "SELECT nspname FROM pg_namespace JOIN pg_class ON relnamespace = pg_namespace.oid WHERE relname = %s AND"
        " starts_with(nspname, %s)",
        [ABOUT, f"{HOME}_"],
    )
    for (schema,) in present.fetchall():
        if schema not in named:
            try:
                with connection.transaction():
                    connection.execute(f"SET LOCAL lock_timeout = '{CLEAN_SECONDS}s'")
                    connection.execute(f"DROP SCHEMA {identifier(schema)} CASCADE")
            except errors.LockNotAvailable:
                continue

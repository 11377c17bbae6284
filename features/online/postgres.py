"""Generations as schemas of a PostgreSQL database: a table per view, and a pointer row. The user needs the right to
create schemas.

A generation is loaded with COPY in one transaction, so a loader that dies leaves nothing. An advisory lock, held by the
loader's connection, admits one loader at a time; the same connection moves the pointer, so a loader that lost the lock
cannot publish.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, ClassVar

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from features.online import tables
from features.online.generation import (
    GenerationGoneError,
    GenerationMetadata,
    Key,
    OnlineStoreDamagedError,
    OnlineStoreUnfitError,
    ReadRow,
    RowSchema,
    StoredRow,
    empty_error,
    ensure_views,
    new_name,
    parse_metadata,
)
from features.online.server import (
    ANSWER_SECONDS,
    CONNECT_SECONDS,
    SETTING,
    invalid_url,
    mask_url,
    translate_errors,
)
from features.streaming import postgres as tails
from features.streaming.tail_store import TailRows
from features.type_mapping import convert_row
from lake import tls
from lake.sql import identifier
from lake.tls import Explanation

HOME = "millrace"
"""The pointer's schema; the names of generations' schemas start with it and `_`."""
METADATA_TABLE = "_generation"
"""The table with a generation's metadata, which marks its schema."""
LOCK = 6_566_000_001
LONGEST_NAME = 63
"""Bytes; PostgreSQL truncates longer names, so two views could collide."""
CLEAN_SECONDS = 5
WORK_SECONDS = 600
"""A loader's longest statement: the index or the copy of a large view."""
LOCK_POLL_SECONDS = 0.2
ANY = "\0"
"""Placeholder of a parameter, which no name contains."""
CONNECTION_ERRORS = (psycopg.OperationalError, psycopg.InterfaceError)
LIMITS = ["statement_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"]
"""Server settings that could end a loader during a long load or comparison."""


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that waits at most `seconds` for a statement, even when the server is up but silent."""

    seconds: ClassVar[float] = ANSWER_SECONDS

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait as psycopg does, with a deadline."""
        deadline = time.monotonic() + self.seconds
        try:
            return super().wait(gen, interval, self.seconds if timeout is None else timeout)
        except psycopg.Error as error:
            if timeout is not None or time.monotonic() < deadline:
                raise
            self.pgconn.finish()  # a late answer would be read as that of the next statement
            raise psycopg.OperationalError(f"no answer within {self.seconds} s") from error


class LoaderConnection(BoundedConnection):
    """A connection for writing, with a longer timeout."""

    seconds = WORK_SECONDS


class PostgresBackend:
    """One database."""

    def __init__(self, url: str) -> None:
        self._url, self.where = url, mask_url(url)
        try:
            conninfo_to_dict(url)
        except psycopg.ProgrammingError:
            raise invalid_url() from None
        self._prepared = False
        self._tails = tails.PostgresTailStore(
            partial(self.connect, BoundedConnection),
            partial(self.connect, LoaderConnection),
            partial(translate_errors, self.where, psycopg.Error),
        )

    def current(self) -> str | None:
        """One query."""
        with self.connected(BoundedConnection) as connection:
            return _pointer(connection)[0]

    def metadata(self) -> GenerationMetadata | None:
        """From the generation's own table."""
        with self.connected(BoundedConnection) as connection:
            name, _ = _pointer(connection)
            while name is not None:
                try:
                    return _metadata(connection, name, self.where)
                except OnlineStoreDamagedError:
                    before, name = name, _pointer(connection)[0]
                    if name == before:  # else it was replaced twice while it was looked at
                        raise
            return None

    def published_at(self) -> datetime | None:
        """By the server's clock, in the pointer's row."""
        with self.connected(BoundedConnection) as connection:
            row = connection.execute(f"SELECT published_at FROM {HOME}.pointer").fetchone()
        return row[0] if row else None

    def session(self) -> PostgresSession:
        """A session, which reads the pointer with one query per request."""
        return PostgresSession(self)

    def open(self, name: str) -> PostgresReader:
        """With a connection of its own."""
        reader = PostgresReader(self, name, self.connect(BoundedConnection))
        reader.ensure_complete()
        return reader

    @contextmanager
    def drafting(self, label: str) -> Iterator[PostgresDraft]:
        """A draft; one at a time per database, by a lock of the connection."""
        with self.connected(LoaderConnection) as connection:
            connection.execute("SELECT set_config(name, '0', false) FROM pg_settings WHERE name = ANY(%s)", [LIMITS])
            _acquire_lock(connection)
            _clean(connection)
            try:
                yield PostgresDraft(connection, label)
            finally:
                if not connection.closed:
                    connection.rollback()
                    connection.autocommit = True
                    _clean(connection)

    def merge(self, row_schema: RowSchema, rows: Sequence[StoredRow]) -> None:
        """Merge in one transaction, which locks the pointer."""
        with self._writing() as (connection, schema):
            table = f"{schema}.{identifier(row_schema.view)}"
            if not _columns(connection, schema, row_schema.view):
                _create(connection, table, row_schema)
                _index(connection, table, row_schema)
            _ensure_short_names(row_schema)
            present = _columns(connection, schema, row_schema.view)
            if changed := _changed_types(row_schema, row_schema.features, present):
                raise OnlineStoreUnfitError(
                    f"{', '.join(changed)} of {row_schema.view} is online in another type; materialize before you push"
                )
            for name in row_schema.features.keys() - present:
                connection.execute(
                    f"ALTER TABLE {table} ADD COLUMN {identifier(name)} {row_schema.features[name].postgres}"
                )
            with _translate_data_error(row_schema):
                connection.cursor().executemany(
                    _escape_percent(tables.upsert(table, row_schema, ANY)).replace(ANY, "%s"), rows
                )

    def drop(self, views: Sequence[str]) -> None:
        """Drop their tables."""
        if views and self.current() is not None:
            with self._writing() as (connection, schema):
                for view in views:
                    connection.execute(f"DROP TABLE IF EXISTS {schema}.{identifier(view)}")

    def remove_all(self) -> None:
        """Drop all generations, after waiting for a running loader."""
        with self.connected(LoaderConnection) as connection:
            _acquire_lock(connection)
            connection.execute(f"DELETE FROM {HOME}.pointer")
            _clean(connection)
            self._tails.remove([])

    def tails(self) -> tails.PostgresTailStore:
        """In two tables beside the pointer."""
        return self._tails

    @contextmanager
    def connected(self, connection_type: type[psycopg.Connection[Any]]) -> Iterator[psycopg.Connection[Any]]:
        """A connection for the block; OnlineStoreUnreachableError when it fails."""
        with translate_errors(self.where, psycopg.Error), self.connect(connection_type) as connection:
            yield connection

    def connect(self, connection_type: type[psycopg.Connection[Any]]) -> psycopg.Connection[Any]:
        """A new connection in autocommit mode."""
        with translate_errors(self.where, psycopg.Error, explain=self._explain):
            connection = connection_type.connect(
                self._url, autocommit=True, connect_timeout=CONNECT_SECONDS, application_name="millrace"
            )
            if not self._prepared:
                _prepare(connection)
                self._prepared = True
            return connection

    def _explain(self, text: str) -> Explanation | None:
        """What keeps a connection from being encrypted."""
        return tls.explain_postgres(text, conninfo_to_dict(self._url), SETTING)

    @contextmanager
    def _writing(self) -> Iterator[tuple[psycopg.Connection[Any], str]]:
        """A transaction and the schema of the generation in use, or of a new empty one; its metadata says `pushed` from
        then on.
        """
        with self.connected(LoaderConnection) as connection, connection.transaction():
            connection.execute(f"LOCK TABLE {HOME}.pointer IN SHARE ROW EXCLUSIVE MODE")
            name, _ = _pointer(connection)
            if name is None:
                name = new_name("pushed")
                _start(connection, name)
                _write_metadata(connection, name, GenerationMetadata())
                _point_to(connection, name)
            metadata = _metadata(connection, name, self.where)
            yield connection, _schema(name)
            _write_metadata(connection, name, replace(metadata, pushed=True))


class PostgresSession:
    """A connection, reopened after it broke."""

    def __init__(self, backend: PostgresBackend) -> None:
        self._backend = backend
        self._reader: PostgresReader | None = None

    def reader(self) -> PostgresReader:
        """OnlineStoreEmptyError when nothing is online."""
        if self._reader:
            with suppress(*CONNECTION_ERRORS):  # the server was restarted since the last request
                return self._newest(self._reader.connection)
        with translate_errors(self._backend.where, *CONNECTION_ERRORS):
            return self._newest(self._backend.connect(BoundedConnection))

    def _newest(self, connection: psycopg.Connection[Any]) -> PostgresReader:
        name, _ = _pointer(connection)
        if name is None:
            raise empty_error(self._backend.where)
        if self._reader is None or (self._reader.name, self._reader.connection) != (name, connection):
            reader = PostgresReader(self._backend, name, connection)
            reader.ensure_complete()
            self._reader = reader
        return self._reader


class PostgresReader:
    """A generation's tables over one connection."""

    def __init__(self, backend: PostgresBackend, name: str, connection: psycopg.Connection[Any]) -> None:
        self._backend, self.name, self.connection = backend, name, connection
        self._schema = _schema(name)
        self._queries: dict[tuple[str, tuple[str, ...]], Query] = {}

    def metadata(self) -> GenerationMetadata:
        """From the generation's own table."""
        with translate_errors(self._backend.where, *CONNECTION_ERRORS):
            return _metadata(self.connection, self.name, self._backend.where)

    def tail_rows(self, tail: str, keys: Sequence[bytes]) -> TailRows | None:
        """One query."""
        with translate_errors(self._backend.where, *CONNECTION_ERRORS):
            return tails.rows(self.connection, tail, keys)

    def begin(self) -> None:
        """Nothing to do: part of a request may see rows that are pushed meanwhile."""

    def end(self) -> None:
        """Nothing to do."""

    def ensure_complete(self) -> None:
        """Raise OnlineStoreDamagedError if the generation lacks rows that it was published with, GenerationGoneError if
        it was removed because it is no longer in use.
        """
        with translate_errors(self._backend.where, *CONNECTION_ERRORS):
            try:
                _metadata(self.connection, self.name, self._backend.where)
            except OnlineStoreDamagedError as error:
                if self.name != _pointer(self.connection)[0]:
                    raise self._gone() from error
                raise

    def rows(self, row_schema: RowSchema, features: Sequence[str], keys: Sequence[Key]) -> list[ReadRow | None]:
        """One query for all keys; retried once where a view was dropped or replaced."""
        try:
            return self._rows(row_schema, features, keys)
        except GenerationGoneError:
            self._queries.clear()
            return self._rows(row_schema, features, keys)

    def _rows(self, row_schema: RowSchema, features: Sequence[str], keys: Sequence[Key]) -> list[ReadRow | None]:
        query = self._query(row_schema, tuple(features))
        if query is None or not keys:
            return [None] * len(keys)
        width = len(row_schema.keys)
        try:
            result = self._run(query.sql, [list(column) for column in zip(*keys, strict=True)] if width else [])
        except psycopg.DataError as error:
            raise OnlineStoreUnfitError(
                f"PostgreSQL cannot hold one of the keys of {row_schema.view}: {' '.join(str(error).split())}"
            ) from error
        if not result and not self._run(
            f"SELECT FROM {_escape_percent(f'{self._schema}.{identifier(row_schema.view)}')} LIMIT 1", []
        ):
            self.ensure_complete()  # a view without rows: lost, unless it was published empty
        rows = {row[:width]: query.typed(row[width:]) for row in result}
        return [rows.get(tuple(key)) for key in keys]

    def keys(self, row_schema: RowSchema, limit: int | None) -> list[Key]:
        """All keys, or random ones."""
        if not self._columns(row_schema.view):
            return []
        order = "" if limit is None else f" ORDER BY random() LIMIT {limit}"
        return self._run(
            f"SELECT {tables.primary(row_schema)} FROM {self._schema}.{identifier(row_schema.view)}{order}", []
        )

    def _run(self, sql: str, values: list[Any]) -> list[Any]:
        """The rows, in binary format: the text of a 4-byte float is not exact."""
        try:
            with translate_errors(self._backend.where, *CONNECTION_ERRORS):
                return self.connection.cursor(binary=True).execute(sql.encode(), values).fetchall()
        except (errors.UndefinedTable, errors.UndefinedColumn, errors.InvalidSchemaName) as error:
            self.ensure_complete()
            raise self._gone() from error

    def _gone(self) -> GenerationGoneError:
        return GenerationGoneError(f"generation {self.name} was removed from {self._backend.where} while it was read")

    def _columns(self, view: str) -> dict[str, str]:
        """Column -> type; empty when an intact generation lacks the view. GenerationGoneError when the generation was
        removed.
        """
        with translate_errors(self._backend.where, *CONNECTION_ERRORS):
            present = _columns(self.connection, self._schema, view)
        if not present:
            self.ensure_complete()
        return present

    def _query(self, row_schema: RowSchema, features: tuple[str, ...]) -> Query | None:
        """None while the generation lacks the view; a push may add the view, or a feature."""
        query = self._queries.get((row_schema.view, features))
        if query is None:
            present = self._columns(row_schema.view)
            if not present:
                return None
            query = self._select(row_schema, features, present)
            if present.keys() >= {*features}:
                self._queries[row_schema.view, features] = query
        return query

    def _select(self, row_schema: RowSchema, features: tuple[str, ...], present: dict[str, str]) -> Query:
        keys, table = (
            _escape_percent(tables.primary(row_schema)),
            _escape_percent(f"{self._schema}.{identifier(row_schema.view)}"),
        )
        types = ", ".join(f"%s::{mapping.postgres}[]" for mapping in row_schema.keys.values())
        sql = (
            f"SELECT {keys}, {_escape_percent(tables.selected(features, present))} FROM {table} t JOIN (SELECT DISTINCT"
            " * FROM"
            f" unnest({types}) AS requests({keys})) AS requests USING ({keys})"
        )
        changed = _changed_types(row_schema, features, present)
        return Query(
            sql, {at: row_schema.features[name].proto for at, name in enumerate(features, 1) if name in changed}
        )


@dataclass(frozen=True)
class Query:
    """SQL for a view's rows, and the fields of `Value` for columns that are stored in the type of older definitions, by
    index in the row (0 is the event time).
    """

    sql: str
    changed_protos: dict[int, str]

    def typed(self, row: ReadRow) -> ReadRow:
        """The row in the types of the definitions."""
        return convert_row(row, self.changed_protos) if self.changed_protos else row


class PostgresDraft:
    """A schema in an open transaction: invisible until it is complete, and not read until the pointer names it."""

    def __init__(self, connection: psycopg.Connection[Any], label: str) -> None:
        self.name, self.connection = new_name(label), connection
        self._schema, self._base_name = _schema(self.name), ""
        connection.autocommit = False
        _start(connection, self.name)

    def copy_from(self, name: str) -> None:
        """Copied later, view by view, in `apply_changes`."""
        self._base_name = name

    def load(self, row_schema: RowSchema, batches: Iterable[Sequence[StoredRow]]) -> int:
        """Load with COPY and create the index last."""
        table = self._table(row_schema)
        _create(self.connection, table, row_schema)
        rows = self._copy(table, row_schema, batches)
        _index(self.connection, table, row_schema)
        return rows

    def apply_changes(self, row_schema: RowSchema, keys: Sequence[Key], batches: Iterable[Sequence[StoredRow]]) -> int:
        """Copy the other generation's rows inside the server."""
        table, names = self._table(row_schema), tables.primary(row_schema)
        former = f"{_schema(self._base_name)}.{identifier(row_schema.view)}"
        types = ", ".join(f"{identifier(name)} {mapping.postgres}" for name, mapping in row_schema.keys.items())
        self.connection.execute(f"CREATE TEMPORARY TABLE gone ({types}) ON COMMIT DROP")
        with (
            _translate_data_error(row_schema),
            self.connection.cursor().copy(f"COPY gone ({names}) FROM STDIN") as copy,
        ):
            for key in keys:
                copy.write_row(key)
        _create(self.connection, table, row_schema)
        columns, same = (
            ", ".join(tables.names(row_schema)),
            " AND ".join(f"gone.{identifier(name)} = former.{identifier(name)}" for name in row_schema.keys),
        )
        self.connection.execute("ANALYZE gone")
        self.connection.execute(
            f"INSERT INTO {table} ({columns}) SELECT {columns} FROM {former} former WHERE NOT EXISTS (SELECT FROM gone"
            f" WHERE {same})"
        )
        self.connection.execute("DROP TABLE gone")
        self._copy(table, row_schema, batches)
        _index(self.connection, table, row_schema)
        count: int = self.connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]  # type: ignore[index]
        return count

    def finish(self, metadata: GenerationMetadata) -> None:
        """Commit."""
        _write_metadata(self.connection, self.name, metadata)
        self.connection.commit()

    def publish(self) -> None:
        """Move the pointer over the connection that holds the lock."""
        _point_to(self.connection, self.name)
        self.connection.commit()

    def _table(self, row_schema: RowSchema) -> str:
        return f"{self._schema}.{identifier(row_schema.view)}"

    def _copy(self, table: str, row_schema: RowSchema, batches: Iterable[Sequence[StoredRow]]) -> int:
        mappings, rows = [*row_schema.keys.values(), None, None, *row_schema.features.values()], 0
        types = [mapping.postgres.lower() if mapping else "bigint" for mapping in mappings]
        with (
            _translate_data_error(row_schema),
            self.connection.cursor().copy(
                f"COPY {table} ({', '.join(tables.names(row_schema))}) FROM STDIN (FORMAT BINARY)"
            ) as copy,
        ):
            copy.set_types(types)
            for batch in batches:
                for row in batch:
                    copy.write_row(row)
                rows += len(batch)
        return rows


@contextmanager
def _translate_data_error(row_schema: RowSchema) -> Iterator[None]:
    try:
        yield
    except psycopg.DataError as error:
        raise OnlineStoreUnfitError(
            f"PostgreSQL cannot hold a row of {row_schema.view}: {' '.join(str(error).split())}"
        ) from error


def _escape_percent(sql: str) -> str:
    """The SQL with percent signs escaped for psycopg."""
    return sql.replace("%", "%%")


def _acquire_lock(connection: psycopg.Connection[Any]) -> None:
    """Poll for the lock with short statements, so that a server that went away is noticed."""
    while connection.execute("SELECT pg_try_advisory_lock(%s)", [LOCK]).fetchone() != (True,):
        time.sleep(LOCK_POLL_SECONDS)


def _schema(name: str) -> str:
    return identifier(f"{HOME}_{name}")


def _prepare(connection: psycopg.Connection[Any]) -> None:
    """Create or complete the pointer's table; safe when two processes do it at once."""
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
    """Descriptions of what `_prepare` would change; writes nothing."""
    where = mask_url(url)
    with (
        translate_errors(where, psycopg.Error),
        BoundedConnection.connect(url, autocommit=True, connect_timeout=CONNECT_SECONDS) as connection,
    ):
        columns = _columns(connection, HOME, "pointer")
    if not columns:
        return [f"make the table {HOME}.pointer"]
    return [] if "published_at" in columns else [f"add published_at to {HOME}.pointer"]


def _start(connection: psycopg.Connection[Any], name: str) -> None:
    connection.execute(f"CREATE SCHEMA {_schema(name)}")
    connection.execute(
        f"CREATE TABLE {_schema(name)}.{METADATA_TABLE} (one boolean PRIMARY KEY DEFAULT true CHECK (one), about jsonb"
        " NOT NULL)"
    )


def _create(connection: psycopg.Connection[Any], table: str, row_schema: RowSchema) -> None:
    _ensure_short_names(row_schema)
    connection.execute(f"CREATE TABLE {table} ({', '.join(tables.columns(row_schema, 'postgres'))})")


def _ensure_short_names(row_schema: RowSchema) -> None:
    for name in (row_schema.view, *row_schema.keys, *row_schema.features):
        if len(name.encode()) > LONGEST_NAME:
            raise OnlineStoreUnfitError(
                f"PostgreSQL cuts names of more than {LONGEST_NAME} bytes, so {name} cannot be online there. Give it a"
                " shorter name"
            )


def _index(connection: psycopg.Connection[Any], table: str, row_schema: RowSchema) -> None:
    connection.execute(f"ALTER TABLE {table} ADD PRIMARY KEY ({tables.primary(row_schema)})")
    connection.execute(f"ANALYZE {table}")


def _columns(connection: psycopg.Connection[Any], schema: str, view: str) -> dict[str, str]:
    """Column -> type."""
    sql = (
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attrelid = to_regclass(%s) AND"
        " attnum > 0"
    )
    return dict(connection.execute(sql, [f"{schema}.{identifier(view)}"]).fetchall())


def _changed_types(row_schema: RowSchema, features: Iterable[str], present: dict[str, str]) -> list[str]:
    """Features whose columns have another type than the RowSchema."""
    return [
        name for name in features if name in present and present[name] != row_schema.features[name].postgres.lower()
    ]


def _pointer(connection: psycopg.Connection[Any]) -> tuple[str | None, str | None]:
    """The current and the previous generation."""
    return connection.execute(f"SELECT current, former FROM {HOME}.pointer").fetchone() or (None, None)


def _point_to(connection: psycopg.Connection[Any], name: str) -> None:
    connection.execute(
        f"INSERT INTO {HOME}.pointer AS old (current, published_at) VALUES (%s, clock_timestamp()) ON CONFLICT (one) DO"
        " UPDATE SET current = excluded.current, former = old.current, published_at = excluded.published_at",
        [name],
    )


def _metadata(connection: psycopg.Connection[Any], name: str, where: str) -> GenerationMetadata:
    """The generation's metadata; OnlineStoreDamagedError when it is missing, or rows of views that it counts are."""
    schema = _schema(name)
    row = (
        connection.execute(f"SELECT about::text FROM {schema}.{METADATA_TABLE}").fetchone()
        if _columns(connection, schema, METADATA_TABLE)
        else None
    )
    metadata = parse_metadata(row[0] if row else None, name, where)
    if not metadata.pushed:  # a push may come with views being dropped
        ensure_views(
            name, where, (view for view, count in metadata.rows.items() if _is_lacking(connection, schema, view, count))
        )
    return metadata


def _is_lacking(connection: psycopg.Connection[Any], schema: str, view: str, count: int) -> bool:
    """Whether the view's table is missing, or empty although it had rows."""
    if not _columns(connection, schema, view):
        return True
    return count > 0 and connection.execute(f"SELECT FROM {schema}.{identifier(view)} LIMIT 1").fetchone() is None


def _write_metadata(connection: psycopg.Connection[Any], name: str, metadata: GenerationMetadata) -> None:
    connection.execute(
        f"INSERT INTO {_schema(name)}.{METADATA_TABLE} (about) VALUES (%s) ON CONFLICT (one) DO UPDATE SET about ="
        " excluded.about",
        [metadata.to_json()],
    )


def _clean(connection: psycopg.Connection[Any]) -> None:
    """Drop generations other than the current and the previous one, including what killed loaders left. The caller
    holds the lock. A generation that is still being read is left to the next call.
    """
    kept = {f"{HOME}_{name}" for name in _pointer(connection) if name}
    schemas = connection.execute(
        "SELECT nspname FROM pg_namespace JOIN pg_class ON relnamespace = pg_namespace.oid WHERE relname = %s AND"
        " starts_with(nspname, %s)",
        [METADATA_TABLE, f"{HOME}_"],
    )
    for (schema,) in schemas.fetchall():
        if schema not in kept:
            try:
                with connection.transaction():
                    connection.execute(f"SET LOCAL lock_timeout = '{CLEAN_SECONDS}s'")
                    connection.execute(f"DROP SCHEMA {identifier(schema)} CASCADE")
            except errors.LockNotAvailable:
                continue

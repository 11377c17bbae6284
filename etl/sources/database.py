"""Pull a table of PostgreSQL into the landing zone, as a parquet file that bronze loads like any other.

How far a table was pulled is written in the landed files themselves, and read back from the newest one: there is no
second record that could disagree. Cells are text, as in CSV files, so that a cell that does not fit its column rejects
its row alone.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import psycopg
from psycopg import sql

from contracts.model import BOOLEAN, DATE, DOUBLE, LONG, STRING, TIMESTAMP, Column, Database, DecimalType, Table
from contracts.report import Pulled
from etl.sources import landing
from etl.sources.landing import LandedFile
from lake import delta, settings, storage
from lake.publishing import locked

if TYPE_CHECKING:
    import pyarrow as pa

PREFIX, STAMP = "pull-", "pull-%Y%m%dT%H%M%S%fZ.parquet"
NAME = re.compile(r"pull-\d{8}T\d{12}Z\.parquet")
ASIDE = ".pull"
"""The folder in a table's landing folder for files that are not complete; readers skip it."""
MARK = b"millrace.pull"
"""The key of a `Mark` in a file's metadata."""
BLOCK = 8 << 20
"""Bytes of rows that are in memory at a time."""
CONNECT_SECONDS = 15
SILENT_SECONDS = 900.0
"""A server that says nothing for so long is taken for dead. The first row of a large table may take minutes."""
INTEGERS = ("int2", "int4", "int8")
TIMES = {"timestamptz": "timestamptz", "timestamp": "timestamp", "date": "date"}
FITTING = {
    LONG: (*INTEGERS, "numeric"),
    DOUBLE: (*INTEGERS, "float4", "float8", "numeric"),
    BOOLEAN: ("bool",),
    DATE: ("date",),
    TIMESTAMP: ("timestamptz", "timestamp", "date"),
}
"""Contract's type -> the types of PostgreSQL whose values it can have. Text is anything but bytes."""
SESSION = """
SET LOCAL TimeZone = 'UTC'; SET LOCAL DateStyle = 'ISO, YMD'; SET LOCAL extra_float_digits = 1;
SET LOCAL client_encoding = 'UTF8'; SET LOCAL statement_timeout = 0; SET LOCAL row_security = off
"""
"""Without row security a policy that would hide rows is an error: hidden rows would be taken for deleted ones."""
COLUMNS = """
SELECT a.attname, coalesce(b.typname, t.typname), format_type(a.atttypid, a.atttypmod)
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_type b ON b.oid = nullif(t.typbasetype, 0)
WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""
OLDEST = """
SELECT least(now(), min(xact_start)) FROM pg_stat_activity
WHERE backend_type = 'client backend' AND datname = current_database() AND pid <> pg_backend_pid()
"""
"""When the oldest open transaction began: one that commits later may have set its rows' times then."""


class PullError(RuntimeError):
    """A table cannot be pulled as it is declared; nothing has landed. The message names the remedy."""


class DatabaseUnreachableError(RuntimeError):
    """The database does not answer, or refuses the connection; nothing has landed."""


@dataclass(frozen=True)
class Mark:
    """What a pulled file says of itself.

    `newest` is the cursor's value from which the next pull goes back, as text, and `digest` that of its rows. With the
    file `after` which it was pulled, two files never have the same bytes: bronze loads a file's content once a day, and
    a table may return to an earlier state.
    """

    relation: str
    cursor: str | None
    newest: str | None = None
    digest: str = ""
    after: str | None = None


class _Connection(psycopg.Connection[Any]):
    """A connection that waits at most SILENT_SECONDS for the next answer, even when the server is up but silent."""

    seconds: ClassVar[float] = SILENT_SECONDS

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Wait as psycopg does, with a deadline."""
        deadline = time.monotonic() + self.seconds
        try:
            return super().wait(gen, interval, self.seconds if timeout is None else timeout)
        except psycopg.Error as error:
            if timeout is not None or time.monotonic() < deadline:
                raise
            self.pgconn.finish()
            raise psycopg.OperationalError(f"no answer within {self.seconds} s") from error


def pull(table: Table, day: date) -> Pulled:
    """Land the table's rows, or those from its cursor on, as one file under that day or, if it has been pulled under a
    later one, under that.

    The file appears whole, or not at all. After a kill, the next pull starts from what has landed.
    """
    database = _database(table)
    with locked(f"pull.{table.name}"):
        newest = _newest(table)
        before = _mark(table, newest)
        aside = _empty_folder(table) / f"{uuid.uuid4().hex}.parquet"
        with _connected(table, database) as connection:
            rows, mark = _read(connection, table, replace(before, after=newest.name if newest else None), aside)
        is_new = newest is None or mark.digest != before.digest or (mark.cursor is None and newest.day < day)
        return Pulled(table.qualified, *_land(table, aside, rows, mark, newest, day, is_new))


def _database(table: Table) -> Database:
    if table.database is None:
        raise PullError(f"{table.qualified} has no database. Give its contract database=Database(...)")
    return table.database


# --- what has landed


def _newest(table: Table) -> LandedFile | None:
    """The table's newest pulled file."""
    if not storage.is_folder(settings.landing()):
        return None
    pulled = (file for file in landing.files(table) if NAME.fullmatch(file.path.name))
    return max(pulled, key=lambda file: (file.day, file.name), default=None)


def _mark(table: Table, newest: LandedFile | None) -> Mark:
    """Where the table's pulls have come to: by its newest file or, where landed files are removed once they are loaded,
    by its rows in bronze. Without a value where all rows are to be read.
    """
    database = _database(table)
    start = Mark(database.relation, database.cursor)
    if newest is not None:
        mark = _mark_of(table, newest)
        return mark if (mark.relation, mark.cursor) == (start.relation, start.cursor) else start
    return replace(start, newest=_newest_in_bronze(table, database.cursor)) if database.cursor else start


def _mark_of(table: Table, file: LandedFile) -> Mark:
    import pyarrow as pa

    try:
        return Mark(**json.loads((storage.footer(file.path).metadata or {})[MARK]))
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise PullError(
            f"{table.qualified}: {file.name} does not say how far the table was pulled. Remove it: the next pull reads"
            " from the file before it on"
        ) from error


def _newest_in_bronze(table: Table, cursor: str) -> str | None:
    """The newest value in the rows that bronze has, but none later than they were loaded."""
    import duckdb

    published = delta.open_table(table.qualified)
    files = published.file_uris() if published else []
    if not files:
        return None
    column = next(column for column in table.columns if column.source_name == cursor)
    bound = f"least(max({column.name}), max(_loaded_at))" if column.type == TIMESTAMP else f"max({column.name})"
    if column.type == DATE:
        bound = f"least(max({column.name}), max(_landed_date))"
    query = f"SELECT CAST({bound} AS VARCHAR) FROM read_parquet(?) WHERE starts_with(parse_filename(_file), '{PREFIX}')"
    with storage.readable(duckdb.connect(), settings.lake()) as con:
        con.execute("SET TimeZone='UTC'")
        value = con.execute(query, [files]).fetchall()[0][0]
    return None if value is None else str(value)


# --- the database


@contextmanager
def _connected(table: Table, database: Database) -> Iterator[psycopg.Connection[Any]]:
    """A connection for the block. Errors of the database become errors of the table, with a remedy."""
    url = settings.source(database.variable)
    if not url:
        raise PullError(
            f"{table.qualified}: {database.variable} is not set. Set it to the URL of the database,"
            f" postgresql://user@host:5432/database, or {database.variable}_FILE to a file that holds it"
        )
    try:
        connection = _Connection.connect(
            url, autocommit=True, connect_timeout=CONNECT_SECONDS, application_name="millrace"
        )
    except psycopg.ProgrammingError:  # its text may quote the URL, password and all
        raise PullError(f"{table.qualified}: {database.variable} is no URL that libpq can read. Correct it") from None
    except psycopg.Error as error:
        raise DatabaseUnreachableError(
            f"{table.qualified}: the database of {database.variable} cannot be reached ({_first_line(error)}). See that"
            " it runs and lets this user in, then pull again"
        ) from None
    try:
        with connection:
            yield connection
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise DatabaseUnreachableError(
            f"{table.qualified}: the connection to the database of {database.variable} was lost"
            f" ({_first_line(error)}). Nothing has landed. Pull again"
        ) from error
    except psycopg.Error as error:
        raise PullError(
            f"{table.qualified}: {database.relation} cannot be read ({_first_line(error)}). Nothing has landed. Let the"
            f" user of {database.variable} read it, or correct contracts/bronze/{table.name}.py, then pull again"
        ) from error


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n")[0].split()).rstrip(".") or type(error).__name__


def _read(connection: psycopg.Connection[Any], table: Table, mark: Mark, path: Path) -> tuple[int, Mark]:
    """Write the rows of one snapshot of the database to a file. Returns their number, and what it says of itself."""
    database = _database(table)
    relation = sql.Identifier(*database.relation.split("."))
    [(oldest,)] = connection.execute(OLDEST).fetchall()  # before the snapshot: what commits in between is in it
    connection.isolation_level, connection.read_only = psycopg.IsolationLevel.REPEATABLE_READ, True
    connection.autocommit = False
    with connection.transaction():
        connection.execute(SESSION.encode())
        types = _types(connection, table, database)
        columns = [column for column in table.columns if column.name not in landing.ADDED_NAMES]
        _ensure_columns(table, database, columns, types)
        where: sql.Composable = sql.SQL("")
        if database.cursor:
            cursor_type = _cursor_type(table, database, types)
            where = _condition(database, mark, cursor_type)
            mark = replace(mark, newest=_advance(connection, relation, mark, cursor_type, oldest))
        cells = sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(column.source_name)) for column in columns)
        query = sql.SQL("COPY (SELECT {} FROM {}{}) TO STDOUT (FORMAT csv)").format(cells, relation, where)
        return _copy(connection, table, query, [column.source_name for column in columns], mark, path)


def _types(connection: psycopg.Connection[Any], table: Table, database: Database) -> dict[str, tuple[str, str]]:
    """Column -> its type, and how the database writes it; those of a domain are its base type's."""
    name = sql.Identifier(*database.relation.split(".")).as_string(connection)
    types = {column: (kind, shown) for column, kind, shown in connection.execute(COLUMNS, [name]).fetchall()}
    if not types:
        raise PullError(
            f"{table.qualified}: the database of {database.variable} has no {database.relation}, or this user may not"
            f" see it. Correct `relation` in contracts/bronze/{table.name}.py: table or schema.table, spelled as there"
        )
    return types


def _ensure_columns(
    table: Table, database: Database, columns: Sequence[Column], types: dict[str, tuple[str, str]]
) -> None:
    """PullError for columns that the database lacks, or has in a type that does not fit."""
    contract = f"contracts/bronze/{table.name}.py"
    needed = [*(column.source_name for column in columns), *([database.cursor] if database.cursor else [])]
    missing = [name for name in dict.fromkeys(needed) if name not in types]
    if missing:
        near = [f"{match[0]} for {name}" for name in missing if (match := difflib.get_close_matches(name, types, 1))]
        hint = f" Did you mean {', '.join(near)}?" if near else ""
        raise PullError(
            f"{table.qualified}: {database.relation} lacks {', '.join(missing)}. It has {', '.join(types)}.{hint}"
            f" Correct {contract}, with `source` for another name. Nothing has landed"
        )
    unfit = [
        f"{column.source_name} is {types[column.source_name][1]}, not {column.type.spark}"
        for column in columns
        if not _fits(column, types[column.source_name][0])
    ]
    if unfit:
        raise PullError(
            f"{table.qualified}: {database.relation} has columns of other types: {'; '.join(unfit)}. Correct"
            f" {contract}: string takes any type but bytea. Nothing has landed"
        )


def _fits(column: Column, kind: str) -> bool:
    if column.type == STRING:
        return kind != "bytea"
    return kind in ((*INTEGERS, "numeric") if isinstance(column.type, DecimalType) else FITTING[column.type])


def _cursor_type(table: Table, database: Database, types: dict[str, tuple[str, str]]) -> str:
    """The cursor's type; PullError for one that has no order to follow, or an overlap of another type."""
    kind, shown = types[database.cursor or ""]
    is_time = isinstance(database.overlap, timedelta)
    if kind not in (TIMES if is_time else INTEGERS):
        fitting = "a timestamp or a date" if is_time else "an integer"
        raise PullError(
            f"{table.qualified}: the cursor {database.cursor} is {shown}, and its overlap is for {fitting}. Name"
            f" another cursor in contracts/bronze/{table.name}.py, or none, for a snapshot"
        )
    return kind


def _condition(database: Database, mark: Mark, kind: str) -> sql.Composable:
    """Rows from the overlap before the newest value on, and those without a value, of which nothing tells the age."""
    if mark.newest is None:
        return sql.SQL("")
    cursor = sql.Identifier(database.cursor or "")
    start: sql.Composable
    if isinstance(database.overlap, timedelta):
        start = sql.SQL("{}::{} - {}::interval").format(
            sql.Literal(mark.newest), sql.SQL(kind), sql.Literal(f"{database.overlap.total_seconds():f} seconds")
        )
    else:
        start = sql.Literal(int(mark.newest) - int(database.overlap or 0))
    return sql.SQL(" WHERE {0} >= {1} OR {0} IS NULL").format(cursor, start)


def _advance(
    connection: psycopg.Connection[Any], relation: sql.Identifier, mark: Mark, kind: str, oldest: datetime
) -> str | None:
    """The newest value of the cursor in this snapshot, as text.

    A time is at most the beginning of the oldest transaction that was open when the snapshot was taken: it may commit
    rows of then. So a time in the future, which some wrong clock has written, holds nothing up.
    """
    newest: sql.Composable = sql.SQL("max({})").format(sql.Identifier(mark.cursor or ""))
    if kind in TIMES:
        limit = oldest.astimezone(UTC).replace(tzinfo=None).isoformat(" ")
        at = sql.SQL("{}::timestamp AT TIME ZONE 'UTC'").format(sql.Literal(limit))
        if kind != "timestamptz":
            at = sql.SQL("({} AT TIME ZONE 'UTC')::{}").format(at, sql.SQL(kind))
        newest = sql.SQL("least({}, {})").format(newest, at)
        newest = sql.SQL("CASE WHEN max({}) IS NOT NULL THEN {} END").format(sql.Identifier(mark.cursor or ""), newest)
    if mark.newest is not None:  # deleted rows may have had it
        newest = sql.SQL("greatest({}, {}::{})").format(newest, sql.Literal(mark.newest), sql.SQL(kind))
    query = sql.SQL("SELECT ({})::text FROM {}").format(newest, relation)
    [(value,)] = connection.execute(query).fetchall()
    return None if value is None else str(value)


def _copy(
    connection: psycopg.Connection[Any],
    table: Table,
    query: sql.Composed,
    names: Sequence[str],
    mark: Mark,
    path: Path,
) -> tuple[int, Mark]:
    """Write the query's rows to a parquet file, block by block. Returns their number, and what it says of itself."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([pa.field(name, pa.string()) for name in names])
    rows, digest = 0, hashlib.sha256(json.dumps(names).encode())
    with connection.cursor() as cursor, pq.ParquetWriter(path, schema, compression="zstd") as writer:
        with cursor.copy(query) as lines:
            for block, count in _blocks(lines):
                parsed = _parsed(table, block, names)
                if parsed.num_rows != count:
                    raise PullError(f"{table.qualified}: {count:,} rows came, and {parsed.num_rows:,} were read")
                writer.write_table(parsed)
                digest.update(block)
                rows += count
        if rows != cursor.rowcount:
            raise PullError(f"{table.qualified}: the server sent {cursor.rowcount:,} rows, and {rows:,} came")
        mark = replace(mark, digest=digest.hexdigest())
        writer.add_key_value_metadata({MARK.decode(): json.dumps(asdict(mark))})
    return rows, mark


def _blocks(lines: psycopg.Copy) -> Iterator[tuple[bytes, int]]:
    """Rows of CSV in blocks, and how many there are in each. The server sends them one by one."""
    block, count = bytearray(), 0
    for line in lines:
        block += line
        count += 1
        if len(block) >= BLOCK:
            yield bytes(block), count
            block, count = bytearray(), 0
    if count:
        yield bytes(block), count


def _parsed(table: Table, block: bytes, names: Sequence[str]) -> pa.Table:
    """A block's cells as text. It is parsed in one piece: Arrow loses a CR LF between two."""
    import pyarrow as pa
    from pyarrow import csv

    try:
        return csv.read_csv(
            pa.BufferReader(block),
            csv.ReadOptions(column_names=list(names), block_size=len(block) + 1, use_threads=False),
            csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
            csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.string()),
                strings_can_be_null=True,
                null_values=[""],
                quoted_strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise PullError(
            f"{table.qualified}: its rows cannot be read as text ({type(error).__name__}). Is the encoding of the"
            " database SQL_ASCII, with bytes that are not UTF-8? Nothing has landed"
        ) from None


# --- landing


def _empty_folder(table: Table) -> Path:
    """The folder for a file that is not complete, on the landing zone's own file system, without what a killed pull has
    left.
    """
    root = settings.landing()
    folder = (settings.home() / "pull" if storage.is_remote(root) else root) / table.name / ASIDE
    storage.remove_tree(folder)
    storage.make_folder(folder)
    return folder


def _land(
    table: Table, path: Path, rows: int, mark: Mark, newest: LandedFile | None, day: date, is_new: bool
) -> tuple[str | None, int]:
    """Give a complete file its name in the landing zone. Returns the name, and its rows; None for a file without new
    rows.
    """
    before = storage.footer(newest.path).num_rows if newest and not rows else 0
    if newest and (not is_new or (not rows and (mark.cursor or not before))):
        storage.remove(path)
        return None, 0
    if before:
        storage.remove(path)
        raise PullError(
            f"{table.qualified}: {mark.relation} is empty, and had {before:,} rows when it was pulled last. If that is"
            f" right, remove the table: its folder in the lake and {table.name} in the landing zone. Nothing has landed"
        )
    day = max(day, newest.day) if newest else day
    target = settings.landing() / table.name / str(day) / _name(newest)
    storage.make_folder(target.parent)
    storage.place(path, target)
    storage.sync(target.parent.parent)
    if storage.is_remote(target):
        storage.remove(path)
    return f"{table.name}/{day}/{target.name}", rows


def _name(newest: LandedFile | None) -> str:
    """A name that sorts after those of all earlier pulls, even if the clock is set back."""
    now = datetime.now(UTC)
    if newest is not None:
        last = datetime.strptime(newest.path.name, STAMP).replace(tzinfo=UTC)
        now = max(now, last + timedelta(microseconds=1))
    return now.strftime(STAMP)

"""Tails in PostgreSQL: two tables in the schema of the pointer, made on first use.

A step locks the rows of its positions, always in the same order, so that workers wait for each other and do not
deadlock. Commits do not wait for the disk: a server that crashes loses the last positions and their events alike, and
workers read those messages again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import psycopg
from psycopg import errors

from features.online.generation import OnlineStoreUnfitError
from features.streaming.tail_store import Advance, Entry, FencedError, Position, TailRows, ensure_expected

POSITIONS, ENTRIES = "millrace.tail_positions", "millrace.tail_entries"
LOCK = 6_566_000_003
ATTEMPTS = 5
TABLES = (
    "CREATE SCHEMA IF NOT EXISTS millrace",
    f"CREATE TABLE IF NOT EXISTS {POSITIONS} (tail text, partition integer, identity bigint NOT NULL, complete_from"
    " bigint NOT NULL, next_offset bigint NOT NULL, PRIMARY KEY (tail, partition))",
    f"CREATE TABLE IF NOT EXISTS {ENTRIES} (tail text, key bytea, partition integer, position bigint, payload bytea"
    " NOT NULL, PRIMARY KEY (tail, key, partition, position))",
)
MISSING = (errors.UndefinedTable, errors.InvalidSchemaName)
PASSING = (errors.DeadlockDetected, errors.SerializationFailure)
STALE = (psycopg.OperationalError, psycopg.InterfaceError)
"""What a connection raises that broke since it was last used."""
LOCKED = (
    f"SELECT tail, partition, identity, complete_from, next_offset FROM {POSITIONS} WHERE (tail, partition) IN (SELECT"
    " * FROM unnest(%s::text[], %s::integer[])) ORDER BY tail, partition FOR UPDATE"
)
READ = (
    "SELECT p.identities, e.key, e.partition, e.position, e.payload FROM (SELECT json_object_agg(partition, identity)"
    f" AS identities FROM {POSITIONS} WHERE tail = %s) p LEFT JOIN {ENTRIES} e ON e.tail = %s AND e.key = ANY(%s)"
).encode()

Connection = psycopg.Connection[Any]
Spot = tuple[str, int]
"""Tail and partition."""
T = TypeVar("T")


class PostgresTailStore:
    """Tables of one database.

    Both functions make a connection in autocommit mode: `connect` one that is used again, and `connect_loader` one for
    long statements.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        connect_loader: Callable[[], Connection],
        translate_errors: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._connect, self._connect_loader, self._translate_errors = connect, connect_loader, translate_errors
        self._idle: list[tuple[int, Connection]] = []

    def positions(self, tail: str) -> dict[int, Position]:
        """From the table of positions; empty without one."""
        sql = f"SELECT partition, identity, complete_from, next_offset FROM {POSITIONS} WHERE tail = %s"
        with self._translate_errors():
            try:
                rows = self._run(lambda connection: connection.execute(sql, [tail]).fetchall())
            except MISSING:
                return {}
        return {partition: Position(*others) for partition, *others in rows}

    def advance(self, steps: Sequence[Advance]) -> None:
        """In one transaction, tried again after a deadlock. One that clears events may take long."""
        with self._translate_errors():
            for attempt in range(ATTEMPTS):
                try:
                    if any(step.clears for step in steps):
                        with self._connect_loader() as connection:
                            _advance(connection, steps)
                    else:
                        self._run(lambda connection: _advance(connection, steps))
                    return
                except MISSING:
                    if attempt == ATTEMPTS - 1:
                        raise
                    self._create()
                except PASSING:
                    if attempt == ATTEMPTS - 1:
                        raise

    def trim(self, tail: str, identity: int, offsets: Mapping[int, int]) -> None:
        """Positions first. Their rows are not locked while the events are deleted, so no worker waits."""
        ordered = sorted(offsets.items())
        moved = (
            f"UPDATE {POSITIONS} SET complete_from = %s WHERE tail = %s AND partition = %s AND identity = %s AND"
            " complete_from < %s"
        )
        # one statement sees one state of both tables: events that a worker appends again in the meantime stay
        deleted = (
            f"DELETE FROM {ENTRIES} e USING {POSITIONS} p WHERE e.tail = %s AND p.tail = e.tail AND p.partition ="
            " e.partition AND e.position < p.complete_from"
        )
        with self._existing() as connection:
            for partition, offset in ordered:
                connection.execute(moved, [offset, tail, partition, identity, offset])
            connection.execute(deleted, [tail])

    def remove(self, keep: Sequence[str]) -> list[str]:
        """In one transaction."""
        removed: list[str] = []
        with self._existing() as connection, connection.transaction():
            rows = connection.execute(
                f"SELECT tail FROM {POSITIONS} WHERE tail <> ALL(%s) ORDER BY tail, partition FOR UPDATE", [[*keep]]
            )
            removed = sorted({tail for (tail,) in rows.fetchall()})
            connection.execute(f"DELETE FROM {POSITIONS} WHERE tail = ANY(%s)", [removed])
            connection.execute(f"DELETE FROM {ENTRIES} WHERE tail = ANY(%s)", [removed])
        return removed

    def _run(self, work: Callable[[Connection], T]) -> T:
        """The result of work with a connection; once more with a new one where an idle one is broken.

        A step that was taken although its answer was lost is fenced the second time.
        """
        while self._idle:
            pid, connection = self._idle.pop()
            if pid != os.getpid():
                continue
            try:
                return self._used(connection, work)
            except PASSING:
                raise
            except STALE:
                if not connection.closed:
                    raise
        return self._used(self._connect(), work)

    def _used(self, connection: Connection, work: Callable[[Connection], T]) -> T:
        try:
            return work(connection)
        finally:
            if not connection.closed:
                self._idle.append((os.getpid(), connection))

    @contextmanager
    def _existing(self) -> Iterator[Connection]:
        """A connection for long statements, whose block ends early where there are no tables."""
        with self._translate_errors(), self._connect_loader() as connection:
            try:
                yield connection
            except MISSING:
                return

    def _create(self) -> None:
        with self._connect_loader() as connection, connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
            for statement in TABLES:
                connection.execute(statement)


def rows(connection: Connection, tail: str, keys: Sequence[bytes]) -> TailRows | None:
    """The entries of each key, in one query; None where there is no such tail."""
    try:
        result = connection.cursor(binary=True).execute(READ, [tail, tail, list(set(keys))]).fetchall()
    except MISSING:
        return None
    except errors.InsufficientPrivilege as error:
        raise OnlineStoreUnfitError(
            f"the user of MILLRACE_ONLINE may not read tails. As their owner: GRANT SELECT ON {POSITIONS}, {ENTRIES} TO"
            " that user"
        ) from error
    if result[0][0] is None:
        return None
    entries: dict[bytes, list[Entry]] = {key: [] for key in keys}
    for _, key, partition, offset, payload in result:
        if key is not None:
            entries[key].append(Entry(partition, offset, payload))
    identities = {int(partition): identity for partition, identity in result[0][0].items()}
    return TailRows(identities, [entries[key] for key in keys])


def _advance(connection: Connection, steps: Sequence[Advance]) -> None:
    spots = sorted({(step.tail, step.partition) for step in steps})
    with connection.transaction():
        connection.execute("SET LOCAL synchronous_commit = off")
        locked = connection.execute(LOCKED, [[tail for tail, _ in spots], [partition for _, partition in spots]])
        stored: dict[Spot, Position] = {(tail, partition): Position(*of) for tail, partition, *of in locked.fetchall()}
        reached = _reached(steps, stored)
        for spot in spots:
            _write(connection, spot, reached[spot], is_new=spot not in stored)
        for step in steps:
            if step.clears:
                connection.execute(
                    f"DELETE FROM {ENTRIES} WHERE tail = %s AND partition = %s", [step.tail, step.partition]
                )
            _append(connection, step)


def _reached(steps: Sequence[Advance], stored: Mapping[Spot, Position]) -> dict[Spot, Position]:
    """The positions after all steps; FencedError where one does not begin where the tail is."""
    positions = dict(stored)
    for step in steps:
        before, after = positions.get((step.tail, step.partition)), step.reached
        ensure_expected(step, before)
        kept = after.complete_from if step.clears or before is None else before.complete_from
        positions[step.tail, step.partition] = Position(after.identity, kept, after.next_offset)
    return positions


def _write(connection: Connection, spot: Spot, position: Position, *, is_new: bool) -> None:
    values = [position.identity, position.complete_from, position.next_offset, *spot]
    if is_new:
        sql = (
            f"INSERT INTO {POSITIONS} (identity, complete_from, next_offset, tail, partition) VALUES (%s, %s, %s, %s,"
            " %s) ON CONFLICT DO NOTHING"
        )
    else:
        sql = (
            f"UPDATE {POSITIONS} SET identity = %s, complete_from = %s, next_offset = %s WHERE tail = %s AND"
            " partition = %s"
        )
    if not connection.execute(sql, values).rowcount:
        raise FencedError(f"another worker has begun {spot[0]} in partition {spot[1]}")


def _append(connection: Connection, step: Advance) -> None:
    if not step.entries:
        return
    sql = f"COPY {ENTRIES} (tail, key, partition, position, payload) FROM STDIN (FORMAT BINARY)"
    with connection.cursor().copy(sql) as copy:
        copy.set_types(["text", "bytea", "integer", "bigint", "bytea"])
        for key, offset, payload in step.entries:
            copy.write_row((step.tail, key, step.partition, offset, payload))

"""Tails in a sqlite file beside the generations, for the processes of one machine.

The file has a write-ahead log, so readers and the writer do not wait for each other. After a power cut the last
transactions may be missing, offsets and events alike: workers read those messages again.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from features.online.generation import OnlineStoreDamagedError
from features.streaming.tail_store import Advance, Entry, Position, TailRows, ensure_expected
from lake import settings

BUSY_SECONDS = 10.0
WRITER_CACHE_KIB = 64 * 1024
"""Most memory for pages of the file: a batch changes pages all over it."""
LARGEST_PIECE = 500
"""Keys that one statement looks up."""
TABLES = (
    "CREATE TABLE IF NOT EXISTS positions (tail TEXT, partition INTEGER, identity INTEGER NOT NULL, complete_from"
    " INTEGER NOT NULL, next_offset INTEGER NOT NULL, PRIMARY KEY (tail, partition)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS entries (tail TEXT, key BLOB, partition INTEGER, offset INTEGER, payload BLOB NOT NULL,"
    " PRIMARY KEY (tail, key, partition, offset)) WITHOUT ROWID",
)


def path() -> Path:
    """`$MILLRACE_HOME/feast/tails.db`."""
    return settings.home() / "feast" / "tails.db"


class SqliteTailStore:
    """The file below `MILLRACE_HOME`. The connection stays open: the last one that closes writes the log back, which
    takes longer than a transaction.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._file = _File()

    def positions(self, tail: str) -> dict[int, Position]:
        """From the table `positions`; empty without a file."""
        if not path().exists():
            return {}
        with self._connected() as connection:
            return _positions(connection, tail)

    def advance(self, steps: Sequence[Advance]) -> None:
        """In one transaction."""
        with self._writing() as connection:
            positions = {tail: _positions(connection, tail) for tail in {step.tail for step in steps}}
            for step in steps:
                stored, reached = positions[step.tail].get(step.partition), step.reached
                ensure_expected(step, stored)
                if step.clears:
                    connection.execute(
                        "DELETE FROM entries WHERE tail = ? AND partition = ?", (step.tail, step.partition)
                    )
                kept = reached.complete_from if step.clears or stored is None else stored.complete_from
                connection.execute(
                    "INSERT OR REPLACE INTO positions VALUES (?, ?, ?, ?, ?)",
                    (step.tail, step.partition, reached.identity, kept, reached.next_offset),
                )
                positions[step.tail][step.partition] = Position(reached.identity, kept, reached.next_offset)
                connection.executemany(
                    "INSERT OR REPLACE INTO entries VALUES (?, ?, ?, ?, ?)",
                    [(step.tail, key, step.partition, offset, payload) for key, offset, payload in step.entries],
                )

    def trim(self, tail: str, identity: int, offsets: Mapping[int, int]) -> None:
        """In one transaction."""
        if not path().exists():
            return
        with self._writing() as connection:
            stored = _positions(connection, tail)
            for partition, offset in offsets.items():
                if partition not in stored or stored[partition].identity != identity:
                    continue
                row = (tail, partition, offset)
                connection.execute("DELETE FROM entries WHERE tail = ? AND partition = ? AND offset < ?", row)
                connection.execute(
                    "UPDATE positions SET complete_from = ?3 WHERE tail = ?1 AND partition = ?2 AND complete_from < ?3",
                    row,
                )

    def remove(self, keep: Sequence[str]) -> list[str]:
        """In one transaction."""
        if not path().exists():
            return []
        with self._writing() as connection:
            known = [row[0] for row in connection.execute("SELECT DISTINCT tail FROM positions")]
            removed = [tail for tail in known if tail not in keep]
            for tail in removed:
                connection.execute("DELETE FROM entries WHERE tail = ?", (tail,))
                connection.execute("DELETE FROM positions WHERE tail = ?", (tail,))
        return removed

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        path().parent.mkdir(parents=True, exist_ok=True)
        with self._connected() as connection:
            connection.execute(f"PRAGMA cache_size = -{WRITER_CACHE_KIB}")
            connection.execute("BEGIN IMMEDIATE")
            for statement in TABLES:
                connection.execute(statement)
            try:
                yield connection
            except BaseException:
                if connection.in_transaction:  # sqlite has ended it where the disk is full
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        with self._lock, _translate_damage():
            try:
                yield self._file.connection() or self._file.create()
            except sqlite3.Error:
                self._file.close()
                raise


class SqliteTailReader:
    """Reads tails over a connection of its own, opened when the file exists."""

    def __init__(self) -> None:
        self._file = _File()

    def rows(self, tail: str, keys: Sequence[bytes]) -> TailRows | None:
        """The entries of each key; None where there is no such tail."""
        with _translate_damage():
            connection = self._file.connection()
            if connection is None:
                return None
            try:
                identities = dict(
                    connection.execute("SELECT partition, identity FROM positions WHERE tail = ?", (tail,))
                )
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):  # no worker has committed yet
                    return None
                raise
            if not identities:
                return None
            entries: dict[bytes, list[Entry]] = {key: [] for key in keys}
            for key, partition, offset, payload in _entries(connection, tail, [*entries]):
                entries[key].append(Entry(partition, offset, payload))
            return TailRows(identities, [entries[key] for key in keys])


class _File:
    """A connection to the file, and another one after the file was deleted."""

    _connection: sqlite3.Connection | None = None
    _inode: int | None = None

    def __init__(self) -> None:
        self._path = str(path())

    def __del__(self) -> None:
        self.close()

    def connection(self) -> sqlite3.Connection | None:
        """None while there is no file."""
        inode: int | None = None
        with suppress(FileNotFoundError):
            inode = os.stat(self._path).st_ino  # noqa: PTH116 (a third of the time of Path.stat)
        if inode != self._inode:
            self.close()
        if self._connection is None and inode is not None:
            self._connection, self._inode = _connect(self._path), inode
        return self._connection

    def create(self) -> sqlite3.Connection:
        """A connection that makes the file."""
        _connect(self._path).close()
        return self.connection() or _connect(self._path)

    def close(self) -> None:
        """Another connection is made for the next block."""
        if self._connection is not None:
            self._connection.close()
        self._connection = self._inode = None


def remove_file() -> None:
    """Delete all tails."""
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path()}{suffix}").unlink(missing_ok=True)


def _entries(
    connection: sqlite3.Connection, tail: str, keys: Sequence[bytes]
) -> Iterator[tuple[bytes, int, int, bytes]]:
    for start in range(0, len(keys), LARGEST_PIECE):
        piece = keys[start : start + LARGEST_PIECE]
        parameters = ", ".join("?" * len(piece))
        yield from connection.execute(
            f"SELECT key, partition, offset, payload FROM entries WHERE tail = ? AND key IN ({parameters})",
            (tail, *piece),
        )


def _positions(connection: sqlite3.Connection, tail: str) -> dict[int, Position]:
    sql = "SELECT partition, identity, complete_from, next_offset FROM positions WHERE tail = ?"
    try:
        rows: Iterable[tuple[int, ...]] = connection.execute(sql, (tail,)).fetchall()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):
            return {}
        raise
    return {partition: Position(*others) for partition, *others in rows}


def _connect(name: str) -> sqlite3.Connection:
    connection = sqlite3.connect(name, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def _translate_damage() -> Iterator[None]:
    """OnlineStoreDamagedError for a file that is no database; an OperationalError, such as a full disk, passes."""
    try:
        yield
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as error:
        raise OnlineStoreDamagedError(
            f"the tails in $MILLRACE_HOME/feast/tails.db cannot be read: {error}. Delete the file: the feature worker"
            " reads its messages again from where the release ends"
        ) from error

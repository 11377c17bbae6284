"""The registry in PostgreSQL: one row with the whole registry, replaced by compare-and-swap. The meaning of its bytes
does not belong here.

Anyone who may write this row can run code in every process that reads it: Feast stores the functions of on-demand views
as pickled code.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from features.online.postgres import BoundedConnection
from features.online.server import CONNECT_SECONDS, URL
from lake import tls

SCHEMA = "feast"
TABLE = f"{SCHEMA}.registry"
FORMAT = 1
"""The table's format. A row with a higher one was written by a newer Millrace, and is neither read nor replaced."""
LOCK = 6_566_000_003
OPTIONS: dict[str, Any] = {
    "autocommit": True,
    "connect_timeout": CONNECT_SECONDS,
    "application_name": "millrace registry",
}
SETTING = "MILLRACE_REGISTRY"
CHECK_SERVER = "See that PostgreSQL runs there, and that MILLRACE_REGISTRY names the right database"
NO_TABLE = (errors.UndefinedTable, errors.InvalidSchemaName)
DENIED = (errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction)


class RegistrySettingError(ValueError):
    """`MILLRACE_REGISTRY` is not the URL of a PostgreSQL database; the message shows no part of it."""


class RegistryUnreachableError(ConnectionError):
    """The server that holds the registry does not answer, or not in time."""


class RegistryDeniedError(PermissionError):
    """The role in `MILLRACE_REGISTRY` lacks a right on the registry."""


class RegistryNewerError(ValueError):
    """A newer Millrace, or a newer Feast, wrote the registry."""


class RegistryDatabase:
    """One database. Each call opens a connection and takes a few seconds at most."""

    def __init__(self, url: str) -> None:
        self._url, self.where = url, mask_url(url)

    def read(self) -> bytes | None:
        """The registry, or None where there is none."""
        with self._connected("be read") as connection:
            try:
                row = connection.execute(f"SELECT format, content FROM {TABLE}").fetchone()
            except NO_TABLE:
                return None
        if row is None:
            return None
        self._ensure_readable(row[0])
        return bytes(row[1])

    def replace(self, content: bytes, version: str, base: str) -> bool:
        """Replace version `base` by `content`; an empty `base` means that there is no registry yet.

        Returns False and writes nothing if the registry has another version by now.
        """
        with self._connected("be written") as connection:
            try:
                return self._try_replace(connection, content, version, base)
            except NO_TABLE:
                _create(connection)
                return self._try_replace(connection, content, version, base)

    def remove(self, content: bytes | None = None) -> None:
        """Remove the registry; with `content`, only if it is still the same."""
        with self._connected("be removed") as connection:
            try:
                connection.execute(f"DELETE FROM {TABLE} WHERE %s::bytea IS NULL OR content = %s", [content, content])
            except NO_TABLE:
                return

    def is_prepared(self) -> bool:
        """Whether the table exists; RegistryNewerError if a newer version wrote it."""
        with self._connected("be read") as connection:
            try:
                row = connection.execute(f"SELECT max(format) FROM {TABLE}").fetchone()
            except NO_TABLE:
                return False
        self._ensure_readable(row[0] if row else None)
        return True

    def prepare(self) -> None:
        """Create the table; safe when two processes do it at once."""
        with self._connected("be prepared") as connection:
            _create(connection)

    def _try_replace(self, connection: psycopg.Connection[Any], content: bytes, version: str, base: str) -> bool:
        with connection.transaction():
            self._ensure_readable(_format(connection))
            if base:
                change = "content = %s, version = %s, written_at = clock_timestamp()"
                sql = f"UPDATE {TABLE} SET {change} WHERE version = %s"
                return connection.execute(sql, [content, version, base]).rowcount == 1
            sql = f"INSERT INTO {TABLE} (content, version, format) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
            return connection.execute(sql, [content, version, FORMAT]).rowcount == 1

    def _ensure_readable(self, version: int | None) -> None:
        if version is not None and version > FORMAT:
            raise RegistryNewerError(
                f"the feature registry at {self.where} has format {version}, and this Millrace reads up to {FORMAT}."
                " Update Millrace, or point MILLRACE_REGISTRY at another database. Nothing was written"
            )

    @contextmanager
    def _connected(self, purpose: str) -> Iterator[psycopg.Connection[Any]]:
        try:
            with BoundedConnection.connect(self._url, **OPTIONS) as connection:
                yield connection
        except DENIED as error:
            raise RegistryDeniedError(
                f"the feature registry at {self.where} cannot {purpose} by this role: {_sentence(error)}. A reader"
                f" needs USAGE on the schema {SCHEMA} and SELECT on {TABLE}, a writer INSERT, UPDATE and DELETE too"
                " (docs/shared_state.md); `millrace migrate`, run by a role that may, makes the table and applies the"
                " definitions"
            ) from error
        except psycopg.Error as error:
            text = _sentence(error)
            problem, remedy = tls.explain_postgres(text, conninfo_to_dict(self._url), SETTING) or (text, CHECK_SERVER)
            raise RegistryUnreachableError(
                f"the feature registry at {self.where} cannot {purpose}: {problem}. {remedy}"
            ) from error


def _create(connection: psycopg.Connection[Any]) -> None:
    with connection.transaction():
        connection.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        if connection.execute("SELECT to_regclass(%s)", [TABLE]).fetchone() == (None,):
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            connection.execute(
                f"CREATE TABLE {TABLE} (one boolean PRIMARY KEY DEFAULT true CHECK (one), content bytea NOT NULL,"
                " version text NOT NULL, format integer NOT NULL,"
                " written_at timestamptz NOT NULL DEFAULT clock_timestamp())"
            )


def _format(connection: psycopg.Connection[Any]) -> int | None:
    row = connection.execute(f"SELECT format FROM {TABLE}").fetchone()
    return row[0] if row else None


def mask_url(url: str) -> str:
    """The URL without user, password and options; RegistrySettingError where it is invalid."""
    parts = URL.fullmatch(url)
    if parts is None or parts["scheme"] not in ("postgresql://", "postgres://"):
        raise _invalid_url()
    try:
        conninfo_to_dict(url)
    except psycopg.ProgrammingError:
        raise _invalid_url() from None
    return parts["scheme"] + parts["where"]


def _invalid_url() -> RegistrySettingError:
    return RegistrySettingError(
        "MILLRACE_REGISTRY is not a URL of a PostgreSQL database. Use postgresql://user@host:port/database, with the"
        " password in PGPASSFILE or PGPASSWORD, or in the URL with %40 for @, %2F for /, %3A for :, %3F for ?,"
        " %23 for # and %25 for a per cent sign. Unset it to keep the registry in MILLRACE_HOME"
    )


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".?") or type(error).__name__

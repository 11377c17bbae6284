"""Airflow's metadata: create its tables or bring them up to this version, and the logins with roles. `python -m
millrace.metadata` does both, once before the components start.

Which database it is, `MILLRACE_DATABASE` says; who signs in, `MILLRACE_AUTH`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from lake import settings
from lake.settings import SettingError
from millrace import environment
from millrace.environment import ADMIN_PASSWORD, USERNAME
from millrace.health import told

LOCK = 0x6D696C6C72616365
"""Of PostgreSQL's advisory locks: who holds it migrates."""
Role = Literal["Viewer", "User", "Op", "Admin"]
"""FAB's roles that a login may have: look; trigger and clear runs; connections, variables and pools as well;
everything.
"""


class MetadataError(RuntimeError):
    """The metadata database cannot be used; the message says why and what to do."""


def migrate(progress: Callable[[str], None]) -> None:
    """Create or upgrade the tables, and with `MILLRACE_AUTH=fab` the roles and the first administrator. Two may do so
    at once: one waits for the other.

    In a process of its own, because Airflow reads its configuration once, when it is imported.
    """
    progress("Migrating Airflow's metadata")
    _run("migrate")


def add_user(name: str, role: str, password: str) -> None:
    """A login with that role, or a new role and password for the one of that name."""
    if settings.auth() != settings.FAB:
        raise MetadataError(
            "logins with roles need MILLRACE_AUTH=fab; with MILLRACE_AUTH=simple there is one administrator"
        )
    _run("user", name, role, message=password)


def _run(*arguments: str, message: str = "") -> None:
    state = settings.home()
    (state / "airflow").mkdir(parents=True, exist_ok=True, mode=0o700)
    variables = environment.environment(settings.airflow_port(), settings.features_port(), os.environ)
    password = os.environ.get(ADMIN_PASSWORD)
    variables |= {ADMIN_PASSWORD: password} if password else {}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "millrace.metadata", *arguments],
        cwd=environment.CHECKOUT,
        env=variables,
        input=message,
        text=True,
        capture_output=True,
        check=False,
    )
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
        raise MetadataError("\n".join(lines[-15:]) or f"the migration ended with exit status {done.returncode}")


def prepare(password: str = "") -> None:
    """The same in this process, whose environment is that of a component; the password is the first administrator's."""
    from airflow.settings import SQL_ALCHEMY_CONN
    from airflow.utils.db import initdb

    with _one_at_a_time(SQL_ALCHEMY_CONN or ""):
        initdb()
        _record_keys(SQL_ALCHEMY_CONN or "")
        if settings.auth() == settings.FAB:
            _first_administrator(password)
    if SQL_ALCHEMY_CONN and SQL_ALCHEMY_CONN.startswith("sqlite:///"):
        _use_write_ahead_log(SQL_ALCHEMY_CONN.removeprefix("sqlite:///"))


@contextmanager
def _one_at_a_time(url: str) -> Iterator[None]:
    """Airflow looks whether there are tables before it takes its own lock, so two that start at once would both create
    them.
    """
    if not url.startswith("postgresql"):
        yield
        return
    import psycopg2

    connection = psycopg2.connect("postgresql://" + url.partition("://")[2])
    try:
        connection.autocommit = True
        connection.cursor().execute("SELECT pg_advisory_lock(%s)", (LOCK,))
        yield
    finally:
        connection.close()


def _record_keys(url: str) -> None:
    import sqlalchemy

    from millrace import shared_keys

    if ours := shared_keys.of():
        with sqlalchemy.create_engine(url).begin() as connection:
            shared_keys.record(connection, ours)


def _use_write_ahead_log(path: str) -> None:
    """Let readers and the one writer of the SQLite file go on at the same time; the file remembers it."""
    import sqlite3

    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()


def _first_administrator(password: str) -> None:
    """FAB's roles, and an administrator if there is no login yet."""
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    with get_application_builder() as builder:
        builder.sm.sync_roles()
        if builder.sm.count_users():
            return
    if not password:
        raise SettingError(
            f"{ADMIN_PASSWORD} is not set, and there is no login yet. Set it, or {ADMIN_PASSWORD}_FILE, to the first"
            " administrator's password"
        )
    _put_user(USERNAME, "Admin", password)


def _put_user(name: str, role: str, password: str) -> None:
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    with get_application_builder() as builder:
        manager = builder.sm
        found, chosen = manager.find_user(name), manager.find_role(role)
        if found:
            found.roles = [chosen]
            manager.update_user(found)
            manager.reset_password(found.id, password)
        elif not manager.add_user(name, name, "", f"{name}@localhost", chosen, password):
            raise MetadataError(f"the login {name} could not be made")


def main(arguments: list[str]) -> int:
    """`python -m millrace.metadata` as a command, and with arguments as the process that `migrate` and `add_user`
    start.
    """
    try:
        if not arguments:
            migrate(lambda message: print(message, flush=True))
        elif arguments[0] == "user":
            _put_user(arguments[1], arguments[2], sys.stdin.read())
        else:
            prepare(os.environ.pop(ADMIN_PASSWORD, ""))
    except (MetadataError, SettingError) as error:
        print(error, file=sys.stderr)
        return 1
    except Exception as error:
        if not _is_database_error(error):
            raise
        print(
            f"the database that MILLRACE_DATABASE names cannot be used: {told(error).rstrip('.')}. See that it runs,"
            " and that user, password and database are right",
            file=sys.stderr,
        )
        return 1
    return 0


def _is_database_error(error: Exception) -> bool:
    with suppress(ImportError):
        import psycopg2
        from sqlalchemy.exc import OperationalError

        return isinstance(error, psycopg2.OperationalError | OperationalError)
    return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Airflow's metadata: create or upgrade its tables, and manage the logins with roles.

`python -m millrace.metadata` migrates once, before the components start. `MILLRACE_DATABASE` names the database,
`MILLRACE_AUTH` chooses how users sign in.
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
from millrace import database, environment
from millrace.environment import ADMIN_PASSWORD, USERNAME

LOCK = 0x6D696C6C72616365
"""The key of the PostgreSQL advisory lock that a migration holds."""
Role = Literal["Viewer", "User", "Op", "Admin"]
"""FAB's roles. A Viewer reads; a User triggers and clears runs as well; an Op also edits connections, variables and
pools; an Admin may do everything.
"""


class MetadataError(RuntimeError):
    """The metadata database cannot be used; the message says why and what to do."""


def migrate(progress: Callable[[str], None]) -> None:
    """Create or upgrade the tables and, with `MILLRACE_AUTH=fab`, the roles and the first administrator.

    Safe to run twice at once: one waits for the other. It runs in a child process, because Airflow reads its
    configuration once, on import. MetadataError if it fails.
    """
    progress("Migrating Airflow's metadata")
    _run("migrate")


def add_user(name: str, role: str, password: str) -> None:
    """Add a login with that role, or give the existing one a new role and password. MetadataError without FAB."""
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
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "millrace.metadata", *arguments],
        cwd=environment.CHECKOUT,
        env=variables,
        input=message,
        text=True,
        capture_output=True,
        check=False,
    )
    if result.returncode:
        lines = [line for line in result.stderr.strip().splitlines() if line.strip()]
        raise MetadataError("\n".join(lines[-15:]) or f"the migration ended with exit status {result.returncode}")


def prepare(password: str = "") -> None:
    """Migrate in this process, which has a component's environment; `password` is for the first administrator."""
    from airflow.settings import SQL_ALCHEMY_CONN
    from airflow.utils.db import initdb

    with _migration_lock(SQL_ALCHEMY_CONN or ""):
        initdb()
        _record_keys(SQL_ALCHEMY_CONN or "")
        if settings.auth() == settings.FAB:
            _first_administrator(password)
    if SQL_ALCHEMY_CONN and SQL_ALCHEMY_CONN.startswith("sqlite:///"):
        _use_write_ahead_log(SQL_ALCHEMY_CONN.removeprefix("sqlite:///"))


@contextmanager
def _migration_lock(url: str) -> Iterator[None]:
    """A lock around the whole migration: Airflow checks for tables before it takes its own lock, so two migrations at
    once would both create them.
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

    if digests := shared_keys.digests():
        with sqlalchemy.create_engine(url).begin() as connection:
            shared_keys.record(connection, digests)


def _use_write_ahead_log(path: str) -> None:
    """Let readers of the SQLite file work while one process writes. The mode is stored in the file."""
    import sqlite3

    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()


def _first_administrator(password: str) -> None:
    """Create FAB's roles, and an administrator if there is no login yet."""
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
    _save_user(USERNAME, "Admin", password)


def _save_user(name: str, role: str, password: str) -> None:
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder

    with get_application_builder() as builder:
        manager = builder.sm
        user, fab_role = manager.find_user(name), manager.find_role(role)
        if user:
            user.roles = [fab_role]
            manager.update_user(user)
            manager.reset_password(user.id, password)
        elif not manager.add_user(name, name, "", f"{name}@localhost", fab_role, password):
            raise MetadataError(f"the login {name} could not be created")


def main(arguments: list[str]) -> int:
    """The command `python -m millrace.metadata`; with arguments, the child process of `migrate` and `add_user`."""
    try:
        if not arguments:
            migrate(lambda message: print(message, flush=True))
        elif arguments[0] == "user":
            _save_user(arguments[1], arguments[2], sys.stdin.read())
        else:
            prepare(os.environ.pop(ADMIN_PASSWORD, ""))
    except (MetadataError, SettingError) as error:
        print(error, file=sys.stderr)
        return 1
    except Exception as error:
        if not _is_database_error(error):
            raise
        reason, remedy = database.explain(error)
        print(f"the database that MILLRACE_DATABASE names cannot be used: {reason}. {remedy}", file=sys.stderr)
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

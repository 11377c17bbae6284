"""Which version Airflow's metadata has, and which the installed Airflow needs: asked before anything is migrated.

Migrating is the job of `millrace.metadata`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lake import settings

CONFIGURED = (
    "MILLRACE_DATABASE",
    "MILLRACE_DATABASE_FILE",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_CMD",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_SECRET",
)
"""Variables that name another database than the file in the home."""


class NewerMetadataError(ValueError):
    """A newer Airflow migrated the metadata."""


class MetadataStateError(RuntimeError):
    """The metadata database cannot be asked."""


@dataclass(frozen=True)
class MetadataState:
    """The URL without user and password; the revision that is there (None: no tables), and the one that is needed."""

    where: str
    present: str | None
    needed: str
    known: bool
    airflow: str
    providers: bool
    """Whether the tables of providers, such as FAB's logins, are up to date, too."""
    logins: int = 0
    """Of FAB, where its tables are there."""
    keys: bool = True
    """Digests of the keys that components share are there, and are those of this environment."""
    other_keys: str = ""
    """A sentence, where they are others."""


def is_used() -> bool:
    """Whether this home has, or names, metadata of Airflow: where only features are served there is none."""
    folder = settings.home() / "airflow"
    files = [folder / "airflow.db", folder / "airflow.cfg"]
    return any(os.environ.get(name) for name in CONFIGURED) or any(file.exists() for file in files)


def state() -> MetadataState:
    """Asked in a process of its own: Airflow reads its configuration once, when it is imported. Nothing is written."""
    from millrace import environment

    variables = environment.environment(settings.airflow_port(), settings.features_port(), os.environ)
    command = [sys.executable, "-W", "ignore", "-m", "millrace.metadata_state"]
    done = subprocess.run(command, cwd=settings.CHECKOUT, env=variables, text=True, capture_output=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        told = [line for line in done.stderr.splitlines() if line.strip()][-1:] or [f"exit status {done.returncode}"]
        raise MetadataStateError(
            f"Airflow's metadata cannot be asked for its version: {told[0]}. See that its database runs, and that user"
            " and password are right"
        )
    return MetadataState(**json.loads(lines[-1]))


def refuse_newer(found: MetadataState) -> None:
    """NewerMetadataError for a revision that the installed Airflow does not know."""
    if not found.known:
        raise NewerMetadataError(
            f"Airflow's metadata at {found.where} has revision {found.present}, which Airflow {found.airflow} does not"
            " know: a newer version migrated it. Use that version, or restore the metadata from before. Nothing was"
            " written"
        )


def look() -> MetadataState:
    """The same in this process, which has Airflow's environment."""
    import sqlalchemy
    from airflow import __version__
    from airflow.settings import SQL_ALCHEMY_CONN
    from airflow.utils import db
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    from millrace import shared_keys

    url = sqlalchemy.make_url(SQL_ALCHEMY_CONN or "")
    port = f":{url.port}" if url.port else ""
    where = f"{url.get_backend_name()}://{url.host or ''}{port}/{(url.database or '').lstrip('/')}"
    script = ScriptDirectory.from_config(db._get_alembic_config())
    needed = ",".join(sorted(script.get_heads()))
    present, logins, keys, other_keys = None, 0, True, ""
    if url.get_backend_name() != "sqlite" or (url.database and Path(url.database).exists()):
        with sqlalchemy.create_engine(url).connect() as connection:
            present = ",".join(sorted(MigrationContext.configure(connection).get_current_heads())) or None
            keys = shared_keys.recorded(connection).items() >= shared_keys.of().items()
            other_keys = shared_keys.differing(connection)
            if sqlalchemy.inspect(connection).has_table("ab_user"):
                logins = int(connection.scalar(sqlalchemy.text("SELECT count(*) FROM ab_user")) or 0)
    known: set[Any] = {revision.revision for revision in script.walk_revisions()}
    providers = present == needed and _are_providers_up_to_date()
    return MetadataState(
        where,
        present,
        needed,
        present is None or {*present.split(",")} <= known,
        __version__,
        providers,
        logins,
        keys,
        other_keys,
    )


def _are_providers_up_to_date() -> bool:
    from airflow.settings import Session
    from airflow.utils.db_manager import RunDBManager

    with Session() as session:
        return bool(RunDBManager().check_migration(session))


def main() -> int:
    """Print the state as JSON; what a database says is told in its first line, which has no password."""
    import sqlalchemy

    try:
        print(json.dumps(asdict(look())))
    except sqlalchemy.exc.SQLAlchemyError as error:
        told = str(getattr(error, "orig", None) or type(error).__name__).strip().splitlines()
        print(told[0] if told else type(error).__name__, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

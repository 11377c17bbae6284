"""Read which revision Airflow's metadata has and which one the installed Airflow needs, before anything is migrated.

`millrace.metadata` migrates.
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
"""Variables that name a database other than the file in the home."""


class NewerMetadataError(ValueError):
    """A newer Airflow migrated the metadata."""


class MetadataStateError(RuntimeError):
    """The metadata database cannot be read."""


@dataclass(frozen=True)
class MetadataState:
    """`where` is the URL without user and password; `present` the database's revision (None without tables), `needed`
    that of the installed Airflow, and `known` whether that Airflow knows the present one.
    """

    where: str
    present: str | None
    needed: str
    known: bool
    airflow: str
    providers: bool
    """Whether the tables of providers, such as FAB's logins, are up to date, too."""
    logins: int = 0
    """Number of FAB's logins; 0 without its tables."""
    keys: bool = True
    """Whether the digests of all shared keys are recorded, and match this environment."""
    key_problem: str = ""
    """A sentence if a recorded digest differs; else empty."""


def is_used() -> bool:
    """Whether this home has Airflow metadata, or names some; a machine that only serves features has none."""
    folder = settings.home() / "airflow"
    files = [folder / "airflow.db", folder / "airflow.cfg"]
    return any(os.environ.get(name) for name in CONFIGURED) or any(file.exists() for file in files)


def state() -> MetadataState:
    """Read the state in a child process, because Airflow reads its configuration once, on import. Writes nothing.

    MetadataStateError if the database cannot be read.
    """
    from millrace import environment

    variables = environment.environment(settings.airflow_port(), settings.features_port(), os.environ)
    command = [sys.executable, "-W", "ignore", "-m", "millrace.metadata_state"]
    result = subprocess.run(command, cwd=settings.CHECKOUT, env=variables, text=True, capture_output=True, check=False)
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    if result.returncode or not lines:
        messages = [line for line in result.stderr.splitlines() if line.strip()]
        reason = messages[-1] if messages else f"exit status {result.returncode}"
        raise MetadataStateError(f"Airflow's metadata cannot be asked for its version: {reason}")
    return MetadataState(**json.loads(lines[-1]))


def ensure_known_revision(metadata: MetadataState) -> None:
    """NewerMetadataError for a revision that the installed Airflow does not know."""
    if not metadata.known:
        raise NewerMetadataError(
            f"Airflow's metadata at {metadata.where} has revision {metadata.present}, which Airflow {metadata.airflow}"
            " does not know: a newer version migrated it. Use that version, or restore the metadata from before."
            " Nothing was written"
        )


def read() -> MetadataState:
    """Read the state in this process, which has Airflow's environment."""
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
    present, logins, keys, key_problem = None, 0, True, ""
    if url.get_backend_name() != "sqlite" or (url.database and Path(url.database).exists()):
        with sqlalchemy.create_engine(url).connect() as connection:
            present = ",".join(sorted(MigrationContext.configure(connection).get_current_heads())) or None
            keys = shared_keys.recorded(connection).items() >= shared_keys.digests().items()
            key_problem = shared_keys.mismatch(connection)
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
        key_problem,
    )


def _are_providers_up_to_date() -> bool:
    from airflow.settings import Session
    from airflow.utils.db_manager import RunDBManager

    with Session() as session:
        return bool(RunDBManager().check_migration(session))


def main() -> int:
    """Print the state as JSON, or why the database cannot be read, without its password."""
    import sqlalchemy

    from millrace import database

    try:
        print(json.dumps(asdict(read())))
    except sqlalchemy.exc.SQLAlchemyError as error:
        print(". ".join(database.explain(error)), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

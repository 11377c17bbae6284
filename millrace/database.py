"""Why Airflow's metadata database cannot be used, and what to do about it. Migrating it is in `millrace.metadata`."""

from __future__ import annotations

import os

from lake import tls
from millrace.health import first_line

SETTING, AIRFLOWS = "MILLRACE_DATABASE", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"
CHECK_DATABASE = "See that it runs, and that user, password and database are right"


def explain(error: BaseException) -> tuple[str, str]:
    """Reason and remedy of an error of the database that a component's environment names."""
    text = first_line(error).rstrip(".")
    setting = SETTING if os.environ.get(SETTING) else AIRFLOWS
    return tls.explain_postgres(text, _options(os.environ.get(AIRFLOWS) or ""), setting) or (text, CHECK_DATABASE)


def _options(url: str) -> dict[str, str]:
    """The options of a URL, such as host and sslrootcert; none for another database than PostgreSQL."""
    from psycopg import ProgrammingError
    from psycopg.conninfo import conninfo_to_dict

    rest = url.partition("://")[2]
    try:
        return {name: str(value) for name, value in conninfo_to_dict(f"postgresql://{rest}").items()} if rest else {}
    except ProgrammingError:
        return {}

"""A real PostgreSQL for the registry, started once; each test begins with an empty one."""

from collections.abc import Iterator

import psycopg
import pytest

from tests.servers import Postgres
from tests.unit.features.conftest import cinema, lake  # noqa: F401 (fixtures)

READER, PASSWORD = "reader", "justlooking"


@pytest.fixture(scope="package")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture
def empty(postgres: Postgres) -> Postgres:
    """Without a registry, and without a role of the tests."""
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        for (schema,) in connection.execute(
            "SELECT nspname FROM pg_namespace WHERE nspname = 'feast' OR starts_with(nspname, 'millrace')"
        ).fetchall():
            connection.execute(f'DROP SCHEMA "{schema}" CASCADE')
        if connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [READER]).fetchone() is not None:
            connection.execute(f"DROP OWNED BY {READER}")
            connection.execute(f"DROP ROLE {READER}")
    return postgres


@pytest.fixture
def sql(empty: Postgres, lake: object, monkeypatch: pytest.MonkeyPatch) -> Postgres:  # noqa: F811
    """The registry of this test's home is in PostgreSQL."""
    monkeypatch.setenv("MILLRACE_REGISTRY", empty.url)
    return empty


@pytest.fixture
def reader(sql: Postgres) -> str:
    """The URL of a role that may only look, once there is something to look at."""
    with psycopg.connect(sql.url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {READER} LOGIN PASSWORD '{PASSWORD}'")
    return sql.url.replace("millrace:opensesame", f"{READER}:{PASSWORD}")


def grant(server: Postgres) -> None:
    """As docs/shared_state.md says."""
    with psycopg.connect(server.url, autocommit=True) as connection:
        connection.execute(f"GRANT USAGE ON SCHEMA feast TO {READER}")
        connection.execute(f"GRANT SELECT ON feast.registry TO {READER}")

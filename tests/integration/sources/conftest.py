"""A real PostgreSQL for the tests of this folder, with the tables of a depot in a database of each test's own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from lake import settings
from tests.conftest import set_home
from tests.landing import rows
from tests.projects import DEPOT
from tests.servers import Postgres

TABLES = """
CREATE TABLE parcels (
    id bigint PRIMARY KEY, customer text, sent_at timestamptz NOT NULL, weight float8, label text,
    changed_at timestamptz DEFAULT now()
);
CREATE TABLE stock (product text PRIMARY KEY, pieces int NOT NULL);
"""


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@dataclass
class Depot:
    """The depot's database."""

    url: str

    def execute(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, options="-c timezone=UTC") as connection:
            cursor = connection.execute(statement.encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    def landed(self, table: str) -> list[Path]:
        """The files of a table, oldest first."""
        return sorted((settings.landing() / table).glob("*/pull-*.parquet"))

    def silver(self, table: str) -> list[tuple[Any, ...]]:
        """The rows of a silver table, sorted by its first column."""
        return sorted(tuple(row.values()) for row in rows(f"silver.{table}"))


@pytest.fixture
def depot(postgres: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Depot:
    set_home(tmp_path, monkeypatch, DEPOT)
    name = f"depot_{uuid.uuid4().hex[:8]}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    url = postgres.url.rpartition("/")[0] + f"/{name}"
    monkeypatch.setenv("MILLRACE_SOURCE_DEPOT", url)
    depot = Depot(url)
    depot.execute(TABLES)
    return depot

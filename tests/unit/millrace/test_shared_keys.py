"""Components that share a database and not their keys are told apart."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy

from millrace import shared_keys

FERNET, JWT, API = "AIRFLOW__CORE__FERNET_KEY", "AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__API__SECRET_KEY"


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> sqlalchemy.Engine:
    for name in (FERNET, JWT, API):
        monkeypatch.setenv(name, f"{name} of all")
    return sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'airflow.db'}")


def test_other_keys_are_named_and_not_shown(
    engine: sqlalchemy.Engine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with engine.begin() as connection:
        shared_keys.record(connection, shared_keys.digests())
        assert shared_keys.mismatch(connection) == ""
        monkeypatch.setenv(JWT, "another")
        monkeypatch.delenv(API)  # a component that has none to compare
        assert shared_keys.mismatch(connection).startswith(f"{JWT} is not that of the other components")
        monkeypatch.setenv(FERNET, "another")
        assert shared_keys.mismatch(connection).startswith(f"{FERNET} and {JWT} are not those of the other components")
    assert b"of all" not in (tmp_path / "airflow.db").read_bytes()


def test_keys_that_changed_are_recorded_anew(engine: sqlalchemy.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    with engine.begin() as connection:
        shared_keys.record(connection, shared_keys.digests())
        monkeypatch.setenv(JWT, "the new one of all")
        shared_keys.record(connection, shared_keys.digests())
        assert shared_keys.mismatch(connection) == ""
        assert len(shared_keys.recorded(connection)) == 3


def test_a_database_of_before_says_nothing(engine: sqlalchemy.Engine) -> None:
    with engine.connect() as connection:
        assert shared_keys.mismatch(connection) == ""

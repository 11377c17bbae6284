"""`millrace migrate` refuses state of a newer version before it writes anything, and two of it, or one that is killed,
do no harm.
"""

import hashlib
import multiprocessing
import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest
from feast import Entity
from feast.value_type import ValueType

from features import registry
from features.registry.database import RegistryDatabase
from millrace import metadata_state, migrate
from millrace.cli import main
from tests.projects import GROCERY
from tests.servers import Postgres

PROJECT = GROCERY


@pytest.fixture
def database(postgres: Postgres, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """A database of the test's own for the registry."""
    name = f"test_{hashlib.md5(request.node.name.encode()).hexdigest()[:8]}"
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = postgres.url.replace("/postgres", f"/{name}")
    monkeypatch.setenv("MILLRACE_REGISTRY", url)
    yield url
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def tree(home: Path) -> dict[str, bytes]:
    """Every file, but for the migration's own lock."""
    return {str(path): path.read_bytes() for path in home.rglob("*") if path.is_file() and path.name != "migrate.lock"}


def has_table(url: str) -> bool:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT to_regclass('feast.registry')").fetchone() != (None,)


BOTH = (["migrate", "--check"], ["migrate"])


def refused(home: Path, capsys: pytest.CaptureFixture[str], *forms: list[str]) -> str:
    """What the forms of the command say, which is the same; nothing was written."""
    before = tree(home)
    told = []
    for arguments in forms or BOTH:
        assert main(arguments) == 1
        told.append(capsys.readouterr().err)
    assert tree(home) == before
    assert told[0] == told[-1]
    return " ".join(told[0].split())


def test_a_newer_lake(old: Path, database: str, capsys: pytest.CaptureFixture[str]) -> None:
    (old / "lake" / "_millrace.json").write_text('{"format": 2}')
    assert "has format 2, and this Millrace reads up to 1. Update Millrace" in refused(old, capsys)
    assert not has_table(database)


def test_a_newer_registry(old: Path, database: str, capsys: pytest.CaptureFixture[str]) -> None:
    (old / "lake" / "_millrace.json").unlink()
    registry.apply()
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("UPDATE feast.registry SET format = 2")
    assert "the feature registry at postgresql://127.0.0.1" in (told := refused(old, capsys))
    assert "has format 2, and this Millrace reads up to 1" in told


def test_newer_metadata_of_airflow(old: Path, database: str, capsys: pytest.CaptureFixture[str]) -> None:
    (old / "airflow").mkdir()
    with closing(sqlite3.connect(old / "airflow" / "airflow.db")) as connection, connection:
        connection.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.execute("INSERT INTO alembic_version VALUES ('0123456789ab')")
    told = refused(old, capsys, ["migrate"])
    assert "Airflow's metadata at sqlite:///" in told
    assert "has revision 0123456789ab, which Airflow 3.3.2 does not know: a newer version migrated it." in told
    assert not has_table(database)


def test_metadata_of_airflow_that_cannot_be_asked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", "postgresql+psycopg2://millrace:opensesame@127.0.0.1:1/none"
    )
    with pytest.raises(metadata_state.MetadataStateError, match=r"cannot be asked for its version: .*refused") as told:
        metadata_state.state()
    assert "opensesame" not in str(told.value)


@pytest.mark.slow
def test_metadata_of_airflow_is_made(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "airflow").mkdir()
    (home / "airflow" / "airflow.cfg").touch()
    with pytest.raises(
        migrate.PendingError, match=r"1 of 4 are of an older version\. To migrate them: millrace migrate"
    ):
        migrate.check(print)
    assert not (home / "airflow" / "airflow.db").exists()
    migrate.migrate(print)
    place = f"sqlite:///{str(home).lstrip('/')}/airflow/airflow.db"
    assert f"Airflow's metadata at {place}: done: make its tables" in capsys.readouterr().out
    with closing(sqlite3.connect(home / "airflow" / "airflow.db")) as connection:
        assert len(connection.execute("SELECT version_num FROM alembic_version").fetchall()) == 1


def test_definitions_of_an_older_version(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In a file: an entity that is no longer defined, and the fingerprint of before."""
    store = registry.open_store()
    store.apply([Entity(name="stray", join_keys=["stray"], value_type=ValueType.INT64)])
    [project] = store.registry.list_projects()
    project.tags = {registry.FINGERPRINT: "of-another-version"}
    store.registry.apply_project(project)
    assert main(["migrate", "--check"]) == 1
    assert "registry.db: apply the definitions" in capsys.readouterr().out
    assert main(["migrate"]) == 0
    assert "the definitions of this version are applied" in capsys.readouterr().out
    assert "stray" not in [entity.name for entity in registry.open_store().list_entities()]
    assert [kept.name for kept in registry.open_store().registry.list_saved_datasets("millrace")] == ["kept"]


def test_a_lake_without_its_mark(old: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (old / "lake" / "_millrace.json").unlink()
    assert main(["migrate"]) == 0
    assert "marked with format 1" in capsys.readouterr().out
    assert (old / "lake" / "_millrace.json").exists()


def test_a_registry_of_another_home(
    old: Path, database: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere = tmp_path / "elsewhere.db"
    registry.path().rename(elsewhere)
    assert main(["migrate", "--from-file", str(tmp_path / "missing.db")]) == 1
    assert "missing.db" in capsys.readouterr().err
    assert not has_table(database)
    assert main(["migrate", "--from-file", str(elsewhere)]) == 0
    assert f"{elsewhere} is copied" in " ".join(capsys.readouterr().out.split())
    assert registry.open_store().get_saved_dataset("kept").name == "kept"


def test_two_at_once(old: Path, database: str) -> None:
    """Of three homes, as of three machines, that share the lake and the registry; one of them has a file to copy."""
    barrier = multiprocessing.get_context("fork").Barrier(3)
    children = []
    for name in (".", "second", "third"):
        child = os.fork()
        if child == 0:
            os.environ |= {"MILLRACE_HOME": str(old / name), "MILLRACE_LAKE": str(old / "lake")}
            barrier.wait()
            os._exit(main(["migrate"]))
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert registry.is_applied()


POINTS = ("prepare", "replace", "read", "is_prepared")


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("name", POINTS)
def test_killed_at_any_point(old: Path, database: str, name: str, after: bool) -> None:
    """Before and after each call of the database; what is left is finished by the next."""
    child = os.fork()
    if child == 0:
        setattr(RegistryDatabase, name, _deadly(getattr(RegistryDatabase, name), after))
        main(["migrate"])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert main(["migrate"]) == 0
    assert registry.is_applied()
    assert registry.open_store().get_saved_dataset("kept").name == "kept"
    assert main(["migrate", "--check"]) == 0


def _deadly(call: Callable[..., Any], after: bool) -> Callable[..., Any]:
    def die(*arguments: Any) -> None:
        if after:
            call(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)

    return die


def test_a_run_without_migrating_takes_the_file_along(old: Path, database: str) -> None:
    """Saved data sets are in the registry, and no definition brings them back."""
    registry.apply()
    assert registry.open_store().get_saved_dataset("kept").name == "kept"

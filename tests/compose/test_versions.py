"""An image on state of another version: `migrate` migrates what an older one left, and refuses in words what a newer
one did.
"""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.compose.stack import Days, Stack
from tests.integration.migration.make_archive import ARCHIVE
from tests.projects import GROCERY

PROJECT = GROCERY

REVISION = "0123456789ab"
"""Of a version that is not there yet."""


def migrate(stack: Stack, *options: str) -> tuple[int, str]:
    code, said = stack.run_container("scheduler", *options, command=("migrate",))
    return code, " ".join(said.split())


@pytest.fixture
def old(stack: Stack) -> Iterator[tuple[str, ...]]:
    """What commit 4023ddf left: its lake in a folder of the bucket, its registry in the home, nothing in the databases.
    As options of a container.
    """
    lake = io.BytesIO()
    with tarfile.open(ARCHIVE) as archive, tarfile.open(fileobj=lake, mode="w") as packed:
        for member in archive.getmembers():
            if member.name.removeprefix("./").startswith(("lake/", "feast/")):
                packed.addfile(member, archive.extractfile(member) if member.isfile() else None)
    unpack = [
        stack.docker.program,
        "exec",
        "-i",
        stack.container("s3"),
        "sh",
        "-c",
        "mkdir -p /data/millrace/old && tar -C /data/millrace/old -xf -",
    ]
    subprocess.run(unpack, input=lake.getvalue(), env=stack.docker.environment, check=True, capture_output=True)
    home = stack.home / "old"
    home.mkdir(exist_ok=True)
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(home, filter="data")
    home.chmod(0o777)
    for path in home.rglob("*"):
        path.chmod(0o777 if path.is_dir() else 0o666)
    for database, owner in (("old_registry", "registry"), ("old_airflow", "airflow")):
        stack.sql(f"CREATE DATABASE {database} OWNER {owner}", "postgres")
    (stack.home / "old-secrets").mkdir(exist_ok=True)
    for secret, database in (("registry_url", "old_registry"), ("database_url", "old_airflow"), ("online_url", "1")):
        (stack.home / "old-secrets" / secret).write_text(stack.secret(secret).rpartition("/")[0] + f"/{database}")
    (stack.home / "old-secrets" / "admin_password").write_text(stack.secret("admin_password"))
    yield (
        *(
            "-e",
            "MILLRACE_LAKE=s3://millrace/old/lake",
            "-e",
            "MILLRACE_HOME=/old",
            "-v",
            f"{home}:/old",
            "-v",
            f"{stack.home / 'old-secrets'}:/bad:ro",
        ),
        *("-e", "MILLRACE_ADMIN_PASSWORD_FILE=/bad/admin_password"),
        *(
            "-e",
            "MILLRACE_REGISTRY_FILE=/bad/registry_url",
            "-e",
            "MILLRACE_DATABASE_FILE=/bad/database_url",
            "-e",
            "MILLRACE_ONLINE_FILE=/bad/online_url",
        ),
    )
    for database in ("old_registry", "old_airflow"):
        stack.sql(f"DROP DATABASE {database} WITH (FORCE)", "postgres")
    stack.execute("s3", "rm", "-rf", "/data/millrace/old")


@pytest.mark.essential
def test_state_of_an_older_version_is_migrated(stack: Stack, old: tuple[str, ...]) -> None:
    """Into the servers that Compose brings, by two at once, one of which waits for the other; a later time there is
    nothing to do.
    """
    with ThreadPoolExecutor(2) as pool:
        both = list(pool.map(lambda _: migrate(stack, *old), range(2)))
    assert [code for code, _ in both] == [0, 0], both
    said = " ".join(said for _, said in both)
    assert re.search(r"feature registry at postgresql://\S+/old_registry: .*is copied", said), said
    assert (
        "Airflow's metadata at postgresql://postgres:5432/old_airflow: done: make its tables; make the roles and the"
        " first administrator" in said
    )
    code, said = migrate(stack, *old)
    assert code == 0, said
    assert said.count("up to date") == 4, said
    code, said = stack.run_container("scheduler", *old, command=("tables",))
    assert code == 0, said
    assert "gold.customer_activity" in said


def test_a_newer_lake_is_refused(stack: Stack, days: Days) -> None:
    mark = "/data/millrace/lake/_millrace.json"
    stack.execute("s3", "sh", "-c", f"cp -a {mark} /tmp/mark && printf '{{\"format\": 2}}' > {mark}")
    try:
        code, said = migrate(stack)
    finally:
        stack.execute("s3", "sh", "-c", f"cat /tmp/mark > {mark}")
    assert code == 1
    assert re.search(r"has format 2, and this Millrace reads up to 1\. Update Millrace", said), said


def test_a_newer_registry_is_refused(stack: Stack, days: Days) -> None:
    stack.sql("UPDATE feast.registry SET format = 2", "registry")
    try:
        code, said = migrate(stack)
    finally:
        stack.sql("UPDATE feast.registry SET format = 1", "registry")
    assert code == 1
    assert re.search(
        r"the feature registry at postgresql://postgres:5432/registry has format 2, and this Millrace reads up to 1",
        said,
    ), said


@pytest.mark.essential
def test_newer_metadata_is_refused_by_migrate_and_by_a_component(stack: Stack, days: Days) -> None:
    """An older image that starts says so at once: waiting for a migration is of no use."""
    revision = stack.sql("SELECT version_num FROM alembic_version")
    stack.sql(f"UPDATE alembic_version SET version_num = '{REVISION}'")
    try:
        code, said = migrate(stack)
        started, by_component = stack.run_container("triggerer")
    finally:
        stack.sql(f"UPDATE alembic_version SET version_num = '{revision}'")
    assert code == 1
    assert re.search(
        rf"Airflow's metadata at \S+/airflow has revision {REVISION}, which Airflow \S+ does not know: a newer version"
        r" migrated it",
        said,
    ), said
    assert started == 1, by_component
    assert re.search(rf"revision {REVISION}, which .* does not know: a newer version migrated it", by_component), (
        by_component
    )

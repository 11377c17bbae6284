"""Airflow as components apart, started once: metadata in PostgreSQL, lake and task logs in a bucket, two schedulers, an engine of its own, logins with roles."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from etl.spark.server import free_port
from lake import settings
from millrace.services import ApiError, Services
from tests import patience
from tests.components import Running, Stack
from tests.gateway import BUCKET, Gateway
from tests.landing import Shop
from tests.servers import Postgres

ADMIN = "admin-opens-all"
LOGINS = {"vera": "Viewer", "ulla": "User", "otto": "Op"}
ORPHANED = {"AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "3"}
"""Dead schedulers are looked for so often, instead of every 15 s. They are taken for dead after 30 s; with less, busy ones are, too."""


@dataclass
class Apart:
    """The components, and what they share."""

    stack: Stack
    database: Postgres
    gateway: Gateway
    shop: Shop
    api: Running
    schedulers: list[Running]
    others: dict[str, Running]

    @property
    def lake(self) -> Path:
        """The lake, as the folder that the gateway keeps it in: a second way to look at it."""
        return self.gateway.folder / BUCKET / "tables"

    def as_user(self, name: str = "admin", password: str = ADMIN) -> Services:
        """A client of the REST API."""
        return Services(self.stack.shared["MILLRACE_API_URL"], "", name, password)


def password_of(name: str) -> str:
    return f"{name}-may-enter"


@pytest.fixture(scope="package")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Apart]:
    """All of it, ready; ended afterwards, whatever happened."""
    folder = tmp_path_factory.mktemp("apart")
    database, gateway = Postgres(), Gateway.start(folder / "buckets")
    database.start()
    port, engine_port = free_port(), free_port()
    (folder / "pgpass").write_text(f"*:*:*:*:{database.url.split(':')[2].split('@')[0]}\n")
    (folder / "pgpass").chmod(0o600)
    shared = {
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15",  # one is frozen until then
        **gateway.environment(),
        **ORPHANED,
        "MILLRACE_DATABASE": f"postgresql://millrace@127.0.0.1:{database.port}/postgres",
        "PGPASSFILE": str(folder / "pgpass"),
        "MILLRACE_AUTH": "fab",
        "MILLRACE_PORT": str(port),
        "MILLRACE_API_URL": f"http://127.0.0.1:{port}",
        "MILLRACE_TASK_LOGS": f"s3://{BUCKET}/logs",
        "MILLRACE_LAKE": f"s3://{BUCKET}/tables",
        "MILLRACE_LANDING": str(folder / "landing"),
        "MILLRACE_ENGINE": f"sc://127.0.0.1:{engine_port}",
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(b"f" * 32).decode(),
        "AIRFLOW__API_AUTH__JWT_SECRET": "j" * 64,
        "AIRFLOW__API__SECRET_KEY": "s" * 32,
        "AIRFLOW__CORE__PARALLELISM": "2",
    }
    try:
        with Stack(folder / "stack", shared) as stack:
            started = {
                "engine": stack.start("engine", wait=False, MILLRACE_ENGINE_PORT=str(engine_port)),
                "api-server": stack.start("api-server", wait=False, MILLRACE_HOME=str(folder / "api")),
                "dag-processor": stack.start("dag-processor", wait=False),
                "triggerer": stack.start("triggerer", wait=False),
            }
            schedulers = [stack.start("scheduler", wait=False) for _ in range(2)]
            migrate(stack)
            api = started.pop("api-server")
            running = Apart(stack, database, gateway, Shop.open(folder / "landing"), api, schedulers, started)
            for component in (api, *started.values(), *schedulers):
                patience.until(component.is_ready, f"{component.name} is not ready", every=0.2)
            patience.until(lambda: is_parsed(running), "the DAG is not parsed", every=0.5)
            yield running
    finally:
        gateway.stop()
        database.remove()


def migrate(stack: Stack) -> None:
    """By two at once, while the components wait for it."""
    environment = stack.environment(MILLRACE_ADMIN_PASSWORD=ADMIN)
    command = [sys.executable, "-W", "ignore", "-m", "millrace.metadata"]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    both = [subprocess.Popen(command, env=environment, cwd=settings.CHECKOUT, **pipes) for _ in range(2)]
    said = [process.communicate(timeout=patience.SECONDS)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert ADMIN not in json.dumps(said)


def is_parsed(apart: Apart) -> bool:
    try:
        return bool(apart.as_user().api("GET", "/api/v2/dags/millrace", patience=60))
    except ApiError as error:
        if error.status != 404:
            raise
        return False

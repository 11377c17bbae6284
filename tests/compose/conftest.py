"""One stack for this folder, started once and removed at the end, and the table of figures that closes the run."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from grocery.tests.shop import Shop
from lake import settings
from tests import patience, programs
from tests.compose.stack import OVERRIDE, SERVERS, Days, Engine, Stack, free_ports

KEEP = "MILLRACE_TEST_KEEP"
"""A folder in which the stack stays for the next run of these tests, while one works on them. `scripts/compose.sh
purge` removes it, with that run's variables.
"""
IMAGES = ("pipeline", "features", "engine", *SERVERS)
FIGURES: list[dict[str, Any]] = []


def images(docker: Engine) -> dict[str, str]:
    """The images that the environment names, as for Compose."""
    tag = os.environ.get("MILLRACE_TAG", "latest")
    named = {
        f"MILLRACE_{name.upper()}_IMAGE": os.environ.get(f"MILLRACE_{name.upper()}_IMAGE", f"millrace/{name}:{tag}")
        for name in IMAGES
    }
    missing = [image for image in named.values() if docker.run("image", "inspect", image, check=False).returncode]
    assert not missing, f"no image {', '.join(missing)}. Build them with `make images`"
    return named


def kept_ports(folder: Path) -> int:
    """The first of four in a row; where the stack is kept, those that it has."""
    file = folder / "ports"
    if not file.exists():
        file.write_text(str(free_ports(4)))
    return int(file.read_text())


@pytest.fixture(scope="package")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """All of Compose, healthy, with the DAG parsed."""
    programs.docker_engine()
    kept = Path(os.environ[KEEP]) if os.environ.get(KEEP) else None
    docker, folder = Engine.find(), kept or tmp_path_factory.mktemp("compose")
    folder.mkdir(exist_ok=True)
    shop, ports = folder / "shop", kept_ports(folder)
    if not shop.exists():
        Shop.open(shop)
    variables = {
        **images(docker),
        "MILLRACE_HOME": str(folder),
        "MILLRACE_COMPOSE_PROJECT": f"millrace-test-{kept.name if kept else os.getpid()}",
        "MILLRACE_COMPOSE_FILES": str(OVERRIDE),
        "MILLRACE_FILES": str(shop),
        "MILLRACE_PORT": str(ports),
        "MILLRACE_FEATURES_PORT": f"{ports + 1}-{ports + 3}",
        "MILLRACE_FEATURES_WRITES": "1",
    }
    stack = Stack(docker, folder, variables, variables["MILLRACE_COMPOSE_PROJECT"], FIGURES)
    try:
        since = time.monotonic()
        stack.compose("up", "-d")
        patience.until(lambda: stack.answers("scheduler"), "the scheduler does not answer", every=0.5)
        stack.note("(start of the stack)", scheduler_answers=time.monotonic() - since)
        patience.until(
            lambda: stack.airflow().api("GET", "/api/v2/dags?dag_ids=millrace", patience=120)["dags"],
            "the DAG is not parsed",
            every=0.5,
        )
        yield stack
    finally:
        _keep_logs(stack)
        if not kept:
            stack.compose("purge", check=False)


def _keep_logs(stack: Stack) -> None:
    """Of the containers, for who looks for the cause of a failure."""
    folder = stack.home / "logs"
    folder.mkdir(exist_ok=True)
    for container in stack.containers():
        (folder / f"{stack.inspect(container)['Name'].strip('/')}.log").write_text(stack.logs(container))


@pytest.fixture(scope="package")
def days(stack: Stack) -> Days:
    """The first day, published and served by both."""
    found = Days(stack, Shop(stack.home / "shop"), stack.home / "control")
    if found.control.exists():
        return found
    since, interval = time.monotonic(), ("2017-03-01", "2017-03-02")
    run = found.trigger(interval)
    found.carry(interval)
    patience.until(lambda: run.state() in ("success", "failed"), "the first run does not end", every=0.5)
    assert run.state() == "success", run.error()
    stack.note("(an undisturbed run)", run=time.monotonic() - since)
    found.compare(run)
    return found


@pytest.fixture(autouse=True)
def settled(request: pytest.FixtureRequest) -> Iterator[None]:
    """Each test leaves a healthy stack to the next one."""
    yield
    if "stack" in request.fixturenames:
        request.getfixturevalue("stack").settle()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table of figures, which is kept in .millrace/compose/figures.json as well."""
    if not FIGURES:
        return
    path = Path(os.environ.get("MILLRACE_HOME") or settings.CHECKOUT / ".millrace") / "compose" / "figures.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(FIGURES, indent=1) + "\n")
    terminalreporter.section(f"seconds after a fault; {path}")
    for figure in FIGURES:
        values = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figure.items() if name != "fault")
        terminalreporter.line(f"{figure['fault']:<60} {values}")

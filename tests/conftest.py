"""Fixtures that every part of the suite shares: a home of its own for each test, and a small cinema, published once."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from contracts import project
from lake import settings
from tests.certificates import Certificates
from tests.cinema import Cinema
from tests.parallel import once
from tests.projects import CINEMA, GROCERY

project.load(GROCERY)  # so that tests may import its modules
project.load(CINEMA)


@pytest.fixture(scope="module", autouse=True)
def _project(request: pytest.FixtureRequest) -> Iterator[None]:
    """Work for the cinema, or for the project whose folder the test's module names: `PROJECT = GROCERY`.

    A process runs the tests of several projects one after the other.
    """
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MILLRACE_PROJECT", str(getattr(request.module, "PROJECT", CINEMA)))
        yield


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home; nothing of the caller's environment leaks in."""
    set_home(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def cinema(home: Path) -> Cinema:
    """A small landing zone with a valid file of each table on 2017-03-01, to which tests add and in which they break
    things.
    """
    return Cinema.open(home / "landing")


def set_home(path: Path, monkeypatch: pytest.MonkeyPatch, project: Path | None = None) -> None:
    """Work in that home, for that project or the one that this process works for already; nothing else of the caller's
    environment leaks in.
    """
    if project is not None:
        monkeypatch.setenv("MILLRACE_PROJECT", str(project))
    stores = [name for name in os.environ if name.startswith("AWS_")]
    for name in (
        "MILLRACE_LAKE",
        "MILLRACE_LANDING",
        "MILLRACE_ENGINE",
        "MILLRACE_RELEASE",
        "MILLRACE_ONLINE",
        "MILLRACE_REGISTRY",
        "OPENLINEAGE_URL",
        *stores,
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MILLRACE_HOME", str(path))


def copy_home(template: Path, home: Path) -> Cinema:
    """Make a home as the template is. Copies and not links: a test may write into any file of its own.

    A lake may be moved as a whole: what a commit was built from names tables and files relative to the lake and the
    landing zone.
    """
    shutil.copytree(template, home, dirs_exist_ok=True)
    return Cinema(home / "landing")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of an authority, of servers that it vouches for, and of a client."""
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def published_cinema_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cinema, its first day published by one run. Copy it, do not write to it."""
    from millrace import pipeline

    def build(path: Path) -> None:
        with pytest.MonkeyPatch.context() as environment:
            set_home(path, environment, CINEMA)
            Cinema.open(path / "landing")
            pipeline.run_all("2017-03-01", "2017-03-02", "first")

    return once(tmp_path_factory, "published_cinema", build)


@pytest.fixture
def published_cinema(home: Path, published_cinema_home: Path) -> Cinema:
    """The cinema whose first day is published."""
    return copy_home(published_cinema_home, home)


def command(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    """Run `python -m millrace ...` as a user would, in a process of its own."""
    environment = {**os.environ, "MILLRACE_HOME": str(home)}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "millrace", *arguments],
        cwd=settings.CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.fixture
def run(home: Path) -> Callable:
    """Carry an interval through the lake in this process and return the reports by table."""
    from millrace import pipeline

    def carry(start: str, end: str, run_id: str = "test") -> dict:
        return {report.table: report for report in pipeline.run_all(start, end, run_id)}

    return carry

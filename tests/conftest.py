"""Fixtures that every part of the suite shares: a home of its own for each test, and a small shop, published once."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from contracts import project
from lake import settings
from tests.certificates import Certificates
from tests.landing import Shop
from tests.parallel import once

project.load(project.DEFAULT)  # so that tests may import its modules


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home; nothing of the caller's environment leaks in."""
    set_home(tmp_path, monkeypatch)
    return tmp_path


@pytest.fixture
def shop(home: Path) -> Shop:
    """A small landing zone with a valid file of each table on 2017-03-01, to which tests add and in which they break
    things.
    """
    return Shop.open(home / "landing")


def set_home(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in that home; nothing of the caller's environment leaks in."""
    stores = [name for name in os.environ if name.startswith("AWS_")]
    for name in (
        "MILLRACE_PROJECT",
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


def copy_home(template: Path, home: Path) -> Shop:
    """Make a home as the template is. Copies and not links: a test may write into any file of its own.

    A lake may be moved as a whole: what a commit was built from names tables and files relative to the lake and the
    landing zone.
    """
    shutil.copytree(template, home, dirs_exist_ok=True)
    return Shop(home / "landing")


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of an authority, of servers that it vouches for, and of a client."""
    return Certificates.make(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def published_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small shop, its first day published by one run. Copy it, do not write to it."""
    from millrace import pipeline

    def build(path: Path) -> None:
        with pytest.MonkeyPatch.context() as environment:
            set_home(path, environment)
            Shop.open(path / "landing")
            pipeline.run_all("2017-03-01", "2017-03-02", "first")

    return once(tmp_path_factory, "published", build)


@pytest.fixture
def stocked(home: Path, published_home: Path) -> Shop:
    """The small shop whose first day is published."""
    return copy_home(published_home, home)


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

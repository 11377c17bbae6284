"""Homes of the sample: an empty one for each test, and the whole year, computed once."""

from __future__ import annotations

from pathlib import Path

import pytest

from grocery.tests import oracle
from tests.conftest import command, home  # noqa: F401 (a fixture)
from tests.parallel import once


@pytest.fixture(scope="session")
def year_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the whole sample has been carried through every layer. Read it, do not write to it."""

    def build(path: Path) -> None:
        interval = ("--start", str(oracle.START), "--end", str(oracle.END))
        for arguments in (("sample",), ("run", *interval), ("serve",)):
            done = command(*arguments, home=path)
            assert done.returncode == 0, done.stdout + done.stderr

    return once(tmp_path_factory, "year", build)


@pytest.fixture
def year(year_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The whole year as this test's home."""
    monkeypatch.setenv("MILLRACE_HOME", str(year_home))
    return year_home

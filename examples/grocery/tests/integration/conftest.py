"""Homes of the sample: an empty one for each test, and the whole year, computed once."""

from __future__ import annotations

from pathlib import Path

import pytest

from grocery.tests import year as computed
from tests.conftest import home  # noqa: F401 (a fixture)


@pytest.fixture(scope="session")
def year_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the whole sample has been carried through every layer. Read it, do not write to it."""
    return computed.home(tmp_path_factory)


@pytest.fixture
def year(year_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The whole year as this test's home."""
    monkeypatch.setenv("MILLRACE_HOME", str(year_home))
    return year_home

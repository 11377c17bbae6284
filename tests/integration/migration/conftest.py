"""State that commit 4023ddf left, and servers to move it to."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.migration.make_archive import ARCHIVE
from tests.servers import Postgres, Redis


@pytest.fixture(scope="package")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(scope="package")
def redis() -> Iterator[Redis]:
    with Redis() as server:
        yield server


@pytest.fixture
def old(home: Path) -> Path:
    """A home as the old code left it."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(home, filter="data")
    return home

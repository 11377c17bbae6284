"""A real Spark, started once for all tests that compare engines."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.spark import running


@pytest.fixture(scope="package")
def spark_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Spark Connect server with Delta on this machine. Its jars are fetched into this checkout's own home, once."""
    with running(tmp_path_factory.mktemp("spark")) as (_, url):
        yield url


@pytest.fixture(params=["sail", "spark"])
def engine(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the engine that this test runs on."""
    monkeypatch.setenv("MILLRACE_ENGINE", "sail" if request.param == "sail" else request.getfixturevalue("spark_url"))
    return str(request.param)

"""A real Spark, started once for all tests that compare engines."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts import settings
from etl.spark import server


@pytest.fixture(scope="session")
def spark_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Spark Connect server with Delta on this machine. Its jars are fetched into this checkout's own home, once."""
    jars = settings.CHECKOUT / ".millrace" / "jars"
    home = tmp_path_factory.mktemp("spark")
    jars.mkdir(parents=True, exist_ok=True)
    (home / "jars").symlink_to(jars)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_HOME", str(home))
        process, port = server.start(home / "spark.log")
    yield server.url(port)
    server.stop(process)


@pytest.fixture(params=["sail", "spark"])
def engine(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of the engine that this test runs on."""
    monkeypatch.setenv("MILLRACE_ENGINE", "sail" if request.param == "sail" else request.getfixturevalue("spark_url"))
    return str(request.param)

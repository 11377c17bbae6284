"""A real Spark for tests: a Connect server of this machine, in a home of its own, with the jars of this checkout's, which are fetched once."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from contracts import settings
from etl.spark import jars, server
from tests import programs


def share_jars(home: Path) -> None:
    """Let a home use the jars of this checkout's own."""
    jars.share(home, settings.CHECKOUT / ".millrace" / "jars")


@contextmanager
def running(home: Path, prepare: Callable[[pytest.MonkeyPatch], None] = lambda _: None) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The server's process and its URL. It starts in the environment that `prepare` makes, which the test does not keep."""
    programs.java()
    share_jars(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_HOME", str(home))
        prepare(patch)
        process, port = server.start(home / "spark.log")
    try:
        yield process, server.url(port)
    finally:
        server.stop(process)

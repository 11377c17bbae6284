"""A real Spark for tests: a Connect server of this machine, in a home of its own, with the jars of this checkout's,
which are fetched once.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from etl.spark import jars, server
from lake import settings
from tests import programs

QUICK = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
INTERPRETED = "spark.sql.codegen.wholeStage=false,spark.sql.codegen.factoryMode=NO_CODEGEN"
SHORT_LIVED = {
    "MILLRACE_SPARK_CONF": f"spark.driver.extraJavaOptions={QUICK},{INTERPRETED}",
    "SPARK_LAUNCHER_OPTS": QUICK,
}
"""A server of a minute and queries over a few rows: what compilers and the threads of the collector cost is more than
they bring. Tests of what queries answer ask for `COMPILED`.
"""
COMPILED = {"spark.sql.codegen.wholeStage": "true", "spark.sql.codegen.factoryMode": "FALLBACK"}
"""Spark's own defaults, by which it compiles each query."""


def share_jars(home: Path) -> None:
    """Let a home use the jars of this checkout's own."""
    jars.share(home, settings.CHECKOUT / ".millrace" / "jars")


@contextmanager
def running(
    home: Path, prepare: Callable[[pytest.MonkeyPatch], None] = lambda _: None
) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The server's process and its URL. It starts in the environment that `prepare` makes, which the test does not
    keep.
    """
    programs.java()
    share_jars(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_HOME", str(home))
        for name, value in SHORT_LIVED.items():
            patch.setenv(name, value)
        prepare(patch)
        process, port = server.start(home / "spark.log")
    try:
        yield process, server.url(port)
    finally:
        server.stop(process)

"""The engine that computes: a Spark Connect session, on Sail in this process or at a URL. Nothing here knows a table."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from functools import cache
from typing import TYPE_CHECKING

from contracts import settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


class EngineError(RuntimeError):
    """The engine cannot be used as configured."""


def session() -> SparkSession:
    """The session of this process, started on first use; instants are UTC whatever the machine's zone."""
    with _starting:
        return _session()


@cache
def _session() -> SparkSession:
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.remote(_url(settings.engine())).getOrCreate()
    spark.conf.set("spark.sql.session.timeZone", "UTC")
    atexit.unregister(spark.client._cleanup_ml_cache)  # Sail has no such cache: the farewell fails, and where logging is on a traceback closes every process
    return spark


def _url(engine: str) -> str:
    if engine == "sail":
        return _embedded_sail()
    if engine.startswith("sc://"):
        return engine
    raise EngineError(
        f"MILLRACE_ENGINE is {engine!r}. Use `sail` (the default, in-process). A Spark Connect URL such as sc://localhost:15002 is taken too, but is not part of the tests yet; a local Spark is not started yet"
    )


def _embedded_sail() -> str:
    os.environ.setdefault("RUST_LOG", "error")
    logging.getLogger("sail").setLevel(logging.ERROR)
    from pysail.spark import SparkConnectServer

    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    _servers.append(server)
    _, port = server.listening_address
    return f"sc://127.0.0.1:{port}"


_starting = threading.Lock()
_servers: list[object] = []
"""Keeps the embedded server alive as long as the process."""


def describe() -> tuple[str, str]:
    """Name and version of the engine, for lineage and reports."""
    if settings.engine() == "sail":
        from importlib.metadata import version

        return "sail", version("pysail")
    return "spark", session().version


def empty(ddl: str) -> DataFrame:
    """No rows, with the columns of a Spark DDL string."""
    return session().createDataFrame([], ddl)

"""The engine that computes: a Spark Connect session, on Sail in this process, on a Spark of this machine, or at a URL.
Nothing here knows a table.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import threading
import weakref
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from etl.spark import SparkError, keep_alive, server
from lake import settings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

DEFAULT_PORT = 15002
SAIL_TIMEOUT_SECONDS = 30 * 86_400
"""After which a Sail in this process forgets a session. By default it is 15 minutes, also below a query that leaves it
no time for other requests. The session ends with the process anyway.
"""
OPTIONS = {
    "spark.sql.session.timeZone": "UTC",  # else the machine's zone leaks into dates
    # Spark's INT96 carries no statistics, and publishing needs them
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.parquet.compression.codec": "zstd",
    # rows take so much more memory than their files; Spark takes 20 million promotions for small, and broadcasts them
    "spark.sql.sources.fileCompressionFactor": "20",
    # delta-spark 4.1 refuses versions older than a table's deletedFileRetentionDuration, a week by default, though
    # their files are there; releases pin them, and a vacuum spares them
    "spark.databricks.delta.vacuum.enforceTimeTravelWithinDeletedFileRetentionDuration": "false",
}
"""What every session is set to, so that engines read and write alike."""
ON_SAIL = {"spark.python.sql.dataFrameDebugging.enabled": "false"}
"""Else PySpark looks for IPython at every call, 2,000 times a run: 0.12 of 1.5 CPU seconds. On Spark only a server's
own configuration may say so.
"""


class EngineError(RuntimeError):
    """The engine cannot be used as configured, or is not there."""


def session() -> SparkSession:
    """The session of this process with the engine that is configured, started on first use, kept while it idles, and
    renewed if the engine forgot it.
    """
    with _starting:
        engine = settings.engine()
        found = _session(engine)
        if found.is_stopped:
            _session.cache_clear()
            found = _session(engine)
        keep_alive.refresh(found)
        type(
            found
        )._active_session.session = (
            found  # PySpark asks the thread's active session for settings, and never makes a later one active
        )
        return found


@cache
def _session(engine: str) -> SparkSession:
    from pyspark.sql import SparkSession
    from pyspark.sql.connect.client.retries import DefaultPolicy

    url = _url(engine)
    _refuse_silence(url)
    spark = SparkSession.builder.remote(url).create()
    spark.client.set_retry_policies(
        [DefaultPolicy(max_retries=5, max_backoff=2000)]
    )  # ten minutes by default, for a server that is dead
    atexit.unregister(
        spark.client._cleanup_ml_cache
    )  # Sail has no such cache: the farewell fails, and where logging is on a traceback closes every process
    try:
        _refuse_other_version(url, _version(url, spark))
    except EngineError:
        spark.release_session_on_close = False  # nothing was begun there
        spark.stop()  # else it stays the active one of this thread
        raise
    keep_alive.start(
        spark, OPTIONS | ON_SAIL if engine == "sail" or (engine != "spark" and _sails_version(spark)) else OPTIONS
    )
    return spark


def _url(engine: str) -> str:
    if engine == "sail":
        return _embedded_sail()
    if engine == "spark":
        return _local_spark()
    if engine.startswith("sc://") and _host_and_port(engine)[0]:
        return engine
    raise EngineError(
        f"MILLRACE_ENGINE is {_shown(engine)!r}. Use `sail` (the default, in-process), `spark` (a Spark of this"
        f" machine, which needs Java) or a Spark Connect URL such as sc://localhost:{DEFAULT_PORT}"
    )


def _shown(engine: str) -> str:
    """Without user, password and options, one of which may be a token."""
    scheme, separator, rest = engine.split(";")[0].rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _embedded_sail() -> str:
    os.environ.setdefault("RUST_LOG", "error")
    logging.getLogger("sail").setLevel(logging.ERROR)
    _servers.append(server := start_sail("127.0.0.1", 0))
    _, port = server.listening_address
    return f"sc://127.0.0.1:{port}"


def start_sail(address: str, port: int) -> Any:
    """A Sail in this process that listens there; on a free port where `port` is 0."""
    os.environ.setdefault(keep_alive.SAIL_TIMEOUT, str(SAIL_TIMEOUT_SECONDS))
    from pysail.spark import SparkConnectServer

    started = SparkConnectServer(address, port)
    started.start(background=True)
    return started


def _local_spark() -> str:
    """The server that the services keep, or one that ends with this process."""
    shared = server.running()
    if shared:
        return shared
    process, port = server.start(settings.home() / "logs" / f"spark-{os.getpid()}.log")
    _servers.append(process)
    _ports.append(port)
    atexit.register(server.stop, process)
    return server.url(port)


_starting = threading.Lock()
_servers: list[Any] = []
"""Keeps a server of our own alive as long as the process."""
_ports: list[int] = []
"""Where a Spark of our own listens."""


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url.split(";")[0])
    try:
        return parts.hostname or "", parts.port or DEFAULT_PORT
    except ValueError:
        return "", 0


def _refuse_silence(url: str) -> None:
    """Ask before the client does: it would try for minutes, and then tell of channels and status codes."""
    host, port = _host_and_port(url)
    if not server.listens(port, host):
        raise EngineError(
            f"no engine answers at {host}:{port}, which MILLRACE_ENGINE names. Start the Spark Connect server there, or"
            " correct the URL"
        )


ENDED = re.compile(
    r"UNAVAILABLE|connection (reset|refused)|socket closed|stream removed|broken pipe|operation not found|session \S+"
    r" is not running|INVALID_HANDLE",
    re.IGNORECASE,
)
"""What a client says of a server that ended, and of the one that was started in its place."""


def lost(said: str = "") -> str:
    """A sentence about an engine outside of this process that no longer answers, or that ended as a client `said`;
    empty while all is well.
    """
    url = settings.engine()
    if url == "spark":
        url = server.url(_ports[0] if _ports else server.recorded_port())
    host, port = _host_and_port(url)
    if not url.startswith("sc://"):
        return ""
    if not server.listens(port, host):
        return f"no engine answers at {host}:{port} any more"
    return f"the engine at {host}:{port} ended while it worked, and was started again" if ENDED.search(said) else ""


def _version(url: str, spark: SparkSession) -> str:
    """What the server says of itself: the first question that it is asked."""
    from pyspark.errors import PySparkException

    try:
        return str(spark.version)
    except PySparkException as error:
        told = next(iter(str(error).splitlines()), "").rstrip(".")
        raise EngineError(
            f"what listens at {url.split(';')[0]} did not answer as a Spark Connect server does ({told}). See that it"
            " is one, and that the URL's options (token, use_ssl) are right"
        ) from error


def _refuse_other_version(url: str, theirs: str) -> None:
    """The protocol and the functions are those of one minor version."""
    from pyspark import __version__ as ours

    minor = ".".join(ours.split(".")[:2])
    if theirs.split(".")[:2] != minor.split("."):
        raise EngineError(
            f"the engine at {url.split(';')[0]} is Spark {theirs}, and this Millrace speaks to Spark {minor} (its"
            f" client is {ours}). Start a Connect server of Spark {minor} there, or point MILLRACE_ENGINE at one"
        )


def describe() -> tuple[str, str]:
    """Name and version of the engine, for lineage and reports. A Sail behind a URL is Sail, too."""
    if settings.engine() == "sail":
        from importlib.metadata import version

        return "sail", version("pysail")
    spark = session()
    sails = "" if settings.engine() == "spark" else _sails_version(spark)
    return ("sail", sails) if sails else ("spark", spark.version)


def _sails_version(spark: SparkSession) -> str:
    """The version of a Sail behind a URL, which speaks as a Spark of another version; empty where the server is a
    Spark.

    Asked for `version()`, a Spark says the version that it speaks and the revision that it was built from, Sail says
    its own and nothing more.
    """
    from pyspark.errors import PySparkException

    if spark not in _versions:
        try:
            told = str(spark.sql("SELECT version()").collect()[0][0])
        except PySparkException:  # it is no Sail, which can say it
            told = f"{spark.version} "
        _versions[spark] = "" if told.startswith(f"{spark.version} ") else told
    return _versions[spark]


_versions: weakref.WeakKeyDictionary[SparkSession, str] = weakref.WeakKeyDictionary()


def empty(ddl: str) -> DataFrame:
    """No rows, with the columns of a Spark DDL string."""
    return session().createDataFrame([], ddl)


__all__ = ["EngineError", "SparkError", "describe", "empty", "session"]

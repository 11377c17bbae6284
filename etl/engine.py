"""The engine: a Spark Connect session on Sail in this process, on a local Spark, or at a URL."""

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
"""After which an embedded Sail forgets an idle session. The default of 15 minutes also ends a session whose one query
runs longer. The session ends with the process anyway.
"""
OPTIONS = {
    "spark.sql.session.timeZone": "UTC",  # else the machine's zone leaks into dates
    # Spark's default, INT96, has no statistics, which publishing needs
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.parquet.compression.codec": "zstd",
    # how much larger rows are than their files: by the default, Spark broadcasts 20 million promotions as small
    "spark.sql.sources.fileCompressionFactor": "20",
    # delta-spark 4.1 refuses versions older than a table's deletedFileRetentionDuration (a week by default) even where
    # their files exist; releases pin such versions, and vacuum keeps their files
    "spark.databricks.delta.vacuum.enforceTimeTravelWithinDeletedFileRetentionDuration": "false",
}
"""Settings of every session, so that engines read and write alike."""
SAIL_OPTIONS = {"spark.python.sql.dataFrameDebugging.enabled": "false"}
"""Otherwise PySpark looks for IPython at every call, 2,000 times a run: 0.12 of 1.5 CPU seconds. On Spark, only the
server's own configuration can set it.
"""


class EngineError(RuntimeError):
    """The engine is misconfigured or unavailable."""


def session() -> SparkSession:
    """This process's session with the configured engine: started on first use, kept alive while idle, and renewed if
    the engine forgot it.
    """
    with _starting:
        engine = settings.engine()
        spark = _session(engine)
        if spark.is_stopped:
            _session.cache_clear()
            spark = _session(engine)
        keep_alive.refresh(spark)
        # PySpark reads settings from the thread's active session, and never makes a later one active
        type(spark)._active_session.session = spark
        return spark


def is_embedded() -> bool:
    """Whether the engine runs in this process, and so can call back into it."""
    return settings.engine() == "sail"


@cache
def _session(engine: str) -> SparkSession:
    from pyspark.sql import SparkSession
    from pyspark.sql.connect.client.retries import DefaultPolicy

    url = _url(engine)
    _ensure_server_listens(url)
    spark = SparkSession.builder.remote(url).create()
    # by default the client retries a dead server for ten minutes
    spark.client.set_retry_policies([DefaultPolicy(max_retries=5, max_backoff=2000)])
    # PySpark closes a forgotten session in whatever thread collects garbage, and then waits for threads that may log:
    # if the first one holds the lock of a log handler, none of them goes on
    type(spark).__del__ = _forget
    # Sail has no ML cache: the cleanup fails, and logs a traceback at the exit of every process
    atexit.unregister(spark.client._cleanup_ml_cache)
    try:
        _ensure_same_version(url, _version(url, spark))
    except EngineError:
        spark.release_session_on_close = False  # the server has no session to release
        spark.stop()  # otherwise it stays this thread's active session
        raise
    on_sail = engine == "sail" or (engine != "spark" and _sail_version(spark) != "")
    keep_alive.start(spark, OPTIONS | SAIL_OPTIONS if on_sail else OPTIONS)
    return spark


def _forget(_session: SparkSession) -> None:
    """Leave a session that nobody stopped to the server, which ends idle sessions."""


def _url(engine: str) -> str:
    if engine == "sail":
        return _embedded_sail()
    if engine == "spark":
        return _local_spark()
    if engine.startswith("sc://") and _host_and_port(engine)[0]:
        return engine
    raise EngineError(
        f"MILLRACE_ENGINE is {_without_secrets(engine)!r}. Use `sail` (the default, in-process), `spark` (a Spark"
        f" of this machine, which needs Java) or a Spark Connect URL such as sc://localhost:{DEFAULT_PORT}"
    )


def _without_secrets(engine: str) -> str:
    """The URL without user, password and options, one of which may be a token."""
    scheme, separator, rest = engine.split(";")[0].rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _embedded_sail() -> str:
    os.environ.setdefault("RUST_LOG", "error")
    logging.getLogger("sail").setLevel(logging.ERROR)
    _servers.append(server := start_sail("127.0.0.1", 0))
    _, port = server.listening_address
    return f"sc://127.0.0.1:{port}"


def start_sail(address: str, port: int) -> Any:
    """Start a Sail in this process that listens there, on a free port where `port` is 0. Returns pysail's server."""
    os.environ.setdefault(keep_alive.SAIL_TIMEOUT, str(SAIL_TIMEOUT_SECONDS))
    from pysail.spark import SparkConnectServer

    sail = SparkConnectServer(address, port)
    sail.start(background=True)
    return sail


def _local_spark() -> str:
    """The URL of the running shared Spark server, or of one that ends with this process."""
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
"""Servers that this process started; the references keep them alive."""
_ports: list[int] = []
"""Ports of the local Sparks that this process started."""


def _host_and_port(url: str) -> tuple[str, int]:
    parts = urlsplit(url.split(";")[0])
    try:
        return parts.hostname or "", parts.port or DEFAULT_PORT
    except ValueError:
        return "", 0


def _ensure_server_listens(url: str) -> None:
    """EngineError where nothing listens. The client would retry for minutes, then report channels and status codes."""
    host, port = _host_and_port(url)
    if not server.listens(port, host):
        raise EngineError(
            f"no engine answers at {host}:{port}, which MILLRACE_ENGINE names. Start the Spark Connect server there, or"
            " correct the URL. If it ends again and again, it may lack memory; a container of it has what"
            " MILLRACE_ENGINE_MEMORY says"
        )


ENDED = re.compile(
    r"UNAVAILABLE|connection (reset|refused)|socket closed|stream removed|broken pipe|operation not found|session \S+"
    r" is not running|INVALID_HANDLE",
    re.IGNORECASE,
)
"""Client errors that mean that the server ended, or was restarted."""


def lost(message: str = "") -> str:
    """What happened to an engine outside this process: it no longer answers, or by the client's error `message` it was
    restarted. Empty while it works.
    """
    url = settings.engine()
    if url == "spark":
        url = server.url(_ports[0] if _ports else server.recorded_port())
    host, port = _host_and_port(url)
    if not url.startswith("sc://"):
        return ""
    if not server.listens(port, host):
        return f"no engine answers at {host}:{port} any more"
    return f"the engine at {host}:{port} ended while it worked, and was started again" if ENDED.search(message) else ""


def _version(url: str, spark: SparkSession) -> str:
    """The Spark version that the server reports. EngineError where it does not speak Spark Connect."""
    from pyspark.errors import PySparkException

    try:
        return str(spark.version)
    except PySparkException as error:
        message = next(iter(str(error).splitlines()), "").rstrip(".")
        raise EngineError(
            f"what listens at {url.split(';')[0]} did not answer as a Spark Connect server does ({message}). See that"
            " it is one, and that the URL's options (token, use_ssl) are right"
        ) from error


def _ensure_same_version(url: str, version: str) -> None:
    """EngineError where the server's minor version is another: the protocol and the functions differ by it."""
    from pyspark import __version__ as client_version

    minor = ".".join(client_version.split(".")[:2])
    if version.split(".")[:2] != minor.split("."):
        raise EngineError(
            f"the engine at {url.split(';')[0]} is Spark {version}, and this Millrace speaks to Spark {minor} (its"
            f" client is {client_version}). Start a Connect server of Spark {minor} there, or point"
            " MILLRACE_ENGINE at one"
        )


def describe() -> tuple[str, str]:
    """Name (`sail` or `spark`) and version of the engine, also behind a URL, for lineage and reports."""
    if settings.engine() == "sail":
        from importlib.metadata import version

        return "sail", version("pysail")
    spark = session()
    sail = "" if settings.engine() == "spark" else _sail_version(spark)
    return ("sail", sail) if sail else ("spark", spark.version)


def _sail_version(spark: SparkSession) -> str:
    """The version of a Sail behind a URL; empty where the server is a Spark.

    Both report a Spark version to the client. In SQL, `version()` gives that version and a revision on Spark, but
    Sail's own version on Sail.
    """
    from pyspark.errors import PySparkException

    if spark not in _sail_versions:
        try:
            version = str(spark.sql("SELECT version()").collect()[0][0])
        except PySparkException:  # Sail supports it, so this is a Spark
            version = f"{spark.version} "
        _sail_versions[spark] = "" if version.startswith(f"{spark.version} ") else version
    return _sail_versions[spark]


_sail_versions: weakref.WeakKeyDictionary[SparkSession, str] = weakref.WeakKeyDictionary()


def empty(ddl: str) -> DataFrame:
    """A frame without rows, with the columns of a Spark DDL string."""
    return session().createDataFrame([], ddl)


__all__ = ["EngineError", "SparkError", "describe", "empty", "is_embedded", "session"]

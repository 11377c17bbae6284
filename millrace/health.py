"""HTTP probes for components without an HTTP server of their own.

`GET /live` and `GET /ready` on `MILLRACE_HEALTH_PORT` give 200, or 503 with the reason. A result is cached for a
second, so that probing costs one query a second at most.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from lake import settings
from lake.settings import SettingError
from millrace.environment import own_host

CACHE_SECONDS = 1.0
ANSWER_SECONDS = 5.0
"""How long a probe waits for the component."""
DEAD_AFTER = 4
"""A component hangs, and is no longer alive, if its last heartbeat is older than so many thresholds."""
JOBS = {"scheduler": "SchedulerJob", "dag-processor": "DagProcessorJob", "triggerer": "TriggererJob"}
THRESHOLDS = {
    "scheduler": ("scheduler", "scheduler_health_check_threshold"),
    "dag-processor": ("dag_processor", "health_check_threshold"),
    "triggerer": ("triggerer", "triggerer_health_check_threshold"),
}


class Health(NamedTuple):
    """Why a component is not alive, and why it is not ready; empty if it is."""

    dead: str = ""
    unready: str = ""


class Probe:
    """Runs a check at most once a second, one at a time, however many clients ask. `ending` overrides its result."""

    def __init__(self, check: Callable[[], Health]) -> None:
        self._check, self._lock = check, threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="health")
        self._pending: Future[Health] | None = None
        self._expires = 0.0
        self.ending = ""

    def health(self) -> Health:
        """The result of a check that is at most a second old."""
        if self.ending:
            return Health(unready=self.ending)
        with self._lock:
            if self._pending is None or (self._pending.done() and time.monotonic() >= self._expires):
                self._pending, self._expires = self._pool.submit(self._check), time.monotonic() + CACHE_SECONDS
            pending = self._pending
        try:
            return pending.result(ANSWER_SECONDS)
        except FutureTimeout:
            return Health(unready=f"no answer within {ANSWER_SECONDS:.0f} s")
        except Exception as error:
            return Health(unready=first_line(error))


def first_line(error: BaseException) -> str:
    """The first line of an error's message; SQLAlchemy's errors give the database's own."""
    text = str(getattr(error, "orig", None) or error).strip()
    return next(iter(text.splitlines()), "") or type(error).__name__


class Job(NamedTuple):
    """Where to find the heartbeat of a component's job: Airflow's database and host name. `threshold` is the age in
    seconds from which on a heartbeat is too old.
    """

    url: str
    host: str
    threshold: float


def read_job(name: str) -> Job:
    """The job of a component as Airflow's configuration has it. Imports Airflow."""
    from airflow.configuration import conf
    from airflow.settings import SQL_ALCHEMY_CONN
    from airflow.utils.net import get_hostname

    return Job(SQL_ALCHEMY_CONN or "", get_hostname(), conf.getfloat(*THRESHOLDS[name]))


def heartbeat_check(name: str, started_at: datetime, job: Callable[[], Job | None]) -> Callable[[], Health]:
    """A check of the heartbeats that this host's component has sent since it started.

    It reads the database without importing Airflow, which would cost 100 MB. `job` returns None until it is known.
    """
    heartbeats = Heartbeats(JOBS[name], started_at)

    def check() -> Health:
        current = job()
        newest = heartbeats.newest(current) if current else None
        if current is None or newest is None:
            return Health(unready=f"the {name} is starting")
        age = (datetime.now(UTC) - newest).total_seconds()
        reason = f"the {name} has sent no heartbeat for {age:.0f} s"
        is_dead, is_late = age > DEAD_AFTER * current.threshold, age > current.threshold
        return Health(reason if is_dead else "", reason if is_late else "")

    return check


class Heartbeats:
    """Reads Airflow's table of jobs over one connection, which is replaced after an error."""

    def __init__(self, job_type: str, since: datetime) -> None:
        self._type, self._since = job_type, since
        self._connection: Any = None

    def newest(self, job: Job) -> datetime | None:
        """The newest heartbeat; None before the first one."""
        try:
            return self._query(job)
        except Exception:
            self._connection = None  # it may have been closed: retry once with a new one
            return self._query(job)

    def _query(self, job: Job) -> datetime | None:
        is_file = job.url.startswith("sqlite")
        if self._connection is None:
            self._connection = _open_file(job.url) if is_file else _open_server(job.url)
        param, since = ("?", self._since.replace(tzinfo=None).isoformat(" ")) if is_file else ("%s", self._since)
        cursor = self._connection.cursor()
        cursor.execute(
            f"SELECT max(latest_heartbeat) FROM job WHERE job_type = {param} AND hostname = {param} AND start_date >="
            f" {param}",
            (self._type, job.host, since),
        )
        ((newest,),) = cursor.fetchall()
        return datetime.fromisoformat(newest).replace(tzinfo=UTC) if isinstance(newest, str) else newest


def _open_file(url: str) -> Any:
    import sqlite3

    return sqlite3.connect(f"file:{url.partition(':///')[2]}?mode=ro", uri=True, check_same_thread=False)


def _open_server(url: str) -> Any:
    import psycopg2

    connection = psycopg2.connect(f"postgresql://{url.partition('://')[2]}", connect_timeout=int(ANSWER_SECONDS))
    connection.autocommit = True
    return connection


VERSION_REQUEST = b"\n$00000000-0000-0000-0000-000000000000\x12\x08\n\x06healthR\x00"
"""An AnalyzePlanRequest for the version: session_id, user_context.user_id "health", spark_version. As bytes, because
the engine's image has no PySpark.
"""


def engine_check(port: int) -> Callable[[], Health]:
    """A check that asks the engine for its version, as a Spark Connect client does, over one connection."""
    import grpc

    channel = grpc.insecure_channel(f"{own_host()}:{port}", options=[("grpc.enable_http_proxy", 0)])
    analyze_plan: Any = channel.unary_unary("/spark.connect.SparkConnectService/AnalyzePlan")

    def check() -> Health:
        try:
            analyze_plan(VERSION_REQUEST, timeout=ANSWER_SECONDS / 2)
        except grpc.RpcError as error:
            call: Any = error  # it is a grpc.Call as well, which its type does not say
            return Health(unready=f"the engine does not answer: {call.details()}")
        return Health()

    return check


def serve(probe: Probe, port: int) -> None:
    """Serve the probe on that port, in threads of this process."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            health = probe.health() if self.path in ("/live", "/ready") else None
            if health is None:
                self._answer(404, "the paths are /live and /ready")
                return
            reason = health.dead if self.path == "/live" else health.unready or health.dead
            self._answer(503 if reason else 200, reason)

        def _answer(self, status: int, reason: str) -> None:
            body = json.dumps({"status": "ok" if status == 200 else "unavailable", "reason": reason}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in settings.bind() else socket.AF_INET
        daemon_threads = True

    try:
        server = Server((settings.bind(), port), Handler)
    except OSError as error:
        raise SettingError(
            f"the health probe cannot listen on {settings.bind()}:{port}: {error.strerror}. Give each component of a"
            " machine a MILLRACE_HEALTH_PORT of its own"
        ) from error
    threading.Thread(target=server.serve_forever, daemon=True, name="health-server").start()

"""Whether a component is alive and ready, over HTTP: `GET /live` and `GET /ready` on `MILLRACE_HEALTH_PORT`, 200, or
503 with the reason.

For components that have no HTTP server of their own. A probe costs a look at what was found out in the last second, or
one query.
"""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as LateError
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from lake import settings
from millrace.environment import own_host

KEEP_SECONDS = 1.0
ANSWER_SECONDS = 5.0
"""A probe waits for so long for what it looks at."""
HUNG = 4
"""A component that has said nothing for so many times the heartbeat's threshold is not alive: it hangs."""
JOBS = {"scheduler": "SchedulerJob", "dag-processor": "DagProcessorJob", "triggerer": "TriggererJob"}
THRESHOLDS = {
    "scheduler": ("scheduler", "scheduler_health_check_threshold"),
    "dag-processor": ("dag_processor", "health_check_threshold"),
    "triggerer": ("triggerer", "triggerer_health_check_threshold"),
}


class Health(NamedTuple):
    """Why a component is not alive, and why it is not ready; empty where it is."""

    dead: str = ""
    unready: str = ""


class Probe:
    """Looks at most once a second, and never twice at once, however many ask."""

    def __init__(self, look: Callable[[], Health]) -> None:
        self._look, self._lock = look, threading.Lock()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="health")
        self._looking: Future[Health] | None = None
        self._until = 0.0
        self.ending = ""

    def health(self) -> Health:
        """What was found out now or in the last second."""
        if self.ending:
            return Health(unready=self.ending)
        with self._lock:
            if self._looking is None or (self._looking.done() and time.monotonic() >= self._until):
                self._looking, self._until = self._pool.submit(self._look), time.monotonic() + KEEP_SECONDS
            looking = self._looking
        try:
            return looking.result(ANSWER_SECONDS)
        except LateError:
            return Health(unready=f"no answer within {ANSWER_SECONDS:.0f} s")
        except Exception as error:
            return Health(unready=told(error))


def told(error: BaseException) -> str:
    """An error in one line: of the database's own where there is one."""
    text = str(getattr(error, "orig", None) or error).strip()
    return next(iter(text.splitlines()), "") or type(error).__name__


class Job(NamedTuple):
    """Where the heartbeat of a component's job is: Airflow's database, the host as Airflow knows it, and the age in
    seconds from which on it is too old.
    """

    url: str
    host: str
    threshold: float


def job_of(name: str) -> Job:
    """As Airflow's configuration says, for a process that has imported it."""
    from airflow.configuration import conf
    from airflow.settings import SQL_ALCHEMY_CONN
    from airflow.utils.net import get_hostname

    return Job(SQL_ALCHEMY_CONN or "", get_hostname(), conf.getfloat(*THRESHOLDS[name]))


def of_job(name: str, started_at: datetime, job: Callable[[], Job | None]) -> Callable[[], Health]:
    """Look at the heartbeat of the job that this host's component has had since it started. This process need not
    import Airflow, which would cost 100 MB.
    """
    heartbeats = Heartbeats(JOBS[name], started_at)

    def look() -> Health:
        known = job()
        newest = heartbeats.newest(known) if known else None
        if known is None or newest is None:
            return Health(unready=f"the {name} is starting")
        age = (datetime.now(UTC) - newest).total_seconds()
        reason = f"the {name} has said nothing for {age:.0f} s"
        return Health(reason if age > HUNG * known.threshold else "", reason if age > known.threshold else "")

    return look


class Heartbeats:
    """Reads from Airflow's table of jobs, over a connection that stays while it works."""

    def __init__(self, job_type: str, since: datetime) -> None:
        self._type, self._since = job_type, since
        self._connection: Any = None

    def newest(self, job: Job) -> datetime | None:
        """The newest heartbeat; None before the first one."""
        try:
            return self._query(job)
        except Exception:
            self._connection = None  # it may have been cut off: ask once more, over another
            return self._query(job)

    def _query(self, job: Job) -> datetime | None:
        is_file = job.url.startswith("sqlite")
        if self._connection is None:
            self._connection = _open_file(job.url) if is_file else _open_server(job.url)
        mark, since = ("?", self._since.replace(tzinfo=None).isoformat(" ")) if is_file else ("%s", self._since)
        cursor = self._connection.cursor()
        cursor.execute(
            f"SELECT max(latest_heartbeat) FROM job WHERE job_type = {mark} AND hostname = {mark} AND start_date >="
            f" {mark}",
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


def of_engine(port: int) -> Callable[[], Health]:
    """Ask the engine for its version, as a Spark Connect client does, over one connection that stays."""
    import grpc

    channel = grpc.insecure_channel(f"{own_host()}:{port}", options=[("grpc.enable_http_proxy", 0)])
    ask: Any = channel.unary_unary("/spark.connect.SparkConnectService/AnalyzePlan")

    def look() -> Health:
        try:
            ask(VERSION_REQUEST, timeout=ANSWER_SECONDS / 2)
        except grpc.RpcError as error:
            known: Any = error
            return Health(unready=f"the engine does not answer: {known.details()}")
        return Health()

    return look


def serve(probe: Probe, port: int) -> None:
    """Answer on that port from now on, in threads of this process."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 10

        def do_GET(self) -> None:
            health = probe.health() if self.path in ("/live", "/ready") else None
            if health is None:
                self._answer(404, "there are /live and /ready")
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

    threading.Thread(
        target=Server((settings.bind(), port), Handler).serve_forever, daemon=True, name="health-server"
    ).start()

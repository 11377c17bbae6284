"""Run one component in the foreground, for a container or a service manager: `millrace start COMPONENT`, which executes
`python -m millrace.foreground COMPONENT`.

The component writes to this process's streams, and leaves no pid file. SIGTERM or SIGINT stops it gracefully: a
scheduler starts no more tasks and waits for running ones, up to `MILLRACE_STOP_SECONDS`; the next scheduler reruns the
tasks that are killed then. `millrace.host` runs all components as one process tree.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Literal, NoReturn, get_args

from setproctitle import setproctitle

from lake import bucket, secret_files, settings
from lake.secret_files import SecretError
from lake.settings import SettingError
from millrace import components, database, environment, health, memory
from millrace.components import Component

Name = Literal[
    "api-server",
    "scheduler",
    "dag-processor",
    "triggerer",
    "features",
    "engine",
    "lake-writer",
    "feature-worker",
    "broker",
]
NAMES: tuple[Name, ...] = get_args(Name)
PR_SET_PDEATHSIG = 1
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
POLL_SECONDS = 0.5
MIGRATION_SECONDS = 300
"""How long a component waits for the metadata tables to be migrated to this version."""
KILL_POLL_SECONDS = 2.0
"""How often to check whether the kernel killed a process for lack of memory."""


def start(name: str) -> NoReturn:
    """Replace this process with the component, in the environment that it needs; SettingError for a wrong setting."""
    variables = environment.environment(settings.airflow_port(), settings.features_port(), os.environ)
    settings.stop_seconds(), settings.health_port(), settings.engine_port(), settings.is_scheduled()
    settings.starts_on_events(), settings.events_seconds()
    state = settings.home()
    for folder in ("airflow", "logs", "lineage"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    if name in components.COMMANDS:
        variables = _with_secrets(variables)
        if name == "api-server" and settings.auth() == settings.SIMPLE:
            environment.admin_password(state / "airflow")
    elif name == "features":
        variables = components.without(variables, components.HIDDEN_FROM_FEATURES)
    else:
        variables = components.without(variables, components.AIRFLOW_SECRETS)
    module = ("features.serving",) if name == "features" else ("millrace.foreground", name)
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-W", "ignore", "-m", *module], variables)


def _with_secrets(variables: dict[str, str]) -> dict[str, str]:
    """Add the shared secrets that are not set, from the home, for components of one machine.

    SettingError if they are not set and the components share a database, which may be that of several machines.
    """
    folder = settings.home() / "airflow"
    missing = environment.missing_secrets(variables)
    if missing and variables.get("MILLRACE_DATABASE") and not (folder / "secrets.json").exists():
        raise SettingError(
            f"{', '.join(missing)} not set. Components that share a database share their secrets: give all of them the"
            " same values, in these variables or in files that they name with _FILE at the end"
        )
    return {**environment.shared_secrets(folder), **variables} if missing else variables


def main(name: str) -> int:
    """Run the component until it ends or is signaled; returns its exit status."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _stop)
    try:
        secret_files.load()  # the engine's image runs this module directly, without `start`
        if name == "engine":
            return _engine()
        if name == "lake-writer":
            from millrace import lake_writer
            from millrace.cluster_writer import ClusterWriter

            return lake_writer.run(ClusterWriter)
        if name == "broker":
            from millrace import broker

            return broker.run()
        if name == "feature-worker":
            from millrace import feature_worker

            return feature_worker.run()
        if name == "api-server":  # it handles signals itself, and serves /api/v2/monitor/health
            components.import_airflow()
            _wait_for_tables()
            components.airflow(name)
            return 0
        return Foreground(name).run()
    except SystemExit as ending:
        if isinstance(ending.code, str):
            print(ending.code, file=sys.stderr, flush=True)
        return ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except (SecretError, SettingError) as error:
        print(error, file=sys.stderr, flush=True)
        return 1


def _run_component(parent: int, name: str, pipe: int) -> None:
    """Run the component in the forked child; it writes its job as JSON to `pipe` first.

    The kernel sends it SIGTERM when its parent ends, in whatever way: nothing would supervise it any longer.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return
    components.import_airflow()
    _wait_for_tables()
    os.write(pipe, json.dumps(health.read_job(name)).encode())
    os.close(pipe)
    components.airflow(name)


def _stop(_signum: int, _frame: object) -> None:
    raise SystemExit(0)


def _wait_for_tables() -> None:
    from airflow.utils.db import check_migrations

    from millrace import metadata_state

    logging.getLogger("alembic.runtime.migration").setLevel(logging.WARNING)  # it logs two lines for each read
    try:
        metadata_state.ensure_known_revision(metadata_state.read())
        check_migrations(MIGRATION_SECONDS)
        if problem := metadata_state.read().key_problem:
            raise SystemExit(problem)
    except metadata_state.NewerMetadataError as error:
        raise SystemExit(str(error)) from None
    except TimeoutError as error:
        raise SystemExit(
            f"The metadata database is not of this version: {error}. Migrate it (`millrace migrate`), with the newest"
            " image"
        ) from None
    except Exception as error:
        reason, remedy = database.explain(error)
        raise SystemExit(f"The metadata database cannot be used: {reason}. {remedy}") from None


class Foreground:
    """Supervises a forked component and serves its health. This process does not import Airflow, to stay small."""

    def __init__(self, name: str) -> None:
        self._read_end, write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        self._write_end: int = write_end
        self._component = Component(name, partial(_run_component, os.getpid(), name, write_end), keeps_log=False)
        self._job: health.Job | None = None
        self._killed = False
        self._kills = 0
        self._probe = health.Probe(health.heartbeat_check(name, datetime.now(UTC), self._known_job))

    def run(self) -> int:
        """Wait until the component has ended; returns 0 if it was signaled and ended in time."""
        self._component.start()
        os.close(self._write_end)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._end)
        signal.signal(signal.SIGALRM, self._kill)
        setproctitle(f"millrace {self._component.name} (health)")
        # Threads inherit the mask: a signal delivered to one of them would not interrupt this thread's wait.
        signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
        health.serve(self._probe, settings.health_port())
        threading.Thread(target=self._watch_memory, daemon=True, name="memory").start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        status = self._wait()
        components.kill_orphans(self._component)
        self._report_kills()
        if self._probe.ending and not self._killed:
            return 0
        print(
            f"The {self._component.name} {components.how_it_ended(self._component, status)}",
            file=sys.stderr,
            flush=True,
        )
        code = os.waitstatus_to_exitcode(status)
        return 128 - code if code < 0 else code or 1

    def _known_job(self) -> health.Job | None:
        """The component's job, as it wrote it to the pipe; None until it has."""
        if self._job is None:
            with suppress(BlockingIOError):
                self._job = health.Job(*json.loads(os.read(self._read_end, 65536) or "null"))
        return self._job

    def _watch_memory(self) -> None:
        while True:
            self._report_kills()
            time.sleep(KILL_POLL_SECONDS)

    def _report_kills(self) -> None:
        """Print that the kernel has killed processes: a killed task cannot say so itself."""
        count = memory.kills()
        if count > self._kills and (reason := memory.killed(self._component.name)):
            self._kills = count
            print(f"{reason[0].upper()}{reason[1:]}", file=sys.stderr, flush=True)

    def _wait(self) -> int:
        """Reap children until the component ends, including orphans if this is the first process of a container."""
        while True:
            pid, status = os.wait()
            if pid == self._component.pid:
                return status

    def _end(self, _signum: int, _frame: object) -> None:
        if not self._probe.ending:
            self._probe.ending = f"the {self._component.name} is ending"
            signal.alarm(settings.stop_seconds())
            with suppress(ProcessLookupError):
                os.kill(self._component.pid, signal.SIGTERM)

    def _kill(self, _signum: int, _frame: object) -> None:
        self._killed = True
        self._component.kill(signal.SIGKILL)


def _engine() -> int:
    """Run a Spark Connect server: Sail in this process or, with `MILLRACE_ENGINE=spark`, Spark in a child process."""
    setproctitle("millrace engine")
    bucket.set_environment()  # for Sail; building a path of the lake would do it, but nothing here does
    ended = threading.Event()
    stop: Callable[[int, object], None] = lambda _signum, _frame: ended.set()  # noqa: E731
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    port = settings.engine_port()
    probe = health.Probe(health.engine_check(port))
    health.serve(probe, settings.health_port())
    run = _spark if settings.engine() == "spark" else _sail
    return run(port, ended, probe)


def _sail(port: int, ended: threading.Event, probe: health.Probe) -> int:
    from etl import engine

    server = engine.start_sail(settings.bind(), port)
    print(f"Sail answers Spark Connect on {settings.bind()}:{port}", flush=True)
    ended.wait()
    probe.ending = "the engine is ending"
    server.stop()
    return 0


def _spark(port: int, ended: threading.Event, probe: health.Probe) -> int:
    """Run Spark until it is stopped or ends. If it ends by itself so does this process, and the container restarts."""
    from etl.spark import SparkError, server

    try:
        spark = subprocess.Popen(server.command(port), env=server.environment(), stdin=subprocess.DEVNULL)
    except SparkError as error:
        raise SystemExit(str(error)) from None
    while not ended.wait(POLL_SECONDS):
        if (status := spark.poll()) is not None:
            print(f"Spark ended with exit status {status}", file=sys.stderr, flush=True)
            return status if status > 0 else 1
    probe.ending = "the engine is ending"
    server.stop(spark)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

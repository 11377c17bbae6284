"""One component in the foreground, for a container or a service manager: `millrace start COMPONENT`, which becomes
`python -m millrace.foreground COMPONENT`.

Its output goes where this process's goes, no file tells of it, and SIGTERM or SIGINT ends it in good order: a scheduler
starts no more tasks and waits for those at work, for `MILLRACE_STOP_SECONDS` in all. What is killed then is run again
by the next scheduler. `millrace.host` runs all components as one tree.
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
from millrace import components, environment, health, memory
from millrace.components import Component

Name = Literal["api-server", "scheduler", "dag-processor", "triggerer", "features", "engine"]
NAMES: tuple[Name, ...] = get_args(Name)
PR_SET_PDEATHSIG = 1
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGALRM)
POLL_SECONDS = 0.5
MIGRATION_SECONDS = 300
"""A component waits for so long for the metadata tables to be there and of this version."""
KILLS_SECONDS = 2.0
"""So often it is looked whether the kernel killed something for lack of memory."""


def start(name: str) -> NoReturn:
    """Become the component, with the environment that it needs; SettingError where a setting is wrong."""
    variables = environment.environment(settings.airflow_port(), settings.features_port(), os.environ)
    settings.stop_seconds(), settings.health_port(), settings.engine_port(), settings.is_scheduled()
    state = settings.home()
    for folder in ("airflow", "logs", "lineage"):
        (state / folder).mkdir(parents=True, exist_ok=True)
    if name in components.COMMANDS:
        variables = _with_secrets(variables)
        if name == "api-server" and settings.auth() == settings.SIMPLE:
            environment.admin_password(state / "airflow")
    elif name == "features":
        variables = components.without(variables, components.NOT_FOR_FEATURES)
    else:
        variables = components.without(variables, components.AIRFLOWS)
    module = ("features.serving",) if name == "features" else ("millrace.foreground", name)
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-W", "ignore", "-m", *module], variables)


def _with_secrets(variables: dict[str, str]) -> dict[str, str]:
    """Those that the caller gives, or those of the home, which components of one machine share."""
    folder = settings.home() / "airflow"
    missing = environment.missing_secrets(variables)
    if missing and variables.get("MILLRACE_DATABASE") and not (folder / "secrets.json").exists():
        raise SettingError(
            f"{', '.join(missing)} not set. Components that share a database share their secrets: give all of them the"
            " same values, in these variables or in files that they name with _FILE at the end"
        )
    return {**environment.shared_secrets(folder), **variables} if missing else variables


def main(name: str) -> int:
    """Be the component until it ends or is asked to; its exit status."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _stop)
    try:
        secret_files.load()  # where nobody called `start`: the image of the engine holds no more than this module needs
        if name == "engine":
            return _engine()
        if name == "api-server":  # it ends by itself on a signal, and answers /api/v2/monitor/health
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


def _beside(parent: int, name: str, facts: int) -> None:
    """The component, which says where its heartbeat will be, and is asked to end when its parent is gone, however that
    ended: nobody would watch it.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        return
    components.import_airflow()
    _wait_for_tables()
    os.write(facts, json.dumps(health.job_of(name)).encode())
    os.close(facts)
    components.airflow(name)


def _stop(_signum: int, _frame: object) -> None:
    raise SystemExit(0)


def _wait_for_tables() -> None:
    from airflow.utils.db import check_migrations

    from millrace import metadata_state

    logging.getLogger("alembic.runtime.migration").setLevel(
        logging.WARNING
    )  # it says twice for each look that it looks
    try:
        metadata_state.refuse_newer(metadata_state.look())
        check_migrations(MIGRATION_SECONDS)
        if problem := metadata_state.look().other_keys:
            raise SystemExit(problem)
    except metadata_state.NewerMetadataError as error:
        raise SystemExit(str(error)) from None
    except TimeoutError as error:
        raise SystemExit(
            f"The metadata database is not of this version: {error}. Migrate it (`millrace migrate`), with the newest"
            " image"
        ) from None
    except Exception as error:
        raise SystemExit(f"The metadata database cannot be used: {health.told(error)}") from None


class Foreground:
    """A forked component, its health server, and its end. This process imports no Airflow, and stays small."""

    def __init__(self, name: str) -> None:
        self._facts, told = os.pipe()
        os.set_blocking(self._facts, False)
        self._told: int = told
        self._component = Component(name, partial(_beside, os.getpid(), name, told), keeps_log=False)
        self._job: health.Job | None = None
        self._killed = False
        self._kills = 0
        self._probe = health.Probe(health.of_job(name, datetime.now(UTC), self._known_job))

    def run(self) -> int:
        """Until the component has ended; 0 when it was asked to and did so in time."""
        self._component.start()
        os.close(self._told)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, self._end)
        signal.signal(signal.SIGALRM, self._kill)
        setproctitle(f"millrace {self._component.name} (health)")
        signal.pthread_sigmask(
            signal.SIG_BLOCK, HANDLED
        )  # threads inherit it: a signal that one of them got would not wake this one from its wait
        health.serve(self._probe, settings.health_port())
        threading.Thread(target=self._watch_memory, daemon=True, name="memory").start()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HANDLED)
        status = self._wait()
        components.kill_orphans(self._component)
        self._tell_kills()
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
        """What the component said about its job; None until it has."""
        if self._job is None:
            with suppress(BlockingIOError):
                self._job = health.Job(*json.loads(os.read(self._facts, 65536) or "null"))
        return self._job

    def _watch_memory(self) -> None:
        while True:
            self._tell_kills()
            time.sleep(KILLS_SECONDS)

    def _tell_kills(self) -> None:
        """A task that the kernel kills cannot say so itself."""
        count = memory.kills()
        if count > self._kills and (reason := memory.killed(self._component.name)):
            self._kills = count
            print(f"{reason[0].upper()}{reason[1:]}", file=sys.stderr, flush=True)

    def _wait(self) -> int:
        """Reap what ends, orphans too where this is the first process of a container, until the component has."""
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
    """Sail as a Spark Connect server, in this process, or with `MILLRACE_ENGINE=spark` the Spark of this machine, below
    it.
    """
    setproctitle("millrace engine")
    bucket.set_environment()  # for Sail: no path of a lake is made here, which would do so
    ended = threading.Event()
    stop: Callable[[int, object], None] = lambda _signum, _frame: ended.set()  # noqa: E731
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, stop)
    port = settings.engine_port()
    probe = health.Probe(health.of_engine(port))
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
    """Ends with Spark: whoever keeps the container starts both again."""
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

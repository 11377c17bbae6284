"""The process that holds Airflow: it imports Airflow once and forks the components from there.

`airflow standalone` starts five interpreters, and each imports Airflow again. Forking from one process pays that once, shares the
memory, and makes a component that dies cheap to start again. It runs in the foreground (`python -m dags.host`) and reads its
configuration from the environment, which `dags.services` prepares. How Airflow is configured does not belong here.
"""

import gc
import importlib
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from setproctitle import setproctitle

from contracts import settings
from contracts.files import write_whole

PRELOAD = (
    "airflow.providers.openlineage.plugins.listener",
    "airflow.providers.standard.operators.python",
    "pyspark.sql.connect.session",
    "pyspark.sql.connect.functions",
    "pysail.spark",
    "deltalake",
    "duckdb",
    "pandas",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "great_expectations",
    "feast",
)
"""What tasks import, imported once by the scheduler: LocalExecutor forks its workers from the scheduler, and each task from a worker.

Only modules whose import starts nothing that a fork would break may stand here, and none of ours: the scheduler would keep old code.
"""

COMMANDS = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
AIRFLOWS = ("AIRFLOW", "_AIRFLOW")
"""Variables with secrets of Airflow's: keys, connections, addresses with passwords. What is not Airflow does not get them."""
RESTARTS = "restarts.json"
"""What the host writes about components that died, below `run` in the home."""
GARBAGE_THRESHOLDS = (50_000, 10, 10)
"""Python's default of 700 new objects makes every import walk all that was imported before: a third of the time to start."""

STOP_SECONDS = 8.0
HEALTHY_SECONDS = 30.0
"""A component that lived this long is started again when it dies; one that dies earlier ends the host."""


@dataclass
class Component:
    """A forked child: its name, how to run it, and its process while it has one."""

    name: str
    run: Callable[[], None]
    pid: int = 0
    started: float = field(default=0.0)
    restarts: int = 0
    why: str = ""

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return Path(os.environ["MILLRACE_LOGS"]) / f"{self.name}.log"

    def start(self) -> None:
        """Fork it, in a process group of its own."""
        self.started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            _become(self)

    def kill(self, signum: signal.Signals) -> None:
        """Signal its whole process group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signum)


def main() -> int:
    """Start every component, keep them running, and end them all on SIGTERM or SIGINT."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _stop)
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    importlib.import_module("airflow.__main__")
    gc.freeze()
    components = {name: Component(name, _airflow(name)) for name in COMMANDS}
    try:
        components["api-server"].start()  # the slowest to start, and it needs no table before its first request
        if failure := _run_to_end(Component("database", _prepare_database)):
            return _report(failure)
        if settings.engine() == "spark":
            components["spark"] = Component("spark", _spark)
        components["features"] = Component("features", _features)
        for name in ("spark", "scheduler", "dag-processor", "features", "triggerer"):
            if name in components:
                components[name].start()
        return _supervise(components)
    finally:
        _end(list(components.values()))


def _stop(signum: int, _frame: object) -> None:
    raise SystemExit(0 if signum == signal.SIGTERM else 128 + signum)


def _airflow(name: str) -> Callable[[], None]:
    def run() -> None:
        from airflow.__main__ import main as airflow

        setproctitle(f"millrace {name}")
        if name == "scheduler" and sys.platform != "darwin":  # on macOS Airflow starts a new interpreter for each task
            _preload()
        sys.argv = ["airflow", *COMMANDS[name]]
        airflow()

    return run


def _spark() -> None:
    """Become the Spark Connect server that all tasks share."""
    from etl.spark import server

    port = server.free_port()
    arguments = server.command(port)
    server.record(os.getpid(), port)
    os.execvpe(arguments[0], arguments, without(server.environment(), AIRFLOWS))


def _features() -> None:
    """Become the feature server: a new program, since the environment that /proc shows of a forked one still has Airflow's keys."""
    os.execve(sys.executable, [sys.executable, "-m", "features.serving"], without(os.environ, (*AIRFLOWS, "OPENLINEAGE")))


def without(environment: Mapping[str, str], prefixes: tuple[str, ...]) -> dict[str, str]:
    """The variables whose names begin with none of these."""
    return {name: value for name, value in environment.items() if not name.upper().startswith(prefixes)}


def _preload() -> None:
    started = time.monotonic()
    logging.getLogger("great_expectations").setLevel(logging.WARNING)  # its import logs hundreds of lines
    for name in PRELOAD:
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"{name} is not preloaded, tasks will import it themselves: {error}", flush=True)
    print(f"Preloaded {len(PRELOAD)} modules in {time.monotonic() - started:.1f} s", flush=True)


def _prepare_database() -> None:
    """Create the metadata tables, or migrate them, as `airflow standalone` does."""
    from airflow.settings import SQL_ALCHEMY_CONN
    from airflow.utils.db import initdb

    initdb()
    if SQL_ALCHEMY_CONN and SQL_ALCHEMY_CONN.startswith("sqlite:///"):
        _use_write_ahead_log(SQL_ALCHEMY_CONN.removeprefix("sqlite:///"))


def _use_write_ahead_log(path: str) -> None:
    """Let readers and the one writer of the SQLite file go on at the same time; the file remembers it."""
    import sqlite3

    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    connection.close()


def _become(component: Component) -> None:
    """Turn this forked child into the component; never returns."""
    status = 1
    try:
        os.setpgid(0, 0)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, signal.SIG_DFL)
        output = os.open(component.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.close(output)
        component.run()
        status = 0
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _run_to_end(component: Component) -> str | None:
    """Run a component that ends by itself; the sentence about its failure, if it failed."""
    component.start()
    _, status = os.waitpid(component.pid, 0)
    return _failure(component, status) if status else None


def _supervise(components: dict[str, Component]) -> int:
    """Wait for children for as long as all of them live, and start one again that dies."""
    while True:
        pid, status = os.wait()
        component = next((c for c in components.values() if c.pid == pid), None)
        if component is None:
            continue
        failure = _failure(component, status)
        _kill_orphans(component)
        if time.monotonic() - component.started < HEALTHY_SECONDS:
            return _report(failure)
        print(f"{failure}\nStarting {component.name} again.", flush=True)
        component.restarts += 1
        component.why = _how(component, status)
        _note_restarts(components.values())
        component.start()


def _note_restarts(components: Iterable[Component]) -> None:
    """Let `make status` tell which components died; a full disk is no reason to end the others."""
    dead = {component.name: {"times": component.restarts, "why": component.why} for component in components if component.restarts}
    with suppress(OSError):
        write_whole(settings.home() / "run" / RESTARTS, json.dumps({"host": os.getpid(), "components": dead}).encode())


def _kill_orphans(component: Component) -> None:
    """End what a dead component left behind: a scheduler's workers, and the tasks below them."""
    group = [process for process in psutil.process_iter() if _group(process.pid) == component.pid]
    orphans = {child for process in group for child in (process, *_children(process))}
    for process in orphans:
        with suppress(psutil.Error):
            process.kill()


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except OSError:
        return None


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.Error:
        return []


def _failure(component: Component, status: int) -> str:
    return f"{component.name} {_how(component, status)}. The end of {component.log}:\n{tail(component.log)}"


def _how(component: Component, status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
    return f"{how} after {time.monotonic() - component.started:.0f} s"


def _report(failure: str) -> int:
    print(failure, file=sys.stderr, flush=True)
    return 1


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, or a note that there are none."""
    with suppress(OSError):
        text = path.read_text(errors="replace").strip()
        if text:
            return "\n".join(text.splitlines()[-lines:])
    return "(nothing was written)"


def _end(components: list[Component]) -> None:
    """Ask every component to end, wait, and kill what is left."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)
    running = [component for component in components if component.pid]
    for component in running:
        with suppress(ProcessLookupError):
            os.kill(component.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline and not _all_reaped():
        time.sleep(0.05)
    for component in running:
        component.kill(signal.SIGKILL)


def _all_reaped() -> bool:
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())

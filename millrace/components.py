"""The components: Airflow's, the feature server and Spark. A function per component runs it in the current process; a
`Component` runs such a function in a forked child.

`millrace.host` runs all of them as one process tree, `millrace.foreground` one of them in the foreground. Their
configuration is in `millrace.environment`.
"""

import gc
import importlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from setproctitle import setproctitle

from millrace import memory

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
"""Modules that the scheduler imports once for all tasks: LocalExecutor forks its workers from the scheduler, and each
task from a worker.

Their import must not start threads or connections, which a fork would break. Millrace's own modules are left out: the
scheduler would keep old code.
"""

COMMANDS = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
AIRFLOW_SECRETS = ("AIRFLOW", "_AIRFLOW", "MILLRACE_DATABASE", "MILLRACE_ADMIN")
"""Prefixes of variables with Airflow's secrets: keys, connections, URLs with passwords. Other components do not get
them.
"""
HIDDEN_FROM_FEATURES = (*AIRFLOW_SECRETS, "OPENLINEAGE")
GARBAGE_THRESHOLDS = (50_000, 10, 10)
"""Python's default of 700 new objects makes every import traverse all earlier imports: a third of the start time."""


@dataclass
class Component:
    """A forked child: its name, how to run it, and its process while it runs."""

    name: str
    run: Callable[[], None]
    pid: int = 0
    started: float = field(default=0.0)
    restarts: int = 0
    why: str = ""
    keeps_log: bool = True
    """Whether its output goes to a log file; otherwise it goes to this process's streams."""

    @property
    def log(self) -> Path:
        """Its log file."""
        return Path(os.environ["MILLRACE_LOGS"]) / f"{self.name}.log"

    def start(self) -> None:
        """Fork it, in a process group of its own."""
        self.started = time.monotonic()
        self.pid = os.fork()
        if self.pid == 0:
            _run_in_child(self)

    def kill(self, signum: signal.Signals) -> None:
        """Signal its whole process group."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signum)


def airflow(name: str) -> None:
    """Run one of Airflow's components in this process; returns or raises SystemExit when it ends."""
    from airflow.__main__ import main as run

    setproctitle(f"millrace {name}")
    if name == "scheduler" and sys.platform != "darwin":  # on macOS Airflow starts a new interpreter for each task
        _preload()
        memory.kill_tasks_first()
    sys.argv = ["airflow", *COMMANDS[name]]
    run()


def import_airflow() -> None:
    """Import Airflow once, for this process and its forks."""
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    importlib.import_module("airflow.__main__")
    gc.freeze()


def spark() -> None:
    """Replace this process with the Spark Connect server that all tasks share."""
    from etl.spark import server

    port = server.free_port()
    arguments = server.command(port)
    server.record(os.getpid(), port)
    os.execvpe(arguments[0], arguments, without(server.environment(), AIRFLOW_SECRETS))


def features() -> None:
    """Replace this process with the feature server, as a new program: /proc would show a fork's original environment,
    with Airflow's keys.
    """
    os.execve(sys.executable, [sys.executable, "-m", "features.serving"], without(os.environ, HIDDEN_FROM_FEATURES))


def without(environment: Mapping[str, str], prefixes: tuple[str, ...]) -> dict[str, str]:
    """The variables whose names start with none of these prefixes."""
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


def _run_in_child(component: Component) -> None:
    """Run the component in this forked child; never returns."""
    status = 1
    try:
        os.setpgid(0, 0)
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, signal.SIG_DFL)
        if component.keeps_log:
            output = os.open(component.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.close(output)
        component.run()
        status = 0
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else int(error.code is not None)
        if isinstance(error.code, str):
            print(error.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def kill_orphans(component: Component) -> None:
    """Kill what a dead component left running: a scheduler's workers and their tasks."""
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


def failure(component: Component, status: int) -> str:
    """A message about how a component ended, with the last lines of its log."""
    return f"{component.name} {how_it_ended(component, status)}. The end of {component.log}:\n{tail(component.log)}"


def how_it_ended(component: Component, status: int) -> str:
    """How a component ended, as a predicate: `was ended by SIGKILL after 75 s`."""
    code = os.waitstatus_to_exitcode(status)
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
    return f"{how} after {time.monotonic() - component.started:.0f} s"


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, or a note that it is empty."""
    with suppress(OSError):
        text = path.read_text(errors="replace").strip()
        if text:
            return "\n".join(text.splitlines()[-lines:])
    return "(nothing was written)"

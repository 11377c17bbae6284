"""What runs: Airflow's components, the feature server and the engine, each as a function that becomes it, and as a
forked child.

`millrace.host` runs all of them as one process tree, `millrace.foreground` one of them in the foreground. How they are
configured is in `millrace.environment`.
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
"""What tasks import, imported once by the scheduler: LocalExecutor forks its workers from the scheduler, and each task
from a worker.

Only modules whose import starts nothing that a fork would break may stand here, and none of ours: the scheduler would
keep old code.
"""

COMMANDS = {
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
AIRFLOWS = ("AIRFLOW", "_AIRFLOW", "MILLRACE_DATABASE", "MILLRACE_ADMIN")
"""Variables with secrets of Airflow's: keys, connections, addresses with passwords. What is not Airflow does not get
them.
"""
NOT_FOR_FEATURES = (*AIRFLOWS, "OPENLINEAGE")
GARBAGE_THRESHOLDS = (50_000, 10, 10)
"""Python's default of 700 new objects makes every import walk all that was imported before: a third of the time to
start.
"""


@dataclass
class Component:
    """A forked child: its name, how to run it, and its process while it has one."""

    name: str
    run: Callable[[], None]
    pid: int = 0
    started: float = field(default=0.0)
    restarts: int = 0
    why: str = ""
    keeps_log: bool = True
    """Its output goes to a file, and not to where this process's own goes."""

    @property
    def log(self) -> Path:
        """The file."""
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


def airflow(name: str) -> None:
    """Become one of Airflow's components, in this process; returns or raises SystemExit at its end."""
    from airflow.__main__ import main as run

    setproctitle(f"millrace {name}")
    if name == "scheduler" and sys.platform != "darwin":  # on macOS Airflow starts a new interpreter for each task
        _preload()
        memory.kill_tasks_first()
    sys.argv = ["airflow", *COMMANDS[name]]
    run()


def import_airflow() -> None:
    """Import Airflow once, for this process and those that are forked from it."""
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    importlib.import_module("airflow.__main__")
    gc.freeze()


def spark() -> None:
    """Become the Spark Connect server that all tasks share."""
    from etl.spark import server

    port = server.free_port()
    arguments = server.command(port)
    server.record(os.getpid(), port)
    os.execvpe(arguments[0], arguments, without(server.environment(), AIRFLOWS))


def features() -> None:
    """Become the feature server: a new program, since the environment that /proc shows of a forked one still has
    Airflow's keys.
    """
    os.execve(sys.executable, [sys.executable, "-m", "features.serving"], without(os.environ, NOT_FOR_FEATURES))


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


def _become(component: Component) -> None:
    """Turn this forked child into the component; never returns."""
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
    except SystemExit as ending:
        status = ending.code if isinstance(ending.code, int) else int(ending.code is not None)
        if isinstance(ending.code, str):
            print(ending.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def kill_orphans(component: Component) -> None:
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


def failure(component: Component, status: int) -> str:
    """A sentence about the end of a component, with the end of its log."""
    return f"{component.name} {how_it_ended(component, status)}. The end of {component.log}:\n{tail(component.log)}"


def how_it_ended(component: Component, status: int) -> str:
    """The same without its name and log: `was ended by SIGKILL after 75 s`."""
    code = os.waitstatus_to_exitcode(status)
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
    return f"{how} after {time.monotonic() - component.started:.0f} s"


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, or a note that there are none."""
    with suppress(OSError):
        text = path.read_text(errors="replace").strip()
        if text:
            return "\n".join(text.splitlines()[-lines:])
    return "(nothing was written)"

"""Operations in processes of their own, each the leader of a process group that is killed as a whole.

Most are forks of a server that has imported everything and done nothing else: they start in milliseconds, and the kill
hits the operation rather than its imports. A share of them is the real `python -m millrace ...`, killed by the clock.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from lake import settings
from tests.chaos import kill_points
from tests.chaos.kill_points import KillPoint, KillPointMonitor

PRELOADED = (
    "deltalake",
    "duckdb",
    "pyarrow.dataset",
    "pyarrow.csv",
    "pysail.spark",
    "pyspark.sql.connect.session",
    "great_expectations",
    "feast",
    "sqlite3",
    "millrace.cli",
    "etl.stage",
    "etl.quarantine",
    "lake.commits.delta_rs",
    "expectations.docs",
    "expectations.audit",
    "lineage.record",
    "features.online.materialize",
    "features.training",
    "features.online.sqlite",
    "features.feast_repo.definitions",
    "features.offline.store",
    "tests.chaos.online",
    "tests.chaos.sabotage",
    "tests.chaos.episode",
)
KILLED = (-signal.SIGKILL, -signal.SIGALRM)
LIMIT_SECONDS = 600
"""An operation that takes longer hangs, which is an error too."""


@dataclass(frozen=True)
class Home:
    """A home and the landing zone that it shares with the home it is compared with."""

    path: Path
    landing: Path

    @property
    def environment(self) -> dict[str, str]:
        """The variables that point a process at this home."""
        return {
            "MILLRACE_HOME": str(self.path),
            "MILLRACE_LANDING": str(self.landing),
            "GX_ANALYTICS_ENABLED": "false",
            "RUST_LOG": "error",
        }

    @contextlib.contextmanager
    def here(self):  # type: ignore[no-untyped-def]
        """This process uses the home inside the block."""
        before = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        try:
            yield
        finally:  # other variables stay: PySpark keeps its mode in one
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


@dataclass(frozen=True)
class RunOptions:
    """How a command runs.

    Dies at a kill point, writes the list of kill points that it passed, renders Data Docs or not (a third of a run's
    time), has a guard broken.
    """

    die_at: KillPoint | None = None
    delay: float = 0.0
    record: Path | None = None
    pages: bool = True
    sabotage: str = ""


def isolate() -> None:
    """Drop what the caller's environment says about a lake, an engine or a store."""
    for name in [name for name in os.environ if name.startswith(("MILLRACE_", "OPENLINEAGE_", "AWS_"))]:
        del os.environ[name]


def server() -> Any:
    """The context of the fork server, which imports once, at the first start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


@dataclass
class Operation:
    """A running command."""

    pid: int
    log: Path
    mark: Path
    process: Any
    started: float = field(default_factory=time.monotonic)

    def kill(self) -> bool:
        """Kill the whole process group. Returns False when it is gone already."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def wait(self, seconds: float = LIMIT_SECONDS) -> int | None:
        """Exit code, or minus the signal; None when it is still running after so many seconds."""
        if isinstance(self.process, subprocess.Popen):
            try:
                return self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                return None
        self.process.join(seconds)
        code: int | None = self.process.exitcode
        return code

    def end(self) -> int:
        """Wait for the exit code, then kill what is left of the group. TimeoutError when it hangs."""
        code = self.wait()
        self.kill()
        if code is None:
            self.wait(10)
            raise TimeoutError(f"it did not end within {LIMIT_SECONDS} s")
        return code

    @property
    def last_point(self) -> KillPoint | None:
        """The last kill point it passed; None for a real process, which has none."""
        return kill_points.last(self.mark)

    @property
    def output(self) -> str:
        """The end of its output."""
        return self.log.read_text(errors="replace")[-2000:]


class Runner:
    """Starts commands; their output lies in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count, self.server = folder, 0, server()
        self.started: list[Operation] = []
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, home: Home, command: Sequence[str], options: RunOptions = RunOptions()) -> Operation:
        """Run the command in a fork. Returns once the fork leads a group of its own."""
        log, mark = self._files()
        ready, there = self.server.Pipe(duplex=False)
        process = self.server.Process(
            target=run_command, args=(home, tuple(command), options, log, mark, there), daemon=True
        )
        process.start()
        there.close()
        with contextlib.suppress(EOFError):
            ready.recv()
        return self._started(Operation(process.pid, log, mark, process))

    def start_real(self, home: Home, command: Sequence[str]) -> Operation:
        """Run `python -m millrace ...`, as a user does."""
        log, mark = self._files()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "millrace", *command],
                cwd=settings.CHECKOUT,
                env={**os.environ, **home.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self._started(Operation(process.pid, log, mark, process))

    def close(self) -> None:
        """Kill what still runs, as after an interrupt."""
        for operation in self.started:
            if operation.wait(0) is None:
                operation.kill()

    def _started(self, operation: Operation) -> Operation:
        self.started = [*(other for other in self.started if other.wait(0) is None), operation]
        return operation

    def _files(self) -> tuple[Path, Path]:
        self.count += 1
        return self.folder / f"{self.count:04}.log", self.folder / f"{self.count:04}.mark"


def run_command(home: Home, command: tuple[str, ...], options: RunOptions, log: Path, mark: Path, ready: Any) -> None:
    """The fork: run the command of the CLI and exit with its code."""
    os.setsid()
    os.environ.update(home.environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    from expectations import docs
    from millrace import cli
    from tests.chaos import sabotage

    cli._age = _any_age
    if not options.pages:
        docs.render = docs.index
    sabotage.apply(options.sabotage)
    monitor = KillPointMonitor(home.path, mark, options.die_at, options.delay)
    monitor.install()
    ready.send(True)
    ready.close()
    code = 3
    try:
        code = cli.main(list(command))
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        if options.record:
            options.record.write_text(json.dumps(monitor.passed))
        os._exit(code)


def _any_age(days: int) -> timedelta:
    """`--days` with a default of zero: all files of an episode are seconds old, and a vacuum would spare them."""
    from millrace import cli

    return timedelta(0 if days == cli.KEPT_DAYS else days)

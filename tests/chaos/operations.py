"""Operations in processes of their own, each the leader of a group that is killed as a whole.

Most are forks of a process that has imported everything and done nothing else (a fork server): a start costs milliseconds and not five seconds, and the kill falls into the operation. A share are
the real thing, `python -m dags ...`, killed by the clock, imports and all.
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

from contracts import settings
from tests.chaos import points
from tests.chaos.points import Point, Watch

PRELOADED = (
    "deltalake", "duckdb", "pyarrow.dataset", "pyarrow.csv", "pysail.spark", "pyspark.sql.connect.session", "great_expectations", "feast", "sqlite3", "dags.cli", "etl.stage",
    "etl.quarantine", "etl.commits.delta_rs", "expectations.docs", "expectations.audit", "lineage.record", "features.materialize", "features.training", "features.online.sqlite",
    "features.feast_repo.definitions", "features.offline_store", "tests.chaos.operations", "tests.chaos.online", "tests.chaos.sabotage",
)  # fmt: skip
KILLED = (-signal.SIGKILL, -signal.SIGALRM)
LIMIT_SECONDS = 600
"""An operation that hangs is an error, too."""


@dataclass(frozen=True)
class Home:
    """A home, and the landing zone that it shares with the one it is compared with."""

    path: Path
    landing: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to use it, and nothing of the caller's."""
        return {"MILLRACE_HOME": str(self.path), "MILLRACE_LANDING": str(self.landing), "GX_ANALYTICS_ENABLED": "false", "RUST_LOG": "error"}

    @contextlib.contextmanager
    def here(self):  # type: ignore[no-untyped-def]
        """Use it in this process."""
        before = dict(os.environ)
        os.environ.update(self.environment)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


@dataclass(frozen=True)
class Orders:
    """What a process does besides its command: die at a point, write down all points it passed, leave out the pages of the Data Docs (a third of a run's time), work with a guard broken."""

    die_at: Point | None = None
    delay: float = 0.0
    record: Path | None = None
    pages: bool = True
    sabotage: str = ""


def server() -> Any:
    """The fork server's context; it imports once, on the first start."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(PRELOADED))
    return context


@dataclass
class Operation:
    """A command under way."""

    pid: int
    log: Path
    mark: Path
    process: Any
    started: float = field(default_factory=time.monotonic)

    def kill(self) -> bool:
        """Kill its whole group; whether there still was one."""
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def wait(self, seconds: float = LIMIT_SECONDS) -> int | None:
        """Its exit code, minus the signal; None while it runs on."""
        if isinstance(self.process, subprocess.Popen):
            try:
                return self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                return None
        self.process.join(seconds)
        code: int | None = self.process.exitcode
        return code

    def end(self) -> int:
        """Wait for its end, and for nothing of its group to be left. TimeoutError when it hangs."""
        code = self.wait()
        self.kill()
        if code is None:
            self.wait(10)
            raise TimeoutError(f"it did not end within {LIMIT_SECONDS} s")
        return code

    @property
    def last_point(self) -> Point | None:
        """The last point it passed."""
        return points.last(self.mark)

    @property
    def said(self) -> str:
        """The last of what it printed."""
        return self.log.read_text(errors="replace")[-2000:]


class Runner:
    """Starts commands; logs and marks lie in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count, self.server = folder, 0, server()
        folder.mkdir(parents=True, exist_ok=True)

    def start(self, home: Home, command: Sequence[str], orders: Orders = Orders()) -> Operation:
        """A fork that runs the command; returns once it leads a group of its own."""
        log, mark = self._files()
        ready, there = self.server.Pipe(duplex=False)
        process = self.server.Process(target=perform, args=(home, tuple(command), orders, log, mark, there), daemon=True)
        process.start()
        there.close()
        with contextlib.suppress(EOFError):
            ready.recv()
        return Operation(process.pid, log, mark, process)

    def start_real(self, home: Home, command: Sequence[str]) -> Operation:
        """`python -m dags ...`, as a user would."""
        log, mark = self._files()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "dags", *command],
                cwd=settings.CHECKOUT,
                env={**os.environ, **home.environment},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Operation(process.pid, log, mark, process)

    def _files(self) -> tuple[Path, Path]:
        self.count += 1
        return self.folder / f"{self.count:04}.log", self.folder / f"{self.count:04}.mark"


def perform(home: Home, command: tuple[str, ...], orders: Orders, log: Path, mark: Path, ready: Any) -> None:
    """In the fork: run the command and leave as a program would."""
    os.setsid()
    os.environ.update(home.environment)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    from dags import cli
    from expectations import docs
    from tests.chaos import sabotage

    cli._days = _any_age
    if not orders.pages:
        docs.render = docs.index
    sabotage.apply(orders.sabotage)
    watch = Watch(home.path, mark, orders.die_at, orders.delay)
    watch.install()
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
        if orders.record:
            orders.record.write_text(json.dumps(watch.passed))
        os._exit(code)


def _any_age(text: str) -> timedelta:
    """`--days` as ever, but for the default: an episode lasts seconds, and its files would all be too young to go."""
    from dags import arguments, cli

    return timedelta(0) if text == cli.KEPT_DAYS else timedelta(days=arguments.count("a number of days")(text))

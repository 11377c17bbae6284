"""Processes that are killed, stopped and started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from etl.spark.server import free_port
from lake import settings


@dataclass
class Killable:
    """A `python -m ...` that is started again after a kill."""

    name: str
    arguments: tuple[str, ...]
    folder: Path
    variables: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What it has said, over all its starts."""
        return self.folder / f"{self.name}.log"

    @property
    def is_alive(self) -> bool:
        """Whether it runs, or is stopped."""
        return self.process is not None and self.process.poll() is None

    def start(self, **variables: str) -> None:
        """Start it in a process group of its own."""
        environment = {**os.environ, "MILLRACE_HEALTH_PORT": str(free_port()), **self.variables, **variables}
        command = [sys.executable, "-W", "ignore", "-m", *self.arguments]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                command, env=environment, cwd=settings.CHECKOUT, stdout=output, stderr=output, start_new_session=True
            )

    def signal(self, signum: signal.Signals) -> None:
        """Send it, and its children, a signal."""
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signum)

    def kill(self) -> None:
        """As `kill -9` does."""
        self.signal(signal.SIGKILL)
        if self.process is not None:
            self.process.wait()

    def terminate(self, seconds: float = 60) -> int:
        """End it, and return its exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)

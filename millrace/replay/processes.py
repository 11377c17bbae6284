"""Run components beside this process for as long as it takes: the broker, the lake writer and the feature worker of a
replay.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from etl.spark.server import free_port
from lake import settings
from millrace import foreground
from millrace.components import tail

START_SECONDS = 180.0
STOP_SECONDS = 30.0
POLL_SECONDS = 0.1


class ProcessError(RuntimeError):
    """A component did not start, or ended; the message has the end of its log."""


@dataclass
class Running:
    """A component that runs beside this process."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    health: str
    """The URL that says whether it is ready."""

    def ensure_lives(self) -> None:
        """ProcessError if it has ended."""
        status = self.process.poll()
        if status is not None:
            raise ProcessError(f"the {self.name} ended with {status}. The end of {self.log}:\n{tail(self.log)}")

    def is_ready(self) -> bool:
        """Whether its probe says so."""
        import httpx

        with suppress(httpx.TransportError):
            return httpx.get(self.health, timeout=10, trust_env=False).status_code == 200
        return False


@contextmanager
def running(name: foreground.Name) -> Iterator[Running]:
    """Start a component, and stop it at the end: with SIGTERM, so that it finishes what it has read.

    It gets no signals of this process's terminal, and ends with this process however that ends.
    """
    port, log = free_port(), settings.home() / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-W", "ignore", "-m", "millrace", "start", name]
    environment = {**os.environ, "MILLRACE_HEALTH_PORT": str(port)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=settings.CHECKOUT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            preexec_fn=_end_with_parent if sys.platform == "linux" else None,
        )
    try:
        yield Running(name, process, log, f"http://{settings.LOOPBACK}:{port}/ready")
    finally:
        _stop(process)


def wait_until_ready(component: Running) -> None:
    """Wait for its probe. ProcessError if it ends, or is not ready in time."""
    deadline = time.monotonic() + START_SECONDS
    while not component.is_ready():
        component.ensure_lives()
        if time.monotonic() > deadline:
            raise ProcessError(
                f"the {component.name} is not ready after {START_SECONDS:.0f} s. The end of"
                f" {component.log}:\n{tail(component.log)}"
            )
        time.sleep(POLL_SECONDS)


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(foreground.PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

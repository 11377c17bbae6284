"""Components as containers run them: `millrace start`, each a process with ports of its own, ended with SIGTERM."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from etl.spark.server import free_port
from lake import settings
from tests import patience

NAMED = ("MILLRACE_", "AIRFLOW", "OPENLINEAGE_", "AWS_")


@dataclass
class Running:
    """A component: its process, its log, and where it answers."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    environment: dict[str, str]

    @property
    def engine_url(self) -> str:
        return f"sc://127.0.0.1:{self.environment['MILLRACE_ENGINE_PORT']}"

    def is_ready(self) -> bool:
        """As Docker asks."""
        assert self.process.poll() is None, self.log.read_text()[-5000:]
        program = Path(sys.executable).with_name("millrace")
        return (
            subprocess.run(
                [program, "health", self.name], env=self.environment, capture_output=True, check=False
            ).returncode
            == 0
        )

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Signal it, and wait for it; its exit status."""
        self.process.send_signal(how)
        return self.process.wait(timeout=patience.SECONDS)


@dataclass
class Stack:
    """Components that share the variables, and each have ports and a home of their own below `folder`."""

    folder: Path
    shared: dict[str, str]
    running: list[Running] = field(default_factory=list)

    def __enter__(self) -> Stack:
        return self

    def __exit__(self, *_: object) -> None:
        for component in self.running:
            component.process.terminate()
        for component in self.running:
            try:
                component.process.wait(timeout=60)
            except subprocess.TimeoutExpired:
                component.process.kill()
                component.process.wait()

    def environment(self, **more: str) -> dict[str, str]:
        """The variables of a component, and nothing that is said to us."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(NAMED)}
        ports = {name: str(free_port()) for name in ("MILLRACE_HEALTH_PORT", "MILLRACE_ENGINE_PORT")}
        return {**inherited, "MILLRACE_HOME": str(self.folder / "home"), **ports, **self.shared, **more}

    def start(self, name: str, *, wait: bool = True, **more: str) -> Running:
        """Start it and, unless told otherwise, wait until it is ready."""
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = self.environment(**more)
        log = self.folder / f"{name}-{len(self.running)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "millrace", "start", name],
                env=environment,
                cwd=settings.CHECKOUT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.running.append(started := Running(name, process, log, environment))
        if wait:
            patience.until(started.is_ready, f"{name} is not ready", every=0.2)
        return started

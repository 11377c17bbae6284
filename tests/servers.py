"""Real servers for the online store's tests: a Redis and a PostgreSQL on loopback, on ports of their own, with nothing of them kept."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from etl.spark.server import free_port, listens

DEBIAN = "apt-get install redis-server postgresql"
SECONDS = 30


def program(name: str) -> str:
    """The path of a server's program; Debian keeps those of PostgreSQL off the PATH."""
    found = shutil.which(name) or next((str(path) for path in sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), reverse=True)), None)
    assert found, f"the tests of the online store run against real servers, and there is no {name} here. On Debian: {DEBIAN}"
    return found


@dataclass
class Server:
    """A process that listens on `port`, and the folder that it writes to."""

    port: int = field(default_factory=free_port)
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="millrace-server-")))
    process: subprocess.Popen[bytes] | None = None
    options: ClassVar[dict[str, Any]] = {}
    ending: ClassVar[signal.Signals] = signal.SIGTERM

    def command(self) -> list[str]:
        raise NotImplementedError

    @property
    def url(self) -> str:
        raise NotImplementedError

    def start(self) -> None:
        """Start it, or start it again with what it kept, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder, **self.options)
        deadline = time.monotonic() + SECONDS
        while not (listens(self.port) and self.answers()):
            died = self.process.poll() is not None or time.monotonic() > deadline
            assert not died, (self.folder / "log").read_text()
            time.sleep(0.05)

    def answers(self) -> bool:
        return True

    def stop(self) -> None:
        """End it, clients or not, and wait until it is gone."""
        assert self.process
        self.process.send_signal(self.ending)
        self.process.wait(timeout=SECONDS)

    def remove(self) -> None:
        """End it and what it wrote."""
        self.stop()
        shutil.rmtree(self.folder)

    def freeze(self) -> None:
        """It goes on listening, and answers nobody."""
        assert self.process
        for pid in self._family():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self._family():
            os.kill(pid, signal.SIGCONT)

    def _family(self) -> list[int]:
        import psutil

        assert self.process
        return [self.process.pid, *(child.pid for child in psutil.Process(self.process.pid).children(recursive=True))]


class Redis(Server):
    """Keeps what it has in an append-only file, as a Redis that serves features should."""

    def command(self) -> list[str]:
        return [program("redis-server"), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--dir", str(self.folder)]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def answers(self) -> bool:
        import redis

        try:
            return bool(redis.Redis(port=self.port).ping())
        except redis.RedisError:
            return False


class Postgres(Server):
    """Run by the user `postgres` where the tests are run by root, whom it refuses. It asks for a password, so that one is in the URL."""

    ending = signal.SIGINT

    options: ClassVar[dict[str, Any]] = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}

    def command(self) -> list[str]:
        data = self.folder / "data"
        if not data.exists():
            if os.getuid() == 0:
                shutil.chown(self.folder, "postgres", "postgres")
            (self.folder / "password").write_text("opensesame")
            command = [
                program("initdb"),
                "-D",
                str(data),
                "-U",
                "millrace",
                "-A",
                "scram-sha-256",
                f"--pwfile={self.folder / 'password'}",
                "--no-sync",
                "-E",
                "UTF8",
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False, **self.options)
            assert done.returncode == 0, done.stderr
        return [program("postgres"), "-D", str(data), "-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.folder), "-c", "fsync=off"]

    @property
    def url(self) -> str:
        return f"postgresql://millrace:opensesame@127.0.0.1:{self.port}/postgres"

    def answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url, connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

"""Real servers for the online store's tests: a Redis and a PostgreSQL on loopback, on ports of their own, with nothing of them kept."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from etl.spark.server import free_port, listens
from tests import patience, programs


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
        command = self.command()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder, **self.options)
        deadline = time.monotonic() + patience.SECONDS
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
        self.process.wait(timeout=patience.SECONDS)

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
        return [programs.redis_server(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--dir", str(self.folder)]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def answers(self) -> bool:
        import redis

        try:
            return bool(redis.Redis(port=self.port).ping())
        except redis.RedisError:
            return False


UNPRIVILEGED = "postgres" if "postgres" in {user.pw_name for user in pwd.getpwall()} else "nobody"
"""PostgreSQL refuses to be run by root. Debian's package adds a user for it."""


class Postgres(Server):
    """Run by another user where the tests are run by root, whom it refuses. It asks for a password, so that one is in the URL."""

    ending = signal.SIGINT
    options: ClassVar[dict[str, Any]] = {"user": UNPRIVILEGED, "group": pwd.getpwnam(UNPRIVILEGED).pw_gid, "extra_groups": []} if os.getuid() == 0 else {}

    def program(self, name: str) -> str:
        """The path of one of its programs, copied to where the other user may read it if it lies in root's own folders, as a checkout's .venv may."""
        path = Path(programs.postgres(name)).resolve()
        if subprocess.run(["test", "-x", path], check=False, **self.options).returncode == 0:
            return str(path)
        copy = self.folder / "program"
        if not copy.exists():
            package = path.parent.parent.parent
            for folder in (package, package.with_name(f"{package.name}.libs")):
                shutil.copytree(folder, copy / folder.name)
        return str(copy / path.relative_to(path.parent.parent.parent.parent))

    def command(self) -> list[str]:
        data = self.folder / "data"
        if not data.exists():
            if os.getuid() == 0:
                shutil.chown(self.folder, UNPRIVILEGED)
            (self.folder / "password").write_text("opensesame")
            command = [
                self.program("initdb"),
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
        return [self.program("postgres"), "-D", str(data), "-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.folder), "-c", "fsync=off"]

    @property
    def url(self) -> str:
        return f"postgresql://millrace:opensesame@127.0.0.1:{self.port}/postgres"

    def answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url, connect_timeout=20).close()
        except psycopg.OperationalError:
            return False
        return True

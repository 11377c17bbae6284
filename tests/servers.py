"""Real servers for the online store's tests: a Redis and a PostgreSQL on loopback, on ports of their own, with nothing
of them kept.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from etl.spark.server import free_port, listens
from lake.tls import POSTGRES_REQUEST
from tests import patience, programs
from tests.certificates import Certificates, Pair


@dataclass
class Server:
    """A process that listens on `port`, and the folder that it writes to; over TLS alone where it has certificates."""

    port: int = field(default_factory=free_port)
    folder: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="millrace-server-")))
    process: subprocess.Popen[bytes] | None = None
    certificates: Certificates | None = None
    options: ClassVar[dict[str, Any]] = {}
    ending: ClassVar[signal.Signals] = signal.SIGTERM

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def command(self) -> list[str]:
        raise NotImplementedError

    @property
    def url(self) -> str:
        raise NotImplementedError

    def start(self) -> None:
        """Start it, or start it again with what it kept, and wait until it answers."""
        command = self.command()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.folder, **self.options
            )
        deadline = time.monotonic() + patience.SECONDS
        while not (listens(self.port) and self.answers()):
            died = self.process.poll() is not None or time.monotonic() > deadline
            assert not died, (self.folder / "log").read_text()
            time.sleep(0.05)

    def answers(self) -> bool:
        return True

    def show(self, pair: Pair) -> None:
        """Show this certificate from now on."""
        raise NotImplementedError

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
            with suppress(ProcessLookupError):  # a session whose client left ends as soon as it may
                os.kill(pid, signal.SIGCONT)

    def _family(self) -> list[int]:
        import psutil

        assert self.process
        return [self.process.pid, *(child.pid for child in psutil.Process(self.process.pid).children(recursive=True))]


class Redis(Server):
    """Keeps what it has in an append-only file, as a Redis that serves features should."""

    def command(self) -> list[str]:
        listening = ["--port", str(self.port)]
        if known := self.certificates:
            options = {
                "port": 0,
                "tls-port": self.port,
                "tls-cert-file": known.server.certificate,
                "tls-key-file": known.server.key,
                "tls-ca-cert-file": known.authority,
                "tls-auth-clients": "optional",
            }
            listening = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        kept = ["--save", "", "--appendonly", "yes", "--dir", str(self.folder)]
        return [programs.redis_server(), *listening, "--bind", "127.0.0.1", *kept]

    @property
    def url(self) -> str:
        if self.certificates:
            return f"rediss://127.0.0.1:{self.port}/0?ssl_ca_certs={self.certificates.authority}"
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> Any:
        """Somebody who looks at no certificate, and shows one."""
        import redis

        shown = self.certificates.client if self.certificates else None
        options = {"ssl_certfile": str(shown.certificate), "ssl_keyfile": str(shown.key)} if shown else {}
        return redis.Redis(port=self.port, ssl=bool(shown), ssl_cert_reqs="none", **options)

    def show(self, pair: Pair) -> None:
        self.client().config_set("tls-cert-file", str(pair.certificate), "tls-key-file", str(pair.key))

    def answers(self) -> bool:
        import redis

        try:
            return bool(self.client().ping())
        except redis.RedisError:
            return False


UNPRIVILEGED = "postgres" if "postgres" in {user.pw_name for user in pwd.getpwall()} else "nobody"
"""PostgreSQL refuses to be run by root. Debian's package adds a user for it."""


class Postgres(Server):
    """Run by another user where the tests are run by root, whom it refuses. It asks for a password, so that one is in
    the URL.
    """

    ending = signal.SIGINT
    options: ClassVar[dict[str, Any]] = (
        {"user": UNPRIVILEGED, "group": pwd.getpwnam(UNPRIVILEGED).pw_gid, "extra_groups": []}
        if os.getuid() == 0
        else {}
    )

    def program(self, name: str) -> str:
        """The path of one of its programs, copied to where the other user may read it if it lies in root's own folders,
        as a checkout's .venv may.
        """
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
            if self.certificates:
                self._keep(self.certificates.authority, "authority.crt")
                self._keep_pair(self.certificates.server)
                (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 scram-sha-256\n")
        tls = ["-c", "ssl=on", "-c", "ssl_ca_file=authority.crt"] if self.certificates else []
        where = ["-D", str(data), "-p", str(self.port), "-h", "127.0.0.1", "-k", str(self.folder)]
        return [self.program("postgres"), *where, "-c", "fsync=off", *tls]

    @property
    def url(self) -> str:
        known = self.certificates
        options = f"?sslmode=verify-full&sslrootcert={known.authority}" if known else ""
        return f"postgresql://millrace:opensesame@127.0.0.1:{self.port}/postgres{options}"

    def show(self, pair: Pair) -> None:
        assert self.process
        self._keep_pair(pair)
        self.process.send_signal(signal.SIGHUP)
        shown = ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())
        patience.until(lambda: self._shown() == shown, "PostgreSQL did not take up its new certificate")

    def _keep_pair(self, pair: Pair) -> None:
        self._keep(pair.certificate, "server.crt")
        self._keep(pair.key, "server.key")

    def _keep(self, source: Path, name: str) -> None:
        """A copy of its own: it refuses a key of another user."""
        copy = self.folder / "data" / name
        shutil.copyfile(source, copy)
        copy.chmod(0o600)
        if os.getuid() == 0:
            shutil.chown(copy, UNPRIVILEGED)

    def _shown(self) -> bytes | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(POSTGRES_REQUEST)
            assert connection.recv(1) == b"S"
            with context.wrap_socket(connection) as encrypted:
                return encrypted.getpeercert(binary_form=True)

    def answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.url, connect_timeout=20).close()
        except psycopg.OperationalError:
            return False
        return True

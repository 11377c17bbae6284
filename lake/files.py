"""Files that survive a kill: atomic writes, and a lock that ends with its process."""

from __future__ import annotations

import fcntl
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically: a reader sees the old bytes or the new ones. An OSError names the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(
        f".{path.name}.{uuid.uuid4().hex}"
    )  # not a process id: containers on one volume have the same
    try:
        unfinished.write_bytes(content)
        sync(unfinished)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        error.filename = error.filename or str(path)  # a full disk fails in `write`, without a name
        raise
    sync(path.parent)


def machine() -> str:
    """The host name as a part of a file name: it tells apart the machines or containers that share a volume."""
    return (
        "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in socket.gethostname()) or "unnamed"
    )


def sync(path: Path) -> None:
    """fsync a file or a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock among all processes and threads of this machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

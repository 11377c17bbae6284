"""Files that survive a kill: written whole or not at all, and a lock that ends with its process."""

from __future__ import annotations

import fcntl
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(path: Path, content: bytes) -> None:
    """Put `content` at `path` in one step; a reader sees the old bytes or the new ones. An OSError names the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # containers that share a volume share process ids
    try:
        unfinished.write_bytes(content)
        sync(unfinished)
        unfinished.replace(path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        error.filename = error.filename or str(path)  # a full disk shows at `write`, which knows no name
        raise
    sync(path.parent)


def machine() -> str:
    """This machine's or container's name, as a part of a file name: who writes to a volume that several share."""
    return (
        "".join(letter if letter.isalnum() or letter in "-_" else "-" for letter in socket.gethostname()) or "unnamed"
    )


def sync(path: Path) -> None:
    """Have a file, or a folder's list of names, on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Be the only one inside, among all processes and threads of this machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield

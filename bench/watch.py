"""Run a command in a process of its own and watch how much memory it and all below it hold.

Between its fork and the program that it becomes, a child shares its parent's memory, which would be counted twice: a
JVM starts a `chmod` for each folder that it makes, and a look that met one reported a heap and a half too much.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from lake import settings

EVERY_SECONDS = 0.2
FORKING_SECONDS = 1.0
"""So long after its start a child that looks like its parent is taken for a part of it."""


def run(command: list[str], environment: dict[str, str]) -> tuple[Any, int]:
    """The JSON that the command prints last, and its peak memory in MiB. SystemExit with its output when it fails, and
    it ends with this process.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        with out.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=settings.CHECKOUT, env={**os.environ, **environment}, stdout=file, stderr=file
            )
            try:
                peak = 0
                while process.poll() is None:
                    peak = max(peak, held(process.pid))
                    time.sleep(EVERY_SECONDS)
            finally:
                process.kill()
        told = out.read_text(errors="replace")
    if process.returncode:
        raise SystemExit(f"{' '.join(command[-6:])} failed:\n{told[-4000:]}")
    start = told.rindex("\n{") + 1 if "\n{" in told else told.index("{")
    return json.loads(told[start:]), peak >> 20


class Seen(NamedTuple):
    """One look at a process: bytes that it holds and that it can address."""

    parent: int
    program: str
    started: float
    held: int
    addressed: int


def held(pid: int) -> int:
    """Bytes that the process and all below it hold now."""
    family = {}
    with suppress(psutil.Error):
        for one in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            with suppress(psutil.Error), one.oneshot():
                memory = one.memory_info()
                family[one.pid] = Seen(one.ppid(), one.exe(), one.create_time(), memory.rss, memory.vms)
    return sum(one.held for one in family.values() if not _shares(one, family.get(one.parent)))


def _shares(child: Seen, parent: Seen | None) -> bool:
    """Whether the child has not become a program of its own yet."""
    young = time.time() - child.started < FORKING_SECONDS
    return (
        parent is not None
        and young
        and child.program == parent.program
        and abs(child.addressed - parent.addressed) < parent.addressed / 100
    )

"""Run a command in a process of its own and watch how much memory it and all below it hold.

A process counts from the second look on. Between its fork and the program that it becomes it shares its parent's memory, which would be counted twice:
a JVM starts a `chmod` for each folder it makes, and a look that met one reported a heap and a half too much.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from contracts import settings

EVERY_SECONDS = 0.2


def run(command: list[str], environment: dict[str, str]) -> tuple[Any, int]:
    """The JSON that the command prints last, and its peak memory in MiB. SystemExit with its output when it fails, and it ends with this process."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        with out.open("wb") as file:
            process = subprocess.Popen(command, cwd=settings.CHECKOUT, env={**os.environ, **environment}, stdout=file, stderr=file)
            try:
                peak, before = 0, frozenset[int]()
                while process.poll() is None:
                    now = held(process.pid)
                    peak = max(peak, sum(size for pid, size in now.items() if pid in before))
                    before = frozenset(now)
                    time.sleep(EVERY_SECONDS)
            finally:
                process.kill()
        told = out.read_text(errors="replace")
    if process.returncode:
        raise SystemExit(f"{' '.join(command[-6:])} failed:\n{told[-4000:]}")
    start = told.rindex("\n{") + 1 if "\n{" in told else told.index("{")
    return json.loads(told[start:]), peak >> 20


def held(pid: int) -> dict[int, int]:
    """Bytes that the process and each below it hold now."""
    found = {}
    with suppress(psutil.Error):
        for one in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            with suppress(psutil.Error):
                found[one.pid] = one.memory_info().rss
    return found

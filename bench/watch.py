"""Run a command in a process of its own and watch how much memory it and all below it hold."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
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
    return json.loads(told[start:]), peak


def held(pid: int) -> int:
    """MiB that the process and all below it hold now."""
    total = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.Error:
        return 0
    for one in family:
        try:
            total += one.memory_info().rss
        except psutil.Error:
            continue
    return total >> 20

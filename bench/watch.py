"""Run a command and measure the peak memory of its process tree.

Between fork and exec, a child shares its parent's memory, which must not be counted twice: a JVM forks a `chmod` for
each folder that it creates, and a sample taken at that moment reported a heap and a half too much.
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
"""A child younger than this that looks like its parent counts as not having called exec yet."""


def run(command: list[str], environment: dict[str, str]) -> tuple[Any, int]:
    """The JSON that the command prints last, and its peak memory in MiB. SystemExit with its output when it fails. The
    command is killed if this process is interrupted.
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
                    peak = max(peak, memory_of(process.pid))
                    time.sleep(EVERY_SECONDS)
            finally:
                process.kill()
        output = out.read_text(errors="replace")
    if process.returncode:
        raise SystemExit(f"{' '.join(command[-6:])} failed:\n{output[-4000:]}")
    start = output.rindex("\n{") + 1 if "\n{" in output else output.index("{")
    return json.loads(output[start:]), peak >> 20


class ProcessSample(NamedTuple):
    """One sample of a process. Memory in bytes: resident and virtual."""

    parent: int
    program: str
    started: float
    resident: int
    virtual: int


def memory_of(pid: int) -> int:
    """Bytes that the process and its descendants hold now."""
    samples = {}
    with suppress(psutil.Error):
        for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
            with suppress(psutil.Error), process.oneshot():
                memory = process.memory_info()
                samples[process.pid] = ProcessSample(
                    process.ppid(), process.exe(), process.create_time(), memory.rss, memory.vms
                )
    return sum(sample.resident for sample in samples.values() if not _shares(sample, samples.get(sample.parent)))


def _shares(child: ProcessSample, parent: ProcessSample | None) -> bool:
    """Whether the child has been forked but has not called exec yet."""
    young = time.time() - child.started < FORKING_SECONDS
    return (
        parent is not None
        and young
        and child.program == parent.program
        and abs(child.virtual - parent.virtual) < parent.virtual / 100
    )

"""Memory as the kernel grants it to this container: its limit, how many processes were killed for it, and which setting
gives more.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60
"""Version 1 writes a number near 2^63 where there is no limit."""
SCHEDULER, TASK = 100, 500
"""Of 1000: how much of the container's memory the kernel adds to a process's own when it looks for one to kill. Workers
add nothing.
"""
SETTINGS = (
    "Give the {name} more memory (with Compose MILLRACE_{variable}_MEMORY, in Kubernetes resources.limits.memory)"
)
FEWER = ", or let fewer tasks run at once (AIRFLOW__CORE__PARALLELISM)"


def kills(root: Path = CGROUPS) -> int:
    """How many processes of this container were killed for lack of memory since it started; 0 where the kernel does not
    say.
    """
    for name in ("memory.events", "memory/memory.oom_control"):  # of version 2, of version 1
        with suppress(OSError, ValueError):
            counts = dict(line.split() for line in (root / name).read_text().splitlines())
            return int(counts.get("oom_kill", 0))
    return 0


def limit(root: Path = CGROUPS) -> int | None:
    """In bytes; None where there is none."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            found = int((root / name).read_text())
            return found if found < UNLIMITED else None
    return None


def kill_tasks_first(score: Path = Path("/proc/self/oom_score_adj")) -> None:
    """Let the kernel kill tasks before this process, the scheduler, and the executor's workers last.

    A task is tried again. The scheduler takes its tasks along, and is started again. But a worker may hold the lock of
    the executor's queue, and with it every other worker waits for ever. Workers are forked by the scheduler, tasks by
    workers.
    """
    with suppress(OSError, ValueError):
        _Scores(score, int(score.read_text()))


class _Scores:
    """A forked process has the score of its parent at that moment. Tasks cannot raise their own: Airflow makes them
    undumpable, and the file root's.
    """

    def __init__(self, path: Path, least: int) -> None:
        self._path, self._generation = path, 0
        self._levels = [least + SCHEDULER, least, min(least + TASK, 1000)]
        self._file = os.open(path, os.O_WRONLY)
        self._set(0)
        os.register_at_fork(
            before=partial(self._set, 1), after_in_parent=partial(self._set, 0), after_in_child=self._begin
        )

    def _begin(self) -> None:
        """In a worker, whose own file it has to be, or in a task, which leaves its score as it is."""
        self._generation += 1
        try:
            os.close(self._file)
            self._file = os.open(self._path, os.O_WRONLY)
        except OSError:
            self._generation = len(self._levels)

    def _set(self, ahead: int) -> None:
        """The score of this process, or for a moment that of its children."""
        if self._generation + 1 < len(self._levels):
            with suppress(OSError):
                os.write(self._file, b"%d\n" % self._levels[self._generation + ahead])


def killed(component: str = "scheduler", root: Path = CGROUPS) -> str:
    """What to say where the kernel has killed something in the container of this component; empty where it has not."""
    count, most = kills(root), limit(root)
    if not count or most is None:
        return ""
    processes = "a process" if count == 1 else f"{count} processes"
    return (
        f"the kernel has killed {processes} of this container since it started, because its memory limit of"
        f" {most / (1 << 20):,.0f} MiB was reached. {remedy(component)}{FEWER if component == 'scheduler' else ''}"
    )


def remedy(component: str) -> str:
    """Which settings give a component more."""
    return SETTINGS.format(name=component, variable=component.upper().replace("-", "_"))

"""This container's memory limit, the processes that the kernel killed because of it, and the setting that raises it;
and how often Python looks for garbage.
"""

from __future__ import annotations

import gc
import os
from contextlib import suppress
from functools import partial
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60
"""cgroup v1 has a number near 2^63 for no limit."""
SCHEDULER, TASK = 100, 500
"""Added to `oom_score_adj`: thousandths of the container's memory that the kernel adds to a process's own usage when it
chooses one to kill. Workers add nothing.
"""
SETTINGS = (
    "Give the {name} more memory (with Compose MILLRACE_{variable}_MEMORY, in Kubernetes resources.limits.memory)"
)
FEWER = ", or let fewer tasks run at once (AIRFLOW__CORE__PARALLELISM)"


def collect_rarely() -> None:
    """For a process that turns batches of messages into rows: they have no cycles, and to look for some takes half of
    the time of reading them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def kills(root: Path = CGROUPS) -> int:
    """Number of this container's processes that the kernel killed for lack of memory since it started; 0 if unknown."""
    for name in ("memory.events", "memory/memory.oom_control"):  # cgroup v2, cgroup v1
        with suppress(OSError, ValueError):
            counts = dict(line.split() for line in (root / name).read_text().splitlines())
            return int(counts.get("oom_kill", 0))
    return 0


def limit(root: Path = CGROUPS) -> int | None:
    """The container's memory limit in bytes; None if it has none."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            size = int((root / name).read_text())
            return size if size < UNLIMITED else None
    return None


def kill_tasks_first(score: Path = Path("/proc/self/oom_score_adj")) -> None:
    """Make the kernel kill tasks first, then this process, the scheduler, and the executor's workers last.

    A killed task is retried. A killed scheduler ends its tasks, and is restarted. But a killed worker may have held the
    lock of the executor's queue, and then all other workers wait forever. The scheduler forks workers, and they fork
    tasks.
    """
    with suppress(OSError, ValueError):
        _Scores(score, int(score.read_text()))


class _Scores:
    """Sets `oom_score_adj` around forks, since a forked process inherits its parent's score.

    Tasks cannot raise their own: Airflow makes them undumpable, which makes root the owner of the file.
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
        """After a fork, open the file of the new process: a worker. A task leaves its score unchanged."""
        self._generation += 1
        try:
            os.close(self._file)
            self._file = os.open(self._path, os.O_WRONLY)
        except OSError:
            self._generation = len(self._levels)

    def _set(self, ahead: int) -> None:
        """Write this process's score, or with `ahead=1`, just before a fork, that of its children."""
        if self._generation + 1 < len(self._levels):
            with suppress(OSError):
                os.write(self._file, b"%d\n" % self._levels[self._generation + ahead])


def killed(component: str = "scheduler", root: Path = CGROUPS) -> str:
    """A message if the kernel has killed a process in this component's container; else empty."""
    count, size = kills(root), limit(root)
    if not count or size is None:
        return ""
    processes = "a process" if count == 1 else f"{count} processes"
    return (
        f"the kernel has killed {processes} of this container since it started, because its memory limit of"
        f" {size / (1 << 20):,.0f} MiB was reached. {remedy(component)}{FEWER if component == 'scheduler' else ''}"
    )


def remedy(component: str) -> str:
    """Which settings give a component more memory."""
    return SETTINGS.format(name=component, variable=component.upper().replace("-", "_"))

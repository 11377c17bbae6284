"""Memory as the kernel grants it to this container: its limit, how many processes were killed for it, and which setting gives more."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import partial
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
UNLIMITED = 1 << 60
"""Version 1 writes a number near 2^63 where there is no limit."""
EARLY, FIRST = 300, 500
"""Of 1000: how much of the machine's memory the kernel adds to a process's own, when it looks for the one to kill. Of a scheduler's children, and of those that run a step."""
SETTINGS = "Give the {name} more memory (with Compose MILLRACE_{variable}_MEMORY, in Kubernetes resources.limits.memory)"
FEWER = ", or let fewer tasks run at once (AIRFLOW__CORE__PARALLELISM)"


def kills(root: Path = CGROUPS) -> int:
    """How many processes of this container were killed for lack of memory since it started; 0 where the kernel does not say."""
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


def go_first(score: int = FIRST, adjustment: Path = Path("/proc/self/oom_score_adj")) -> None:
    """Let the kernel kill this process before others of its container. A task is tried again; with the scheduler all of its tasks would go."""
    with suppress(OSError, ValueError):
        if int(adjustment.read_text()) < score:
            adjustment.write_text(f"{score}\n")


def children_go_first() -> None:
    """The same of every process that this one forks from now on."""
    os.register_at_fork(after_in_child=partial(go_first, EARLY))


def killed(component: str = "scheduler", root: Path = CGROUPS) -> str:
    """What to say where the kernel has killed something in the container of this component; empty where it has not."""
    count, most = kills(root), limit(root)
    if not count or most is None:
        return ""
    processes = "a process" if count == 1 else f"{count} processes"
    return (
        f"the kernel has killed {processes} of this container since it started, because its memory limit of {most / (1 << 20):,.0f} MiB was reached."
        f" {remedy(component)}{FEWER if component == 'scheduler' else ''}"
    )


def remedy(component: str) -> str:
    """Which settings give a component more."""
    return SETTINGS.format(name=component, variable=component.upper().replace("-", "_"))

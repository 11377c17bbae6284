"""What the kernel says of a container's memory, in both versions of its interface."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lake import settings
from millrace import memory

VERSION_1 = {
    "memory/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill {kills}\n",
    "memory/memory.limit_in_bytes": "{limit}\n",
}
VERSION_2 = {
    "memory.events": "low 0\nhigh 0\nmax 90\noom 3\noom_kill {kills}\noom_group_kill 0\n",
    "memory.max": "{limit}\n",
}


def write(root: Path, files: dict[str, str], **values: object) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text.format(**values))
    return root


@pytest.mark.parametrize("files", [VERSION_1, VERSION_2])
def test_what_was_killed_is_reported_with_the_limit_and_the_setting(tmp_path: Path, files: dict[str, str]) -> None:
    root = write(tmp_path, files, kills=2, limit=512 << 20)
    assert (
        memory.killed("dag-processor", root)
        == "the kernel has killed 2 processes of this container since it started, because its memory limit of 512 MiB"
        " was reached. Give the dag-processor more memory (with Compose MILLRACE_DAG_PROCESSOR_MEMORY, in Kubernetes"
        " resources.limits.memory)"
    )
    assert memory.killed("scheduler", root).endswith(
        "MILLRACE_SCHEDULER_MEMORY, in Kubernetes resources.limits.memory), or let fewer tasks run at once"
        " (AIRFLOW__CORE__PARALLELISM)"
    )


@pytest.mark.parametrize(("files", "none"), [(VERSION_1, 9223372036854771712), (VERSION_2, "max")])
def test_nothing_is_reported_where_nothing_was_killed_or_there_is_no_limit(
    tmp_path: Path, files: dict[str, str], none: object
) -> None:
    assert memory.killed(root=tmp_path) == ""
    assert memory.killed(root=write(tmp_path, files, kills=0, limit=1 << 30)) == ""
    assert memory.killed(root=write(tmp_path, files, kills=1, limit=none)) == ""
    assert memory.limit(tmp_path) is None


FORKS = """
import os
from millrace import memory
score = lambda: int(open("/proc/self/oom_score_adj").read())
before = score()
memory.kill_tasks_first()
print(score() - before, flush=True)
for _ in range(3):
    if os.fork():
        os.wait()
        break
    print(score() - before, flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's score is Linux's")
def test_tasks_are_killed_first_and_the_executors_workers_last() -> None:
    """A scheduler, its worker, that one's task, and what the task starts."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS], cwd=settings.CHECKOUT, check=True, capture_output=True, text=True
    )
    assert [int(line) for line in done.stdout.split()] == [memory.SCHEDULER, 0, memory.TASK, memory.TASK]


def test_another_kernel_has_no_score(tmp_path: Path) -> None:
    memory.kill_tasks_first(tmp_path / "missing" / "file")
    assert list(tmp_path.iterdir()) == []

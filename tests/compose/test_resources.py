"""A full volume, and too little memory: the run fails in words, the stack lives, and with room the next run ends
right.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from grocery.tests.shop import purchase
from millrace import demo
from tests.compose.stack import Days, Stack, elapsed, wait
from tests.projects import GROCERY

PROJECT = GROCERY

MEBIBYTE = 1 << 20
WORKERS = 8
"""AIRFLOW__CORE__PARALLELISM."""


def log_of(run: demo.Run) -> str:
    """The whole log of the first task that failed, last try."""
    failed = [task for task in run.tasks().values() if task["state"] == "failed"]
    first = min(failed, key=lambda task: task["end_date"] or "")
    return json.dumps(run._get(f"/taskInstances/{first['task_id']}/logs/{first['try_number']}")["content"])


@pytest.mark.essential
def test_a_full_bucket(stack: Stack, days: Days) -> None:
    """Nothing can be written; what is published and served stays, and the run after it ends right."""
    moment = days.moment()
    before = stack.online(moment)
    tables = stack.execute("s3", "sh", "-c", "cd /data/millrace/lake && ls */*/_delta_log/*.json").stdout
    interval = days.land()
    with stack.filled():
        run, since = days.trigger(interval), time.monotonic()
        assert wait(run) == "failed"
        assert re.search(r"no space left|is full|has no room", run.error(), re.IGNORECASE), run.error()
        stack.note("the bucket's volume is full", run_fails=time.monotonic() - since, said=run.error()[:300])
        assert stack.execute("s3", "sh", "-c", "cd /data/millrace/lake && ls */*/_delta_log/*.json").stdout == tables
        assert stack.online(moment) == before
    since = time.monotonic()
    run = days.trigger(interval)
    assert wait(run) == "success", run.error()
    stack.note("the bucket's volume has room again", run_ends=time.monotonic() - since)
    days.carry(interval)
    days.compare(run)


@contextmanager
def limited(stack: Stack, service: str, mebibytes: int) -> Iterator[None]:
    """The container gets no more than that, while it runs on."""
    container = stack.container(service)
    most = stack.inspect(container)["HostConfig"]["Memory"]
    # The limit of memory and swap may not be lower than that of memory, and is there for as long as Docker set it.
    # A limit below what is used now is refused; how much of that the kernel can take back, it only finds out then.
    for enough in range(mebibytes, mebibytes + 400, 20):
        if not stack.docker.run(
            "update", "--memory", f"{enough}m", "--memory-swap", f"{enough}m", container, check=False
        ).returncode:
            break
    try:
        yield
    finally:
        stack.docker("update", "--memory", str(most), "--memory-swap", str(most), container)


def used(stack: Stack, service: str) -> int:
    """Mebibytes that the kernel cannot take back: without the cache of files."""
    # of version 2, of version 1
    files = "cat memory.stat memory.current 2>/dev/null || cat memory/memory.stat memory/memory.usage_in_bytes"
    *counts, usage = stack.execute(service, "sh", "-c", f"cd /sys/fs/cgroup; {files}").stdout.splitlines()
    named = {name: int(value) for name, value in (line.split() for line in counts)}
    cache = sum(named.get(f"total_{kind}", named[kind]) for kind in ("inactive_file", "active_file"))
    return (int(usage) - cache) // MEBIBYTE


@pytest.mark.essential
def test_a_scheduler_with_too_little_memory_for_its_tasks(stack: Stack, days: Days) -> None:
    """The kernel kills tasks, and not the scheduler, which says so."""
    scheduler = stack.container("scheduler")
    since_start = ("--since", stack.state(scheduler)["StartedAt"])
    if (
        stack.logs(scheduler, *since_start).count("TaskInstance Finished") < 2 * WORKERS
    ):  # each takes 40 MiB with its first task, and keeps them
        ends_right(stack, days, days.land(), "(workers of the scheduler at work)")
    interval = days.land()
    restarts = stack.inspect(scheduler)["RestartCount"]
    most = used(stack, "scheduler") + 25  # a task takes 40 of its own
    with limited(stack, "scheduler", most):
        run, since = days.trigger(interval), time.monotonic()
        assert wait(run) == "failed"
        told = run.error()
        stack.note(f"a scheduler limited to {most} MiB", run_fails=time.monotonic() - since, said=told[:300])
        assert re.search(r"memory limit.*MILLRACE_SCHEDULER_MEMORY", told), told
        assert stack.inspect(scheduler)["RestartCount"] == restarts
    assert re.search(
        r"killed .*memory limit of [\d,]+ MiB was reached.*MILLRACE_SCHEDULER_MEMORY",
        stack.logs(scheduler, *since_start),
    )
    ends_right(stack, days, interval, "a scheduler with room again")


def test_an_engine_with_too_little_memory(stack: Stack, days: Days) -> None:
    """Enough purchases that a query needs more than the engine may have."""
    interval = days.land()
    rows = [
        purchase(10_000_000 + n, product=1 + n % 5000, customer=1 + n % 3000, at=f"{days.last} 12:00:00")
        for n in range(60_000)
    ]
    days.shop.land("transactions", rows, day=days.last, name="many")
    engine = stack.container("engine")
    at = time.monotonic()
    stack.docker("restart", engine)  # what it starts with, and starts with again once it was killed
    elapsed(lambda: stack.answers("engine"), "the engine is not back", at)
    most = used(stack, "engine") + 10
    before = stack.inspect(engine)["RestartCount"]
    with limited(stack, "engine", most):
        run, since = days.trigger(interval), time.monotonic()
        assert wait(run) == "failed"
        told = run.error()
        stack.note(
            f"an engine limited to {most} MiB",
            run_fails=time.monotonic() - since,
            restarts=stack.inspect(engine)["RestartCount"] - before,
            said=told[:300],
        )
        assert re.search(r"memory.*MILLRACE_ENGINE_MEMORY", told), told
    elapsed(lambda: stack.answers("engine"), "the engine is not back", since)
    ends_right(stack, days, interval, "an engine with room again")


def ends_right(stack: Stack, days: Days, interval: tuple[str, str], what: str) -> None:
    since = time.monotonic()
    run = days.trigger(interval)
    assert wait(run) == "success", run.error()
    stack.note(what, run_ends=time.monotonic() - since)
    days.carry(interval)
    days.compare(run)

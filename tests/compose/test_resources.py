"""A full volume, and too little memory: the run fails in words, the stack lives, and with room the next run ends right."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager

from millrace import demo
from tests.compose.stack import Days, Stack, elapsed, wait
from tests.landing import purchase

MEBIBYTE = 1 << 20
WORKERS = 4
"""AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG."""


def log_of(run: demo.Run) -> str:
    """The whole log of the first task that failed, last try."""
    failed = [task for task in run.tasks().values() if task["state"] == "failed"]
    first = min(failed, key=lambda task: task["end_date"] or "")
    return json.dumps(run._get(f"/taskInstances/{first['task_id']}/logs/{first['try_number']}")["content"])


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
        if not stack.docker.run("update", "--memory", f"{enough}m", "--memory-swap", f"{enough}m", container, check=False).returncode:
            break
    try:
        yield
    finally:
        stack.docker("update", "--memory", str(most), "--memory-swap", str(most), container)


def used(stack: Stack, service: str) -> int:
    """Mebibytes that are not file cache."""
    text = stack.execute(service, "sh", "-c", "cat /sys/fs/cgroup/memory.stat /sys/fs/cgroup/memory/memory.stat 2>/dev/null", check=False).stdout
    counts = {name: int(value) for name, value in (line.split() for line in text.splitlines())}
    return counts.get("anon", counts.get("total_rss", 0)) // MEBIBYTE


def test_a_scheduler_with_too_little_memory_for_its_tasks(stack: Stack, days: Days) -> None:
    """The kernel kills tasks, and not the scheduler, which says so."""
    if stack.docker("top", stack.container("scheduler")).count("LocalExecutor") < WORKERS:  # they come with the first tasks, and stay
        ends_right(stack, days, days.land(), "(workers of the scheduler started)")
    interval = days.land()
    restarts = stack.inspect(stack.container("scheduler"))["RestartCount"]
    most = used(stack, "scheduler") + 10
    with limited(stack, "scheduler", most):
        run, since = days.trigger(interval), time.monotonic()
        assert wait(run) == "failed"
        told = run.error()
        stack.note(f"a scheduler limited to {most} MiB", run_fails=time.monotonic() - since, said=told[:300])
        assert re.search(r"memory limit.*MILLRACE_SCHEDULER_MEMORY", told), told
        assert stack.inspect(stack.container("scheduler"))["RestartCount"] == restarts
    assert re.search(r"killed .*memory limit of [\d,]+ MiB was reached.*MILLRACE_SCHEDULER_MEMORY", stack.logs(stack.container("scheduler")))
    ends_right(stack, days, interval, "a scheduler with room again")


def test_an_engine_with_too_little_memory(stack: Stack, days: Days) -> None:
    """Enough purchases that a query needs more than the engine may have."""
    interval = days.land()
    rows = [purchase(10_000_000 + n, product=n % 5000, customer=n % 3000, at=f"{days.last} 12:00:00") for n in range(60_000)]
    days.shop.land("transactions", rows, day=days.last, name="many")
    engine = stack.container("engine")
    most = used(stack, "engine") + 10
    before = stack.inspect(engine)["RestartCount"]
    with limited(stack, "engine", most):
        run, since = days.trigger(interval), time.monotonic()
        assert wait(run) == "failed"
        told = run.error()
        stack.note(
            f"an engine limited to {most} MiB", run_fails=time.monotonic() - since, restarts=stack.inspect(engine)["RestartCount"] - before, said=told[:300]
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

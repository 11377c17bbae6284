"""PostgreSQL, Redis and the S3 gateway, restarted and killed in the middle of a run and of a load of features."""

from __future__ import annotations

import threading
import time
from subprocess import CompletedProcess

import pytest

from tests import patience
from tests.compose.stack import SERVERS, Days, Stack, elapsed, task, until_task, wait
from tests.projects import GROCERY

PROJECT = GROCERY

HOLD = """
export REDISCLI_AUTH=$(sed -n 's/^requirepass //p' /run/secrets/redis_conf)
until [ "$(redis-cli exists millrace:loading)" = 1 ]; do sleep 0.02; done
redis-cli client pause 4000 ALL
"""
"""Wait in Redis' container until a loader has its lease, and then let all of Redis' clients wait: less long than their
time-out.
"""


def restart(stack: Stack, server: str) -> float:
    """In good order. Returns when that began."""
    since = time.monotonic()
    stack.docker("restart", "-t", "30", stack.container(server))
    return since


def kill_and_start(stack: Stack, server: str) -> float:
    """As a power cut would, and started by hand. Returns when that began."""
    since = time.monotonic()
    stack.docker("kill", stack.container(server))
    stack.docker("start", stack.container(server))
    return since


AT_WORK = {"s3": "bronze.transactions", "postgres": "silver.transactions", "redis": "serve.materialize"}
"""At which server the fault is, while that task is at work."""
FAULTS = {"restarted": restart, "killed": kill_and_start}


@pytest.mark.parametrize("fault", [pytest.param("restarted", marks=pytest.mark.essential), "killed"])
def test_each_server_ends_in_the_middle_of_a_run(stack: Stack, days: Days, fault: str) -> None:
    """One after the other: no row is lost or doubled."""
    interval = days.land()
    run, since = days.trigger(interval), time.monotonic()
    for server, table in AT_WORK.items():
        until_task(run, table, "running", "success", "up_for_retry")
        at = FAULTS[fault](stack, server)
        back = elapsed(lambda name=server: stack.answers(name), f"{server} does not come back", at)
        until_task(run, table, "success")
        stack.note(
            f"{server} {fault} in a run, at {table}",
            answers_again=back,
            task_ends=time.monotonic() - at,
            tries=task(run, table)["try_number"],
        )
    assert wait(run) == "success", run.error()
    stack.note(f"the run with each server {fault}", ends=time.monotonic() - since)
    days.carry(interval)
    days.compare(run)


@pytest.mark.parametrize("fault", [pytest.param("restarted", marks=pytest.mark.essential), "killed"])
@pytest.mark.parametrize("server", SERVERS)
def test_a_server_that_ends_in_the_middle_of_a_load(stack: Stack, days: Days, server: str, fault: str) -> None:
    """A load of every row ends right, or fails in words and the next one ends right."""
    before = stack.online(days.moment())
    done: list[CompletedProcess[str]] = []
    loading = threading.Thread(target=lambda: done.append(stack.serve_again()))
    loading.start()
    stack.execute("redis", "sh", "-c", HOLD, timeout=patience.SECONDS)
    at = FAULTS[fault](stack, server)
    back = elapsed(lambda: stack.answers(server), f"{server} does not come back", at)
    loading.join(patience.SECONDS)
    [served] = done
    said = " ".join((served.stdout + served.stderr).split())
    if served.returncode:
        assert "Traceback" not in said, said
        served = stack.serve_again()
        assert served.returncode == 0, served.stdout + served.stderr
    stack.note(f"{server} {fault} in a load", answers_again=back, loaded=time.monotonic() - at, said=said[-200:])
    assert stack.online(days.moment()) == before == days.online()

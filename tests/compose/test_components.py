"""A component is killed, one of two schedulers is, and each ends in good order when it is asked to."""

from __future__ import annotations

import time

import pytest

from tests import patience
from tests.compose.stack import COMPONENTS, SERVERS, Days, Stack, elapsed, task, until_task, wait

KILLED = {
    "bronze.transactions": ("dag-processor", "triggerer", "features"),
    "silver.transactions": ("api-server",),
    "gold.customer_product": ("engine",),
    "serve.materialize": ("scheduler",),
}
"""In one run: these, while that task is at work."""


def test_each_component_killed_comes_back_and_the_run_ends_right(stack: Stack, days: Days) -> None:
    interval = days.land()
    run, since = days.trigger(interval), time.monotonic()
    for name, components in KILLED.items():
        until_task(run, name, "running", "up_for_retry", "success")
        for component in components:
            container = stack.container(component)
            before = stack.inspect(container)["RestartCount"]
            at = time.monotonic()
            stack.kill(container)
            back = elapsed(lambda c=component, i=container, n=before: stack.inspect(i)["RestartCount"] > n and stack.answers(c), f"{component} is not back", at)
            stack.note(f"{component} killed, at {name}", answers_again=back)
    ended = wait(run)
    assert ended == "success", run.error()
    stack.note("the run with all components killed", ends=time.monotonic() - since, tries=sum(task["try_number"] for task in run.tasks().values()))
    days.carry(interval)
    days.compare(run)


def test_two_schedulers_and_two_feature_servers(stack: Stack, days: Days) -> None:
    """One scheduler is killed in the middle of a run, and stays away; both feature servers answer the same."""
    stack.compose("up", "-d", "--scale", "scheduler=2", "--scale", "features=2")
    try:
        for service in ("scheduler", "features"):
            patience.until(lambda s=service: stack.is_healthy(s), f"not every {service} is healthy", every=0.5)
        first, second = stack.containers("features")
        interval = days.land()
        run, since = days.trigger(interval), time.monotonic()
        until_task(run, "silver.transactions", "running", "success")
        until_task(run, "gold.customer_product", "running", "success")
        host = str(task(run, "gold.customer_product")["hostname"])
        [killed] = [container for container in stack.containers("scheduler") if container.startswith(host)]
        at = time.monotonic()
        stack.docker("kill", killed)  # which no restart policy answers
        until_task(run, "gold.customer_product", "success")
        stack.note(
            "one of two schedulers killed",
            task_ends=time.monotonic() - at,
            host="another" if task(run, "gold.customer_product")["hostname"] != host else "same",
        )
        assert wait(run) == "success", run.error()
        stack.note("the run with one of two schedulers killed", ends=time.monotonic() - since)
        days.carry(interval)
        days.compare(run)
        assert stack.online(days.moment(), first) == stack.online(days.moment(), second) == days.online()
    finally:
        stack.compose("up", "-d", "--scale", "scheduler=1", "--scale", "features=1")
        stack.docker("start", stack.container("scheduler"))


@pytest.mark.parametrize("service", [*COMPONENTS, *SERVERS])
def test_a_container_ends_in_good_order(stack: Stack, service: str) -> None:
    """On `docker stop`, in its grace period, and by itself: 0, not 137."""
    container = stack.container(service)
    since = time.monotonic()
    stack.docker("stop", container)
    seconds = time.monotonic() - since
    state = stack.state(container)
    stack.docker("start", container)
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False), stack.logs(container)[-2000:]
    stack.note(f"{service}: docker stop", ends=seconds, answers_again=elapsed(lambda: stack.answers(service), f"{service} is not back", time.monotonic()))

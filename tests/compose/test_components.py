"""A component is killed, one of two schedulers is, and each ends in good order when it is asked to."""

from __future__ import annotations

import time

import pytest

from tests import patience
from tests.compose.stack import COMPONENTS, SERVERS, Days, Stack, elapsed, task, until_task, wait
from tests.projects import GROCERY

PROJECT = GROCERY

KILLED = {
    "bronze.transactions": ("dag-processor", "triggerer", "features"),
    "silver.transactions": ("api-server",),
    "gold.customer_product": ("engine",),
    "serve.materialize": ("scheduler",),
}
"""In one run: these, while that task is at work."""
STOPPED = (("scheduler",), tuple(service for service in COMPONENTS if service != "scheduler"), SERVERS)
"""One after the other, as Compose does; those of a group at once."""


@pytest.mark.essential
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
            back = elapsed(
                lambda c=component, i=container, n=before: stack.inspect(i)["RestartCount"] > n and stack.answers(c),
                f"{component} is not back",
                at,
            )
            stack.note(f"{component} killed, at {name}", answers_again=back)
    ended = wait(run)
    assert ended == "success", run.error()
    stack.note(
        "the run with all components killed",
        ends=time.monotonic() - since,
        tries=sum(task["try_number"] for task in run.tasks().values()),
    )
    days.carry(interval)
    days.compare(run)


@pytest.mark.essential
def test_two_schedulers_and_two_feature_servers(stack: Stack, days: Days) -> None:
    """One scheduler is killed in the middle of a run, and stays away; both feature servers answer the same."""
    stack.compose("up", "-d", "--scale", "scheduler=2", "--scale", "features=2")
    try:
        for service in ("scheduler", "features"):
            patience.until(lambda s=service: stack.answers(s), f"not every {service} answers", every=0.5)
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
        for service in ("scheduler", "features"):
            stack.docker("rm", "-f", *stack.containers(service, number=2))
            stack.docker("start", *stack.containers(service, number=1))


@pytest.mark.essential
def test_a_stack_that_is_stopped_in_the_middle_of_a_run_ends_in_good_order_and_goes_on(
    stack: Stack, days: Days
) -> None:
    """On `docker stop`, each container ends by itself and in its grace period: 0, not 137. The scheduler waits for the
    task at work.
    """
    interval = days.land()
    run = days.trigger(interval)
    until_task(run, "silver.transactions", "running")
    states, since = {}, time.monotonic()
    for services in STOPPED:
        containers = [stack.container(service) for service in services]
        at = time.monotonic()
        stack.docker("stop", *containers)
        stack.note(f"docker stop of {', '.join(services)}", ends=time.monotonic() - at)
        states |= {service: stack.state(container) for service, container in zip(services, containers, strict=True)}
    for services in reversed(STOPPED):
        stack.docker("start", *map(stack.container, services))
    assert {service: (state["ExitCode"], state["OOMKilled"]) for service, state in states.items()} == dict.fromkeys(
        states, (0, False)
    )
    stack.settle()
    stack.note("all containers stopped and started", answer_again=time.monotonic() - since)
    assert wait(run) == "success", run.error()
    assert task(run, "silver.transactions")["try_number"] == 1
    days.carry(interval)
    days.compare(run)

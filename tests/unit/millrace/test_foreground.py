"""A component in the foreground: how it ends, and with which status. Real processes, in the place of Airflow's."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from etl.spark.server import free_port
from tests import patience

PROGRAM = """
import os, signal, sys, time
from millrace import components, foreground, health

health.read_job = lambda _: health.Job("", "", 30)
components.import_airflow = foreground._wait_for_tables = lambda: None
def work(name):
    if sys.argv[1] == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if sys.argv[1] == "failing":
        sys.exit(3)
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    print(os.getpid(), flush=True)
    time.sleep(600)
components.airflow = work
sys.exit(foreground.Foreground("scheduler").run())
"""
"""`work` is a scheduler with a worker below it."""

Start = Callable[[str], subprocess.Popen[str]]


@pytest.fixture
def start(home: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []
    environment = {**os.environ, "MILLRACE_HEALTH_PORT": str(free_port()), "MILLRACE_STOP_SECONDS": "1"}

    def run(how: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROGRAM, how],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        family = [psutil.Process(process.pid)] if process.poll() is None else []
        for member in [*family, *(child for parent in family for child in parent.children(recursive=True))]:
            member.kill()
        process.communicate()


def at_work(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The component and its worker."""
    assert process.stdout
    component = psutil.Process(int(process.stdout.readline()))
    return [component, *component.children()]


def gone(processes: list[psutil.Process]) -> bool:
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in processes)


def test_one_that_is_asked_to_end_takes_its_workers_along(start: Start) -> None:
    process = start("willing")
    family = at_work(process)
    assert len(family) == 2
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=patience.SECONDS) == 0
    patience.until(lambda: gone(family), "its worker goes on")


def test_one_that_does_not_end_in_time_is_killed(start: Start) -> None:
    process = start("stubborn")
    family = at_work(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=patience.SECONDS) == 128 + signal.SIGKILL
    patience.until(lambda: gone(family), "it goes on")
    assert process.stderr
    assert "The scheduler was ended by SIGKILL" in process.stderr.read()


def test_one_that_fails_passes_its_status_on(start: Start) -> None:
    assert start("failing").wait(timeout=patience.SECONDS) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_a_signal_reaches_the_thread_that_waits(start: Start) -> None:
    """One that another thread got would be handled when the component ends by itself, that is never."""
    process = start("willing")
    at_work(process)

    def waits_alone() -> bool:
        takes = {
            thread.name: not blocked(thread) >> (signal.SIGTERM - 1) & 1
            for thread in Path(f"/proc/{process.pid}/task").iterdir()
        }
        return len(takes) > 1 and [name for name, does in takes.items() if does] == [str(process.pid)]

    patience.until(waits_alone, "a thread of the health server takes signals")


def blocked(thread: Path) -> int:
    """The signals that it does not take, as bits."""
    result = re.search(r"SigBlk:\s*(\w+)", (thread / "status").read_text())
    assert result
    return int(result[1], 16)


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_one_whose_parent_was_killed_ends_too(start: Start) -> None:
    process = start("willing")
    component, worker = at_work(process)
    process.kill()
    patience.until(lambda: gone([component]), "nobody watches it")
    worker.kill()

"""The job on a real Spark standalone cluster: a master, two workers and the Connect server, each a process of its own.
A worker is killed in the middle of a stage.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from etl import stage
from etl.spark import jars, server
from lake import delta
from tests.carrying import FIRST, carry, differing, keep_only, land
from tests.cinema import Cinema
from tests.patience import until
from tests.spark import QUICK, SHORT_LIVED, share_jars


@contextmanager
def running(name: str, home: Path, *arguments: str) -> Iterator[subprocess.Popen]:
    """One of Spark's own daemons, in the foreground of a process that this test ends."""
    command = [str(jars.spark_home() / "bin" / "spark-class"), f"org.apache.spark.deploy.{name}", *arguments]
    with (home / f"{name}-{len(list(home.glob('*.log')))}.log").open("wb") as log:
        process = subprocess.Popen(
            command,
            env={**server.environment(), "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_DAEMON_JAVA_OPTS": QUICK},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end(process)


def end(process: subprocess.Popen) -> None:
    """Kill it and whatever it started: a worker's executors."""
    family = []
    with suppress(psutil.Error):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        with suppress(psutil.Error):
            member.kill()
    process.wait()


@pytest.fixture
def cluster(
    home: Path, spark_url: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """The Connect server's URL, and the workers."""
    share_jars(home)
    port = server.free_port()
    master = f"spark://127.0.0.1:{port}"
    with ExitStack() as stack:
        stack.enter_context(
            running(
                "master.Master",
                home,
                "--host",
                "127.0.0.1",
                "--port",
                str(port),
                "--webui-port",
                str(server.free_port()),
            )
        )
        until(lambda: server.listens(port), "the master does not listen")
        options = ("--host", "127.0.0.1", "--cores", "1", "--memory", "1g", "--work-dir", str(home / "work"))
        workers = [
            stack.enter_context(
                running("worker.Worker", home, *options, "--webui-port", str(server.free_port()), master)
            )
            for _ in range(2)
        ]
        monkeypatch.setenv("MILLRACE_SPARK_MASTER", master)
        monkeypatch.setenv("MILLRACE_SPARK_MEMORY", "2g")
        executors = f"spark.executor.memory=900m,spark.executor.cores=1,spark.executor.extraJavaOptions={QUICK}"
        monkeypatch.setenv("MILLRACE_SPARK_CONF", f"{SHORT_LIVED['MILLRACE_SPARK_CONF']},{executors}")
        process, connect = server.start(home / "connect.log")
        until(lambda: len(list((home / "work").glob("*/*"))) == 2, "not both workers have an executor")
        stack.callback(server.stop, process)
        yield server.url(connect), workers


@pytest.mark.slow
def test_a_worker_killed_in_the_middle_of_a_stage_does_not_fail_the_run(
    cinema: Cinema, home: Path, cluster: tuple[str, list[subprocess.Popen]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, workers = cluster
    keep_only(monkeypatch, "gold.guest_activity")
    land(cinema)
    killed: list[str] = []
    original = stage.write

    def write(table: Any, *others: Any) -> None:
        if table.qualified == "gold.guest_activity" and not killed:
            killed.append(table.qualified)
            threading.Timer(0.3, end, [workers[0]]).start()
        original(table, *others)

    monkeypatch.setattr(stage, "write", write)
    carry(monkeypatch, url, home / "cluster", FIRST)
    assert killed
    assert workers[0].poll() is not None
    assert workers[1].poll() is None
    monkeypatch.setattr(stage, "write", original)
    carry(monkeypatch, "sail", home / "sail", FIRST)
    assert differing(home / "cluster", home / "sail") == []
    assert delta.version_of("gold.guest_activity") == 1

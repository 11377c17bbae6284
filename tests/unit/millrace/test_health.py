"""What a component's health server says of its heartbeat, and what asking it costs: a real database, server and
command, and no Airflow.
"""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from etl.spark.server import free_port
from millrace import health

THRESHOLD = 30
Beat = Callable[[float], None]


@pytest.fixture
def port(home: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    port = free_port()
    monkeypatch.setenv("MILLRACE_HEALTH_PORT", str(port))
    monkeypatch.setattr(health, "CACHE_SECONDS", 0.0)
    return port


@pytest.fixture
def beat(tmp_path: Path, port: int) -> Beat:
    """Let the triggerer's newest heartbeat be so many seconds ago."""
    path, started = tmp_path / "airflow.db", datetime.now(UTC) - timedelta(hours=1)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE job (job_type TEXT, hostname TEXT, start_date TEXT, latest_heartbeat TEXT)")
    job = health.Job(f"sqlite:///{path}", "here", THRESHOLD)
    health.serve(health.Probe(health.heartbeat_check("triggerer", started, lambda: job)), port)

    def write(seconds: float) -> None:
        now = datetime.now(UTC).replace(tzinfo=None)
        with sqlite3.connect(path) as connection:
            others = [
                ("TriggererJob", "elsewhere", now, now),
                ("SchedulerJob", "here", now, now),
                ("TriggererJob", "here", now - timedelta(hours=2), now),
            ]
            ours = ("TriggererJob", "here", now, now - timedelta(seconds=seconds))
            connection.executemany(
                "INSERT INTO job VALUES (?, ?, ?, ?)",
                [(*row[:2], *(moment.isoformat(" ") for moment in row[2:])) for row in (*others, ours)],
            )

    return write


def answer(port: int, path: str) -> int:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def ask() -> subprocess.CompletedProcess[str]:
    """As Docker does."""
    return subprocess.run(
        [Path(sys.executable).with_name("millrace"), "health", "triggerer"], capture_output=True, text=True, check=False
    )


def test_a_component_that_says_nothing_is_not_ready_and_says_why(beat: Beat, port: int) -> None:
    """It may come back, so it is alive; until it has said nothing for very long."""
    beat(THRESHOLD * (health.DEAD_AFTER + 1))
    assert [answer(port, path) for path in ("/live", "/ready", "/elsewhere")] == [503, 503, 404]
    beat(THRESHOLD + 1)
    assert [answer(port, path) for path in ("/live", "/ready")] == [200, 503]
    done = ask()
    assert done.returncode == 1
    assert re.search(r"^triggerer is not ready \(503\): .*the triggerer has sent no heartbeat for 3\d s", done.stdout)
    beat(0)
    assert [answer(port, path) for path in ("/live", "/ready")] == [200, 200]
    assert ask().returncode == 0


def test_one_that_has_said_nothing_yet_is_starting(beat: Beat, port: int) -> None:
    assert [answer(port, path) for path in ("/live", "/ready")] == [200, 503]
    assert "the triggerer is starting" in ask().stdout


def test_asking_costs_less_than_100_ms_of_cpu(beat: Beat) -> None:
    beat(0)
    before = os.times()
    assert ask().returncode == 0
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.1

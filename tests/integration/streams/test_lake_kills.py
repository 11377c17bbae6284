"""The lake writer killed at random moments, while messages flow: each is in bronze, or in its quarantine, once."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from etl.spark.server import free_port
from lake import settings
from tests import patience
from tests.integration.streams.conftest import Stream, play
from tests.projects import ARCADE

PROJECT = ARCADE
KILLS = 6
SITE = """
from contracts import catalog
from contracts.model import Topic
catalog.table("bronze.plays").__dict__["topic"] = Topic({topic!r})
import sys
from millrace import foreground
sys.exit(foreground.main("lake-writer"))
"""


@contextmanager
def writing(stream: Stream, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A lake writer in a process of its own."""
    environment = {**os.environ, "MILLRACE_HEALTH_PORT": str(free_port())}
    command = [sys.executable, "-W", "ignore", "-c", SITE.format(topic=stream.topic)]
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=environment, cwd=settings.CHECKOUT, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_a_writer_that_is_killed_loses_and_doubles_nothing(stream: Stream, tmp_path: Path) -> None:
    moments, number = random.Random(7), 0
    log = tmp_path / "log"
    for _ in range(KILLS):
        with writing(stream, log):
            until = time.monotonic() + moments.uniform(2.5, 5)
            while time.monotonic() < until:
                stream.produce(*(play(number + n) for n in range(40)), f"poison {number}".encode())
                number += 40
                time.sleep(0.05)
    with writing(stream, log) as process:
        deadline = time.monotonic() + patience.SECONDS
        while sum(lag.messages for lag in stream.reader().lags()):
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(patience.SECONDS) == 0, log.read_text()
    places = [*stream.places(), *((row["partition"], row["offset"]) for row in rejected(stream))]
    assert len({*places}) == len(places) == number + number // 40
    assert sorted(int(row["round"][1:]) for row in stream.rows()) == [*range(number)]


def rejected(stream: Stream) -> list[dict[str, int]]:
    return [json.loads(row["row"]) for row in stream.quarantine()]


def test_sigterm_publishes_what_was_read(stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "log"
    stream.produce(*(play(number) for number in range(30)))
    monkeypatch.setenv("MILLRACE_STREAM_SECONDS", "3600")
    with writing(stream, log) as process:
        deadline = time.monotonic() + patience.SECONDS
        while "Reading" not in log.read_text():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        time.sleep(2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(patience.SECONDS) == 0, log.read_text()
    assert len(stream.rows()) == 30
    assert "bronze.plays: 30 messages published" in log.read_text()


@pytest.mark.slow
def test_a_broker_that_restarts_is_waited_for(stream: Stream, tmp_path: Path) -> None:
    log = tmp_path / "log"
    stream.produce(*(play(number) for number in range(10)))
    with writing(stream, log) as process:
        wait_for(stream, 10, log)
        stream.kafka.stop()
        time.sleep(1)
        stream.kafka.start()
        stream.produce(*(play(number) for number in range(10, 20)))
        wait_for(stream, 20, log)
        assert process.poll() is None


def wait_for(stream: Stream, rows: int, log: Path) -> None:
    deadline = time.monotonic() + patience.SECONDS
    while len(stream.rows()) < rows:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)

"""A lake writer that runs while its contract gains a column: no message loses the field."""

from __future__ import annotations

import os
import shutil
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
MODE = '        Column("mode", STRING, "casual or ranked"),\n'
DEVICE = '        Column("device", STRING, "Where it was played"),\n'


@pytest.fixture
def contract(stream: Stream, tmp_path: Path) -> Path:
    """The contract of bronze.plays in a copy of the arcade, with the test's topic."""
    shutil.copytree(ARCADE, tmp_path / "arcade", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "arcade" / "contracts" / "bronze" / "plays.py"
    path.write_text(path.read_text().replace('Topic("plays")', f'Topic("{stream.topic}")'))
    return path


@contextmanager
def writing(contract: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A lake writer of the project that holds the contract."""
    project = str(contract.parent.parent.parent)
    environment = {**os.environ, "MILLRACE_PROJECT": project, "MILLRACE_HEALTH_PORT": str(free_port())}
    command = [sys.executable, "-W", "ignore", "-m", "millrace.foreground", "lake-writer"]
    with log.open("ab") as output:
        process = subprocess.Popen(command, env=environment, cwd=settings.CHECKOUT, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def devices(stream: Stream) -> dict[str, str | None]:
    return {row["round"]: row.get("device") for row in stream.rows()}


def wait_for(stream: Stream, rows: int, log: Path) -> None:
    deadline = time.monotonic() + patience.SECONDS
    while len(stream.rows()) < rows:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.1)


@pytest.mark.slow
def test_a_running_writer_starts_again_with_the_changed_contract(
    stream: Stream, contract: Path, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    stream.produce(play(1))
    with writing(contract, log) as process:
        wait_for(stream, 1, log)
        contract.write_text(contract.read_text().replace(MODE, MODE + DEVICE))
        stream.produce(play(2, device="phone"), play(3))
        wait_for(stream, 3, log)
        assert process.poll() is None
    assert devices(stream) == {"r1": None, "r2": "phone", "r3": None}
    assert f"{contract} has changed. Starting again with it" in log.read_text()

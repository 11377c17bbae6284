"""A day replayed through the embedded broker, with the batch in this process: what was served is what it computes."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path

import psutil
import pyarrow as pa
import pytest

from contracts import project
from contracts.interval import midnight
from etl.spark.server import free_port
from lake import delta, release, settings
from millrace import broker as embedded
from millrace import pipeline
from millrace.replay import command, comparison, processes
from millrace.replay.day import ReplayError
from millrace.replay.processes import ProcessError
from tests import patience
from tests.conftest import set_home
from tests.integration.streams.test_broker import built
from tests.integration.test_second_project import PLAYERS, SCHEMAS
from tests.kafka import Kafka
from tests.landing import LandingZone
from tests.projects import ARCADE

PROJECT = ARCADE
DAY = date(2031, 1, 2)
FAST = 50_000


@pytest.fixture
def arcade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An arcade with a release of one day, and the embedded broker's program and port."""
    set_home(tmp_path, monkeypatch, ARCADE)
    monkeypatch.delenv("MILLRACE_KAFKA", raising=False)
    monkeypatch.setenv("MILLRACE_BROKER_PORT", str(free_port()))
    monkeypatch.setenv("MILLRACE_STREAM_SECONDS", "0.5")
    program = built()
    (settings.home() / "bin").mkdir(parents=True)
    shutil.copy(program, settings.home() / "bin" / program.name)
    zone, day = LandingZone(settings.landing()), date(2031, 1, 1)
    rounds = [
        {
            "round": f"r{number}",
            "player": PLAYERS[number % 3],
            "game": "go",
            "mode": "ranked",
            "ended_at": datetime(2031, 1, 1, 9 + number),
            "seconds": 60,
            "stake": 1.0,
        }
        for number in range(9)
    ]
    zone.land("plays", pa.Table.from_pylist(rounds, schema=SCHEMAS["plays"]), day, "plays")
    payment = {"number": 1, "player": PLAYERS[1], "paid_on": day, "amount": 2.5}
    zone.land("payments", pa.Table.from_pylist([payment], schema=SCHEMAS["payments"]), day, "payments", suffix=".csv")
    players = [{"player": player, "tier": "basic", "country": None} for player in PLAYERS]
    zone.land("players", pa.Table.from_pylist(players, schema=SCHEMAS["players"]), day, "players")
    pipeline.run_all("2031-01-01", "2031-01-02", "before")
    pipeline.serve(release.numbers()[-1])


def rows(day: date) -> int:
    """The rounds of a day in silver."""
    opened = delta.open_table("silver.plays")
    assert opened is not None
    return sum(ended.date() == day for ended in opened.to_pyarrow_table()["ended_at"].to_pylist())


def test_what_a_replayed_day_served_is_what_the_batch_computes(
    arcade: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.run(FAST, 1, airflow=False)
    said = capsys.readouterr().out
    assert "Replay of 2031-01-02, the day after the newest release: 901 events" in said
    assert "for demos" in said
    assert "rounds_now_1h" in said
    assert ", 0 differ." in said
    assert (release.read().horizon, rows(DAY), rows(date(2031, 1, 1))) == ("2031-01-03", 900, 10)
    assert not embedded.is_running()

    served = comparison.serve_midnight(project.required("replay", "").events(DAY), midnight(date(2031, 1, 3)))
    assert [result.differing for result in comparison.compare(served)] == [0] * len(served)
    wrong = [replace(view, rows=[{**row, view.features[0]: -1} for row in view.rows]) for view in served if view.rows]
    assert [result.differing for result in comparison.compare(wrong)] == [3] * len(wrong)


@pytest.mark.slow
def test_an_interrupted_replay_loses_nothing_and_goes_on_with_the_same_day(arcade: None) -> None:
    replay = [sys.executable, "-W", "ignore", "-m", "millrace", "stream", "replay", "--no-airflow"]
    before = release.numbers()
    with subprocess.Popen(
        [*replay, "--speed", "4000"],
        cwd=settings.CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stdout
        for line in process.stdout:
            if " sent, " in line:
                break
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        assert "same command goes on" in process.stdout.read()
    assert process.returncode == 130
    assert len(children) >= 3
    assert psutil.wait_procs(children, patience.SECONDS)[1] == []
    assert release.numbers() == before
    shown = subprocess.run([*replay, "--speed", str(FAST)], cwd=settings.CHECKOUT, capture_output=True, text=True)
    assert shown.returncode == 0, shown.stdout + shown.stderr
    assert "Replay of 2031-01-02" in shown.stdout
    assert (release.read().horizon, rows(DAY)) == ("2031-01-03", 900)

    shutil.rmtree(embedded.folder())
    again = subprocess.run([*replay, "--speed", str(FAST)], cwd=settings.CHECKOUT, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "Replay of 2031-01-03" in again.stdout
    assert (release.read().horizon, rows(date(2031, 1, 3)), rows(DAY)) == ("2031-01-04", 900, 901)


@pytest.mark.slow
def test_brokers_that_are_named_are_used_instead(
    arcade: None, broker: Kafka, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MILLRACE_KAFKA", broker.url)
    assert command.run(FAST, 1, airflow=False)
    said = capsys.readouterr().out
    assert f"The brokers are {broker.url}" in said
    assert "for demos" not in said
    assert not (settings.home() / "broker").exists()
    assert max(broker.committed("millrace-lake", "plays", partition) for partition in range(4)) > 0


def test_a_component_that_ends_is_named_with_the_end_of_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_home(tmp_path, monkeypatch, ARCADE)
    monkeypatch.delenv("MILLRACE_KAFKA", raising=False)
    with (
        processes.running("lake-writer") as writer,
        pytest.raises(ProcessError, match=r"the lake-writer ended with 1[\s\S]*MILLRACE_KAFKA is not set"),
    ):
        processes.wait_until_ready(writer)


def test_one_replay_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_home(tmp_path, monkeypatch, ARCADE)
    with command.alone(), pytest.raises(ReplayError, match="another replay runs"), command.alone():
        pass

"""Spark reads topics for the lake writer: the same rows, quarantine and offsets, so that either writer takes over."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from etl.sources.kafka import StreamError
from lake import delta, settings
from millrace import lake_writer
from millrace.cluster_writer import ClusterWriter
from tests import patience, spark
from tests.conftest import set_home
from tests.integration.streams.conftest import Stream, play
from tests.integration.streams.test_lake_kills import rejected, writing
from tests.integration.streams.test_lake_path import POISON
from tests.projects import ARCADE

PROJECT = ARCADE
KILLS = 6


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = tmp_path_factory.mktemp("spark")
    with spark.running(home, lambda patch: patch.setenv("MILLRACE_STREAM_READER", "spark")) as (_, url):
        yield url


def on_spark(engine: str, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("MILLRACE_ENGINE", engine)
    patch.setenv("MILLRACE_STREAM_READER", "spark")


def catch_up(stream: Stream, engine: str) -> None:
    """Let Spark read until the table has every message."""
    with pytest.MonkeyPatch.context() as patch:
        on_spark(engine, patch)
        reader = stream.reader()
        writer = ClusterWriter(reader, stream.said.append)
        deadline = time.monotonic() + patience.SECONDS
        while sum(lag.messages for lag in reader.lags()):
            assert time.monotonic() < deadline, stream.said
            writer.step()
        writer.flush()
        reader.close()


def contents(stream: Stream) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows and rejected rows, without when they were loaded."""
    rows = sorted(stream.rows(), key=lambda row: row["_file"])
    loaded = {"_loaded_at": None}
    cells = [{**json.loads(row["row"]), **loaded} for row in stream.quarantine()]
    return [row | loaded for row in rows], [
        {"file": row["file"], "reasons": row["reasons"], "row": cell, "day": row["day"]}
        for row, cell in zip(stream.quarantine(), cells, strict=True)
    ]


@pytest.mark.slow
def test_either_writer_reads_on_where_the_other_ended(
    stream: Stream, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.produce(*(play(number) for number in range(10)), *POISON)
    stream.catch_up()
    stream.produce(play(10, stake=None), *POISON, {"round": "r11"}, play(12, seconds="7", player="Ä"))
    stream.abort(play(13), play(14))
    stream.produce(play(15, ended_at="2031-01-02 03:04:05.678901"), play(16, game="x" * 2_000_000))
    catch_up(stream, engine)
    version = delta.version_of("bronze.plays")
    catch_up(stream, engine)
    assert delta.version_of("bronze.plays") == version
    stream.produce(play(17), b"poison")
    stream.catch_up()
    found = contents(stream)
    assert len({*stream.places()}) == len(stream.rows()) == 15
    times = [row["_loaded_at"] for row in sorted(stream.rows(), key=lambda row: int(row["round"][1:]))]
    assert [isinstance(at, datetime) for at in times] == [True] * 15
    set_home(tmp_path / "python", monkeypatch, ARCADE)
    monkeypatch.setenv("MILLRACE_KAFKA", stream.kafka.url)
    stream.catch_up()
    assert found == contents(stream)


@pytest.mark.slow
def test_messages_that_are_gone_are_named(stream: Stream, engine: str) -> None:
    stream.produce(*(play(number) for number in range(5)), partition=0)
    catch_up(stream, engine)
    stream.produce(*(play(number) for number in range(5, 12)), partition=0)
    stream.kafka.delete_before(stream.topic, 0, 9)
    with pytest.raises(StreamError, match=r"messages 5 to 8 of partition 0 of .* are gone"):
        catch_up(stream, engine)


@pytest.mark.slow
def test_writers_of_both_kinds_that_are_killed_lose_and_double_nothing(
    stream: Stream, engine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moments, number = random.Random(11), 0
    log = tmp_path / "log"
    for kill in range(KILLS):
        with monkeypatch.context() as patch:
            if kill % 3:
                on_spark(engine, patch)
            with writing(stream, log):
                working = time.monotonic() + patience.SECONDS
                until = working
                while time.monotonic() < until:
                    stream.produce(*(play(number + n) for n in range(40)), f"poison {number}".encode())
                    number += 40
                    time.sleep(0.1)
                    if until == working and [*settings.table_path("bronze.plays").glob("_stage/*")]:
                        until = time.monotonic() + moments.uniform(0, 3)  # amid a batch, which takes that long
    on_spark(engine, monkeypatch)
    with writing(stream, log) as process:
        patience.until(lambda: sum(lag.messages for lag in stream.reader().lags()) == 0, "the last message")
        process.send_signal(signal.SIGTERM)
        assert process.wait(patience.SECONDS) == 0, log.read_text()
    places = [*stream.places(), *((row["partition"], row["offset"]) for row in rejected(stream))]
    assert len({*places}) == len(places) == number + number // 40
    assert sorted(int(row["round"][1:]) for row in stream.rows()) == [*range(number)]


def test_sail_reads_no_topics(monkeypatch: pytest.MonkeyPatch, stream: Stream) -> None:
    monkeypatch.setenv("MILLRACE_STREAM_READER", "spark")
    with pytest.raises(SystemExit, match="MILLRACE_ENGINE is sail, which reads no topics"):
        lake_writer.run(ClusterWriter)

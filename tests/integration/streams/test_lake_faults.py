"""What goes wrong around a lake writer: a full disk, many small files, a compacted topic, clocks that are wrong."""

from __future__ import annotations

import logging
import os
import resource
import time
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from contracts import catalog
from etl.sources.kafka import StreamError
from lake import delta, settings
from millrace import lake_writer, maintenance, pipeline
from millrace.lake_writer import LakeWriter
from tests import patience
from tests.integration.streams.conftest import Stream, new_stream, play
from tests.integration.streams.test_lake_kills import wait_for, writing
from tests.kafka import Kafka
from tests.projects import ARCADE

PROJECT = ARCADE
NO_BYTES = 100


@pytest.mark.slow
def test_a_full_disk_is_waited_for_and_nothing_is_lost(stream: Stream, tmp_path: Path) -> None:
    """A limit on the size of files fails each write, as a full disk does, without one."""
    log = tmp_path / "log"
    stream.produce(play(1))
    with writing(stream, log) as process:
        wait_for(stream, 1, log)
        soft, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        size = log.stat().st_size + NO_BYTES * 20
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, hard))
        stream.produce(*(play(number, game="x" * 200 + str(number)) for number in range(2, 300)), b"poison")
        patience.until(lambda: "File too large" in log.read_text(), "a write that fails")
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (soft, hard))
        wait_for(stream, 299, log)
        assert process.poll() is None
    assert len({*stream.places()}) == len(stream.rows()) == 299
    assert len(stream.quarantine()) == 1


def test_small_files_are_compacted_and_rows_stay(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "SMALL_FILES", 4)
    monkeypatch.setattr(lake_writer, "REPORT_SECONDS", 0)
    reader = stream.reader()
    writer = LakeWriter(reader, stream.said.append)
    for number in range(6):
        stream.produce(play(number), b"poison", partition=0)
        deadline = time.monotonic() + patience.SECONDS
        while len(stream.rows()) <= number:
            assert time.monotonic() < deadline, stream.said
            writer.step()
    writer.flush()
    reader.close()
    for name in ("bronze.plays", "quarantine.plays"):
        table = delta.open_table(name)
        assert f"{name}: compacted its small files" in stream.said
        assert table is not None
        assert len(delta.data_files(table)) < 4
    assert stream.places() == [(0, offset) for offset in range(0, 12, 2)]
    assert len(stream.quarantine()) == 6
    stream.produce(play(9))
    stream.catch_up()
    assert len(stream.rows()) == 7


@pytest.mark.slow
def test_old_commits_and_replaced_files_are_deleted_and_offsets_stay(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(5):
        stream.produce(play(number), partition=0)
        stream.catch_up()
    folder = settings.table_path("bronze.plays")
    for path in (*folder.glob("*.parquet"), *folder.glob("_delta_log/*.json")):
        os.utime(path, (0, 0))
    monkeypatch.setattr(maintenance, "SMALL_FILES", 4)
    monkeypatch.setattr(maintenance, "REPLACED_KEPT", timedelta(0))
    maintenance.compact_small_files(stream.table)
    maintenance.delete_replaced_files(stream.table)
    assert not (folder / "_delta_log" / f"{4:020}.json").exists()
    assert len([*folder.glob("*.parquet")]) == 1
    stream.produce(play(5), partition=0)
    stream.catch_up()
    assert stream.places() == [(0, offset) for offset in range(6)]


def test_compaction_makes_no_table_be_built_again(
    stream: Stream, landed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (2, 3):
        stream.produce(play(number))
        stream.catch_up()
    pipeline.run_all("2031-01-01", "2031-01-03", "run")
    monkeypatch.setattr(maintenance, "SMALL_FILES", 2)
    assert maintenance.compact_small_files(catalog.table("bronze.plays")) == ["bronze.plays"]
    reports = {report.table: report.status for report in pipeline.run_all("2031-01-01", "2031-01-03", "again")}
    assert {reports["silver.plays"], reports["bronze.plays"]} == {"unchanged"}


@pytest.fixture
def compacted(broker: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stream:
    return new_stream(broker, tmp_path, monkeypatch, cleanup_policy="compact,delete")


def test_a_topic_that_kafka_compacts_is_refused(compacted: Stream) -> None:
    compacted.produce(play(1), key=b"r1")
    with pytest.raises(
        StreamError, match=rf"bronze\.plays: Kafka compacts the topic {compacted.topic} .*kafka-configs\.sh --alter"
    ):
        compacted.catch_up()
    assert compacted.rows() == []


def test_a_compacted_topic_of_changes_is_a_warning(
    compacted: Stream, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    changes = SimpleNamespace(name=compacted.topic, format="debezium")
    monkeypatch.setitem(compacted.table.__dict__, "topic", changes)
    reader = compacted.reader()
    with caplog.at_level(logging.WARNING):
        reader.read(1, 0.1)
    reader.close()
    assert f"Kafka compacts the topic {compacted.topic}" in caplog.text


def test_events_of_wrong_clocks_are_rows_of_their_days_and_change_no_other(stream: Stream, landed: None) -> None:
    """A clock before 1970, or far in the future; one that cannot be is poison."""
    stream.produce(play(2), play(3))
    stream.catch_up()
    pipeline.run_all("2031-01-01", "2031-01-03", "before")
    before = features()
    times = ("1969-12-31T23:59:59.999999Z", "2150-06-01T00:00:00Z", "9999-12-31T00:00:00Z", "0001-01-01T00:00:00Z")
    stream.produce(*(play(10 + number, ended_at=at) for number, at in enumerate(times)))
    stream.catch_up()
    assert sorted(row["ended_at"].year for row in stream.rows())[::5] == [1969, 2150]
    assert len(stream.quarantine()) == 2
    pipeline.run_all("2031-01-01", "2031-01-03", "after")
    assert {key: row for key, row in features().items() if key in before} == before


def features() -> dict[tuple[str, object], dict[str, object]]:
    table = delta.open_table("gold.player_rounds")
    assert table is not None
    rows = table.to_pyarrow_table().to_pylist()
    return {(row["player"], row["event_timestamp"]): row for row in rows}

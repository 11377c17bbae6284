"""Messages of a real Kafka in bronze: each once, with its offset; bad ones in quarantine."""

from __future__ import annotations

import json
import shutil
import time
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from etl.sources.kafka import StreamError
from lake import delta, settings
from millrace import cli, lake_writer, pipeline
from millrace.lake_writer import LakeWriter
from tests.integration.streams.conftest import Stream, play
from tests.projects import ARCADE

PROJECT = ARCADE


def test_each_message_is_a_row_of_bronze_once(stream: Stream) -> None:
    stream.produce(*(play(number) for number in range(200)))
    stream.catch_up()
    rows = stream.rows()
    assert sorted(row["round"] for row in rows) == sorted(f"r{number}" for number in range(200))
    assert len({*stream.places()}) == 200
    stream.produce(*(play(number) for number in range(200, 250)))
    stream.catch_up()
    assert len({*stream.places()}) == len(stream.rows()) == 250


def test_a_row_has_the_cells_of_its_message_and_where_it_came_from(stream: Stream) -> None:
    stream.produce(play(7, stake=1.005, more="ignored"), partition=1)
    stream.produce({"seconds": 3, "round": "r1", "player": "Ä", "game": "", "ended_at": "2031-01-02 03:04:05.678901"})
    stream.catch_up()
    by_round = {row["round"]: row for row in stream.rows()}
    assert by_round["r7"]["stake"] == 1.005
    assert (by_round["r7"]["_partition"], by_round["r7"]["_offset"]) == (1, 0)
    assert by_round["r7"]["_file"] == f"kafka/{stream.topic}/1/00000000000000000000"
    assert by_round["r7"]["_landed_date"] == datetime.now(UTC).date()
    assert by_round["r1"]["ended_at"] == datetime(2031, 1, 2, 3, 4, 5, 678901, UTC)
    assert [by_round["r1"][name] for name in ("player", "game", "mode", "stake")] == ["Ä", "", None, None]


POISON = {
    b"": "it is not JSON: Expecting value at character 0",
    b"{": "it is not JSON: Expecting property name enclosed in double quotes at character 1",
    b"\xff\xfe": "it is not UTF-8",
    b"[1]": "its JSON is an array, not an object",
    b"NaN": "NaN is no JSON",
    b'{"round": 1}': "round is the number 1, not a string",
    b'{"seconds": true}': "seconds is true, not a bigint",
    b'{"ended_at": 1924992000000}': "ended_at is the number 1924992000000, not a timestamp",
    b'{"seconds": {"value": 3}}': "seconds is an object, not a bigint",
    b'{"round": "r1", "round": "r2"}': "it has round more than once",
    b'{"round": "\\ud800"}': "round is not text: half of a surrogate pair stands alone",
    b'{"seconds": 1.5}': "seconds is '1.5', not a bigint",
    b'{"seconds": 9223372036854775808}': "seconds is '9223372036854775808', not a bigint",
    b'{"stake": 1e999}': "stake is '1e999', not a double that is finite",
    b'{"ended_at": "2031-02-30T00:00Z"}': "ended_at is '2031-02-30T00:00Z', not a timestamp between 1900 and 2199",
    b'{"\\ud800": 1, "\\ud800": 2}': "it has \\ud800 more than once",
    b"[" * 100_000: "it is nested too deeply",
    None: "it has no value, and a table of rows has no use for a deletion",
}


def test_poison_goes_to_quarantine_with_its_place_and_never_stops_the_stream(stream: Stream) -> None:
    stream.produce(play(1), *POISON, play(2), partition=0)
    stream.catch_up()
    assert sorted(row["round"] for row in stream.rows()) == ["r1", "r2"]
    quarantined = stream.quarantine()
    assert [reason for row in quarantined for reason in row["reasons"]] == [*POISON.values()]
    for offset, (row, value) in enumerate(zip(quarantined, POISON, strict=True), 1):
        place = json.loads(row["row"])
        assert (place["topic"], place["partition"], place["offset"]) == (stream.topic, 0, offset)
        assert place["value"] == (value or b"").decode(errors="backslashreplace")


def test_a_message_that_breaks_a_check_is_quarantined_by_the_audit(stream: Stream) -> None:
    stream.produce(play(1), {"round": "r2"}, play(3, stake=2e9), partition=0)
    stream.catch_up()
    assert [row["round"] for row in stream.rows()] == ["r1"]
    assert [row["reasons"] for row in stream.quarantine()] == [
        ["player is missing", "game is missing", "ended_at is missing", "seconds is missing"],
        ["stake is not between -1000000000.0 and 1000000000.0"],
    ]


def test_a_topic_of_poison_alone_is_read_once(stream: Stream) -> None:
    stream.produce(b"poison", b"more", partition=0)
    stream.catch_up()
    version = delta.version_of("bronze.plays")
    stream.catch_up()
    assert (delta.version_of("bronze.plays"), len(stream.quarantine()), stream.rows()) == (version, 2, [])


def test_a_message_of_ten_megabytes_is_a_row(stream: Stream) -> None:
    stream.produce(play(1, game="x" * 10_000_000))
    stream.catch_up()
    assert [len(row["game"]) for row in stream.rows()] == [10_000_000]


def test_a_partition_that_is_added_is_read_from_its_beginning(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("etl.sources.kafka.REFRESH_SECONDS", 0.5)
    stream.produce(play(1))
    stream.catch_up()
    stream.kafka.add_partitions(stream.topic, 3)
    stream.produce(play(2), partition=2)
    stream.catch_up()
    assert stream.places()[-1] == (2, 0)


def test_messages_that_retention_took_are_named_and_never_passed_over(stream: Stream) -> None:
    stream.produce(*(play(number) for number in range(5)), partition=0)
    stream.catch_up()
    stream.produce(*(play(number) for number in range(5, 12)), partition=0)
    stream.kafka.delete_before(stream.topic, 0, 9)
    with pytest.raises(
        StreamError,
        match=rf"bronze\.plays: messages 5 to 8 of partition 0 of {stream.topic} are gone.*millrace stream skip bronze",
    ):
        stream.catch_up()
    assert cli.main(["stream", "skip", "bronze.plays"]) == 0
    stream.catch_up()
    assert [offset for _, offset in stream.places()] == [0, 1, 2, 3, 4, 9, 10, 11]


def test_a_topic_that_was_created_again_is_not_mixed_up_with_the_old_one(stream: Stream) -> None:
    stream.produce(play(1), play(2))
    stream.catch_up()
    stream.kafka.delete(stream.topic)
    stream.kafka.create_again(stream.topic)
    stream.produce(*(play(number) for number in range(3, 20)))
    with pytest.raises(StreamError, match=r"was deleted and created again: it is not the one that the table has read"):
        stream.catch_up()
    assert cli.main(["stream", "skip", "bronze.plays"]) == 0
    stream.catch_up()
    assert sorted(int(row["round"][1:]) for row in stream.rows()) == [*range(1, 20)]


def steps(writer: LakeWriter, count: int) -> None:
    for _ in range(count):
        writer.step()


def test_a_topic_that_is_created_again_while_it_is_read_ends_the_writer(stream: Stream) -> None:
    stream.produce(*(play(number) for number in range(5)))
    reader = stream.reader()
    writer = LakeWriter(reader, stream.said.append)
    while len(stream.rows()) < 5:
        writer.step()
    stream.kafka.delete(stream.topic)
    stream.kafka.create_again(stream.topic)
    stream.produce(*(play(number) for number in range(100, 120)))
    with pytest.raises(StreamError, match="was deleted"):
        steps(writer, 200)
    reader.close()
    assert cli.main(["stream", "skip", "bronze.plays"]) == 0
    stream.catch_up()
    assert sorted(int(row["round"][1:]) for row in stream.rows()) == [*range(5), *range(100, 120)]


@pytest.mark.slow
def test_many_poison_messages_are_quarantined(stream: Stream) -> None:
    stream.produce(b"poison")
    stream.catch_up()
    stream.produce(*[b"poison"] * 45_000, play(1))
    stream.catch_up()
    assert (len(stream.quarantine()), len(stream.rows())) == (45_001, 1)


def test_a_table_that_is_removed_while_it_is_written_is_read_again_from_the_beginning(stream: Stream) -> None:
    reader = stream.reader()
    writer = LakeWriter(reader, stream.said.append)
    stream.produce(*(play(number) for number in range(5)), partition=0)
    while len(stream.rows()) < 5:
        writer.step()
    shutil.rmtree(settings.table_path("bronze.plays"))
    stream.produce(*(play(number) for number in range(5, 8)), partition=0)
    deadline = time.monotonic() + 60
    while len(stream.rows()) < 8:
        assert time.monotonic() < deadline, stream.said
        writer.step()
    reader.close()
    assert [offset for _, offset in stream.places()] == [*range(8)]
    assert "it was removed or restored" in stream.said[0]


def test_skip_does_nothing_where_nothing_is_gone(stream: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    stream.produce(play(1), play(2))
    stream.catch_up()
    version = delta.version_of("bronze.plays")
    assert cli.main(["stream", "skip", "bronze.plays"]) == 0
    assert capsys.readouterr().out == "bronze.plays can go on where it is\n"
    assert delta.version_of("bronze.plays") == version


def test_settings_of_the_client_cannot_weaken_what_is_promised(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lake_writer, "REPORT_SECONDS", 0.5)
    monkeypatch.setenv("MILLRACE_KAFKA_CONF", "isolation.level=read_uncommitted,auto.offset.reset=latest")
    stream.abort(play(1), play(2))
    stream.produce(play(3))
    stream.catch_up()
    assert [row["round"] for row in stream.rows()] == ["r3"]


def test_the_end_of_an_aborted_transaction_is_no_lag(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lake_writer, "REPORT_SECONDS", 0.5)
    stream.produce(play(1), play(2), play(3))
    stream.catch_up()
    stream.abort(*(play(number) for number in range(4, 20)))
    stream.catch_up()
    assert len(stream.rows()) == 3


def test_poison_is_quarantined_once_though_its_commit_failed(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    publish, failing = pipeline._publish, [True]

    def fail_once(*arguments: Any) -> int:
        if failing and failing.pop():
            raise pipeline.RunError("the disk is full")
        return publish(*arguments)

    monkeypatch.setattr(pipeline, "_publish", fail_once)
    stream.produce(play(1), b"poison", play(2), {"round": "r3"}, partition=0)
    stream.catch_up()
    assert "the disk is full. Trying again in 1 s" in stream.said
    assert len(stream.rows()) == len(stream.quarantine()) == 2


def test_a_setting_that_the_client_refuses_is_a_sentence_without_it(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_KAFKA_CONF", "no.such.setting=opensesame")
    with pytest.raises(StreamError, match="the Kafka client refuses MILLRACE_KAFKA_CONF") as caught:
        stream.reader()
    assert "opensesame" not in str(caught.value)


def test_a_file_and_a_message_with_one_key_are_duplicates(stream: Stream, landed: None) -> None:
    stream.produce(play(1), play(2), play(3))
    stream.catch_up()
    reports = {report.table: report for report in pipeline.run_all("2031-01-01", "2031-01-03", "run")}
    silver = delta.open_table("silver.plays")
    assert silver is not None
    assert sorted(row["round"] for row in silver.to_pyarrow_table().to_pylist()) == ["r1", "r2", "r3", "r9"]
    assert reports["silver.plays"].account.duplicates == 1
    assert len(stream.rows()) == 5


def test_the_newest_message_of_a_key_counts(stream: Stream, landed: None) -> None:
    stream.produce(*(play(2, seconds=seconds) for seconds in (5, 9, 7)), partition=0)
    stream.catch_up()
    pipeline.run_all("2031-01-01", "2031-01-03", "run")
    silver = delta.open_table("silver.plays")
    assert silver is not None
    assert {row["round"]: row["seconds"] for row in silver.to_pyarrow_table().to_pylist()}["r2"] == 7


def test_lag_is_what_is_not_read_yet(stream: Stream, capsys: pytest.CaptureFixture[str]) -> None:
    stream.produce(*(play(number) for number in range(5)), partition=0)
    stream.catch_up()
    stream.produce(*(play(number) for number in range(5, 8)), partition=0)
    assert cli.main(["stream", "lag", "--json"]) == 0
    first, second, *of_view = json.loads(capsys.readouterr().out)
    assert first == {
        "table": "bronze.plays",
        "topic": stream.topic,
        "partition": 0,
        "next_offset": 5,
        "first": 0,
        "end": 8,
        "messages": 3,
    }
    assert (second["next_offset"], second["messages"]) == (0, 0)
    assert [(lag["table"], lag["next_offset"], lag["messages"]) for lag in of_view] == [
        ("player_now", None, 8),  # no worker has begun
        ("player_now", None, 0),
    ]
    assert cli.main(["stream", "lag"]) == 0
    assert "bronze.plays" in capsys.readouterr().out


def test_kafka_knows_how_far_the_table_has_read(stream: Stream) -> None:
    stream.produce(*(play(number) for number in range(5)), partition=0)
    stream.catch_up()
    assert stream.kafka.committed("millrace-lake", stream.topic, 0) == 5


def test_a_topic_that_is_not_there_is_named(stream: Stream) -> None:
    stream.kafka.delete(stream.topic)
    with pytest.raises(StreamError, match=rf"the topic {stream.topic} of bronze\.plays cannot be read: .*Create it"):
        stream.catch_up()


def test_no_brokers_are_a_sentence(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MILLRACE_KAFKA")
    with pytest.raises(StreamError, match=r"MILLRACE_KAFKA is not set\. Set it to the brokers, such as localhost:9092"):
        lake_writer.Reader(lake_writer.tables())


def test_money_keeps_its_digits(stream: Stream, landed: None) -> None:
    """A JSON number is read as it is written, and rounded once, by the cast to silver's decimal."""
    stream.produce(play(3, stake=0.1), play(2, stake=12345678.91))
    stream.catch_up()
    pipeline.run_all("2031-01-01", "2031-01-03", "run")
    silver = delta.open_table("silver.plays")
    assert silver is not None
    stakes = {row["round"]: row["stake"] for row in silver.to_pyarrow_table().to_pylist()}
    assert (stakes["r3"], stakes["r2"]) == (Decimal("0.10"), Decimal("12345678.91"))

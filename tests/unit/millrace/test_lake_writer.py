"""The lake writer's loop: what it does when the lake cannot be written. Messages of a real Kafka are in
tests/integration/streams.
"""

from __future__ import annotations

from typing import Any

import pytest

from contracts.report import PUBLISHED, RowAccount, TableReport
from etl.sources.messages import Message
from etl.sources.offsets import Start
from millrace import lake_writer, pipeline
from millrace.lake_writer import LakeWriter, _Failure
from tests.projects import ARCADE

PROJECT = ARCADE


class Topic:
    """A source of one message after the other."""

    def __init__(self) -> None:
        [self.table] = lake_writer.tables()
        self.tables = {"plays": self.table}
        self.problem = ""
        self.position, self.rewound, self.acknowledged = 0, 0, dict[int, int]()
        self.gap = dict[int, tuple[int, int]]()

    def read(self, _most: int, _seconds: float) -> list[tuple[Any, Message]]:
        self.position += 1
        return [(self.table, Message(0, self.position - 1, b"{}"))]

    def starts(self, _table: Any) -> dict[int, Start]:
        return {0: Start(0, 0)}

    def gaps(self, _table: Any) -> dict[int, tuple[int, int]]:
        return self.gap

    def identity(self, _table: Any) -> int:
        return 7

    def rewind(self) -> None:
        self.position, self.rewound = 0, self.rewound + 1

    def acknowledge(self, _table: Any, read: dict[int, int]) -> None:
        self.acknowledged = read


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    monkeypatch.setenv("MILLRACE_STREAM_SECONDS", "0.000000001")
    return Topic()


def report(count: int) -> TableReport:
    return TableReport("bronze.plays", PUBLISHED, 1, RowAccount(count, count, 0, 0))


def test_a_batch_that_cannot_be_published_is_read_again(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    published, said, failing = list[int](), list[str](), [True, True]

    def append(_table: Any, batch: Any, _run: str, identity: int, starts: Any) -> TableReport:
        assert (identity, starts) == (7, {0: Start(0, 0)})
        if failing:
            failing.pop()
            raise pipeline.RunError("bronze.plays: the run failed (No space left on device).")
        published.extend(message.offset for message in batch)
        return report(len(batch))

    monkeypatch.setattr(pipeline, "append_messages", append)
    writer = LakeWriter(topic, said.append)
    writer.step()
    assert writer.health().unready == "bronze.plays: the run failed (No space left on device)."
    assert said == ["bronze.plays: the run failed (No space left on device). Trying again in 1 s"]
    assert (published, topic.rewound) == ([], 1)
    writer._failures["bronze.plays"].resumes = 0
    writer.step()
    assert topic.rewound == 2
    assert said[1].endswith("Trying again in 2 s")
    writer._failures["bronze.plays"].resumes = 0
    writer.step()
    assert (published, topic.acknowledged, writer.health().unready) == ([0], {0: 1}, "")


def test_a_gap_that_cannot_be_committed_is_tried_again(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    said, failing = list[str](), [True]

    def pass_gaps(_table: Any, identity: int, gaps: Any, _run: str) -> dict[int, int]:
        assert (identity, gaps) == (7, {1: (4, 6)})
        if failing:
            failing.pop()
            raise pipeline.RunError("bronze.plays: the run failed (No space left on device).")
        return {1: 6}

    monkeypatch.setattr(pipeline, "pass_gaps", pass_gaps)
    monkeypatch.setattr(pipeline, "append_messages", lambda _table, batch, *_: report(len(batch)))
    monkeypatch.setattr(lake_writer, "REPORT_SECONDS", 0.0)
    writer = LakeWriter(topic, said.append)
    topic.gap = {1: (4, 6)}
    writer.step()
    assert said[0] == "bronze.plays: the run failed (No space left on device). Trying again in 1 s"
    assert (topic.rewound, writer.health().unready) == (1, "bronze.plays: the run failed (No space left on device).")
    writer.step()  # not before its pause has passed
    assert topic.acknowledged != {1: 6}
    writer._failures["bronze.plays"].resumes = 0
    writer.step()
    assert (topic.acknowledged, writer.health().unready) == ({1: 6}, "")


def test_memory_is_limited_while_the_lake_cannot_be_written(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lake_writer, "MOST_MESSAGES", 5)
    monkeypatch.setattr(lake_writer, "POLL_SECONDS", 0)
    writer = LakeWriter(topic, lambda _: None)
    writer._failures["bronze.plays"] = _Failure("full", float("inf"))
    for _ in range(20):
        writer.step()
    assert topic.position == 5


def test_a_defect_ends_the_writer(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "append_messages", lambda *_: {}["no such key"])
    with pytest.raises(KeyError):
        LakeWriter(topic, lambda _: None).step()

"""The lake writer's loop: what it does when the lake cannot be written. Messages of a real Kafka are in
tests/integration/streams.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from contracts.report import PUBLISHED, RowAccount, TableReport
from etl.sources.messages import Message
from etl.sources.offsets import Start
from millrace import contract_files, lake_writer, pipeline
from millrace.contract_files import ContractChangedError, ContractFiles
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


def test_messages_that_could_not_be_published_are_no_gap_to_pass(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a defect, the writer's last flush must not commit offsets beyond messages that only it has read."""
    passed = list[Any]()
    monkeypatch.setattr(pipeline, "append_messages", lambda *_: {}["no such key"])
    monkeypatch.setattr(pipeline, "pass_gaps", lambda _table, _identity, gaps, _run: passed.append(gaps))
    writer = LakeWriter(topic, lambda _: None)
    topic.gap = {0: (0, 1)}
    for last_words in (writer.step, writer.flush):
        with pytest.raises(KeyError):
            last_words()
    writer._pass_gaps()
    assert passed == []


def test_a_changed_contract_ends_the_writer_before_it_publishes(topic: Topic, monkeypatch: pytest.MonkeyPatch) -> None:
    published = list[Any]()
    monkeypatch.setattr(pipeline, "append_messages", lambda *_: published.append(1))

    def changed() -> None:
        raise ContractChangedError("plays.py has changed")

    with pytest.raises(ContractChangedError):
        LakeWriter(topic, lambda _: None, changed).step()
    assert published == []


def test_a_contract_that_is_written_again_as_it_was_is_no_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "plays.py"
    path.write_text("a = 1")
    monkeypatch.setattr(contract_files, "_is_of_project", lambda name: name == "plays_of_a_test")
    module = ModuleType("plays_of_a_test")
    module.__file__ = str(path)
    monkeypatch.setitem(sys.modules, "plays_of_a_test", module)
    contracts = ContractFiles()
    os.utime(path, ns=(1, 1))
    contracts.ensure_unchanged()
    path.write_text("a = 2")
    with pytest.raises(ContractChangedError, match=r"plays\.py has changed"):
        contracts.ensure_unchanged()
    path.write_text("a = 1")
    contracts.ensure_unchanged()
    path.unlink()
    with pytest.raises(ContractChangedError):
        contracts.ensure_unchanged()

"""A real Kafka for the tests of this folder, and an arcade whose rounds come from it."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from contracts import catalog
from contracts.model import Table, Topic
from etl.sources.kafka import Reader
from lake import delta, settings
from millrace import lake_writer
from millrace.lake_writer import LakeWriter
from tests.conftest import set_home
from tests.integration.test_second_project import PLAYERS, SCHEMAS
from tests.kafka import Kafka
from tests.landing import LandingZone
from tests.projects import ARCADE

Row = dict[str, Any]


@pytest.fixture(scope="session")
def broker() -> Iterator[Kafka]:
    with Kafka() as kafka:
        yield kafka


def play(number: int, **other: Any) -> Row:
    """A valid round, by its number: a minute after the one before."""
    row = {
        "round": f"r{number}",
        "player": PLAYERS[number % 3],
        "game": "chess",
        "mode": "ranked",
        "ended_at": f"2031-01-{1 + number // 1440 % 28:02}T{number // 60 % 24:02}:{number % 60:02}:00Z",
        "seconds": number,
        "stake": number / 4,
    }
    return row | other


@dataclass
class Stream:
    """The topic of bronze.plays, named after the test so that no other test's messages are in it."""

    kafka: Kafka
    topic: str
    said: list[str] = field(default_factory=list)

    @property
    def table(self) -> Table:
        [table] = lake_writer.tables()
        return table

    def produce(self, *rows: Row | bytes | None, **options: Any) -> None:
        values = [json.dumps(row).encode() if isinstance(row, dict) else row for row in rows]
        self.kafka.produce(self.topic, *values, **options)

    def abort(self, *rows: Row) -> None:
        """Write messages in a transaction, and abort it."""
        self.kafka.abort(self.topic, *(json.dumps(row).encode() for row in rows))

    def reader(self) -> Reader:
        return Reader(lake_writer.tables())

    def catch_up(self, seconds: float = 60) -> LakeWriter:
        """Write until the table has read every message."""
        reader = self.reader()
        writer = LakeWriter(reader, self.said.append)
        deadline = time.monotonic() + seconds
        while sum(lag.messages for lag in reader.lags()):
            assert time.monotonic() < deadline, self.said
            writer.step()
        writer.flush()
        reader.close()
        return writer

    def rows(self) -> list[Row]:
        opened = delta.open_table("bronze.plays")
        return [] if opened is None else opened.to_pyarrow_table().to_pylist()

    def places(self) -> list[tuple[int, int]]:
        """Partition and offset of each row, sorted."""
        return sorted((row["_partition"], row["_offset"]) for row in self.rows())

    def quarantine(self) -> list[Row]:
        opened = delta.open_table("quarantine.plays")
        return [] if opened is None else sorted(opened.to_pyarrow_table().to_pylist(), key=lambda row: row["file"])


@pytest.fixture
def stream(broker: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stream:
    return new_stream(broker, tmp_path, monkeypatch)


@pytest.fixture
def landed(stream: Stream) -> None:
    """Files of every table of the arcade: rounds r1 and r9, a payment, and the players."""
    zone, day = LandingZone(settings.landing()), date(2031, 1, 2)
    rounds = [play(number, ended_at=datetime(2031, 1, 1, 10)) for number in (1, 9)]
    zone.land("plays", pa.Table.from_pylist(rounds, schema=SCHEMAS["plays"]), day, "plays")
    payment = {"number": 1, "player": PLAYERS[1], "paid_on": date(2031, 1, 1), "amount": 2.5}
    zone.land("payments", pa.Table.from_pylist([payment], schema=SCHEMAS["payments"]), day, "payments", suffix=".csv")
    players = [{"player": player, "tier": "basic", "country": None} for player in PLAYERS]
    zone.land("players", pa.Table.from_pylist(players, schema=SCHEMAS["players"]), day, "players")


def new_stream(
    broker: Kafka, home: Path, monkeypatch: pytest.MonkeyPatch, partitions: int = 2, **config: str
) -> Stream:
    set_home(home, monkeypatch, ARCADE)
    monkeypatch.setenv("MILLRACE_KAFKA", broker.url)
    monkeypatch.setenv("MILLRACE_STREAM_SECONDS", "0.2")
    topic = f"plays-{uuid.uuid4().hex[:8]}"
    broker.create(topic, partitions, **config)
    rename(monkeypatch, topic)
    return Stream(broker, topic)


def rename(monkeypatch: pytest.MonkeyPatch, topic: str) -> None:
    """Give bronze.plays another topic than its contract does, for this test."""
    table = catalog.table("bronze.plays")
    monkeypatch.setitem(table.__dict__, "topic", Topic(topic))

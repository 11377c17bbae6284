"""Changes of a database from a real Kafka: the lake writer reads them, and silver has the newest state of each row."""

from __future__ import annotations

import json
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts import catalog
from contracts.interval import Interval
from contracts.model import Format, Topic
from etl.sources.kafka import Reader
from millrace import lake_writer, pipeline
from millrace.lake_writer import LakeWriter
from tests import patience
from tests.conftest import set_home
from tests.kafka import Kafka
from tests.landing import rows
from tests.projects import DEPOT

PROJECT = DEPOT


def change(op: str, lsn: int, number: int, **after: Any) -> bytes:
    row = {"id": number, "customer": "ann", "ordered_at": "2031-01-02T10:00:00Z", "amount": "9.50", **after}
    sides = {"before": {"id": number}, "after": None} if op == "d" else {"before": None, "after": row}
    return json.dumps({**sides, "op": op, "source": {"lsn": lsn, "ts_ms": lsn}}).encode()


def test_changes_reach_silver(broker: Kafka, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_home(tmp_path, monkeypatch, DEPOT)
    monkeypatch.setenv("MILLRACE_KAFKA", broker.url)
    monkeypatch.setenv("MILLRACE_STREAM_SECONDS", "0.2")
    table, topic = catalog.table("bronze.orders"), f"orders-{uuid.uuid4().hex[:8]}"
    broker.create(topic, 1)
    monkeypatch.setitem(table.__dict__, "topic", Topic(topic, Format.DEBEZIUM))
    broker.produce(topic, change("r", 1, 7), change("c", 2, 8), b"poison", None)
    catch_up()
    assert carry() == [(7, "2031-01-02"), (8, "2031-01-02")]
    moved = change("u", 5, 7, ordered_at="2031-01-05T10:00:00Z")
    broker.produce(topic, moved, change("u", 4, 7, ordered_at="2031-01-04T10:00:00Z"), change("d", 6, 8), None)
    catch_up()
    assert carry() == [(7, "2031-01-05")]
    broker.produce(topic, change("d", 7, 7))
    catch_up()
    assert carry() == []
    assert [(row["_op"], row["_lsn"]) for row in rows("bronze.orders", order="_offset")] == [
        ("r", 1), ("c", 2), ("u", 5), ("u", 4), ("d", 6), ("d", 7),
    ]  # fmt: skip
    assert len(rows("quarantine.orders")) == 1


def catch_up() -> None:
    reader = Reader(lake_writer.tables())
    writer = LakeWriter(reader, lambda _: None)
    deadline = time.monotonic() + patience.SECONDS
    while sum(lag.messages for lag in reader.lags()):
        assert time.monotonic() < deadline
        writer.step()
    writer.flush()
    reader.close()


def carry() -> list[tuple[int, str]]:
    today = datetime.now(UTC).date()
    pipeline.run_table("silver.orders", Interval(today, today + timedelta(days=1)), "test")
    return [(row["order_id"], str(row["ordered_at"].date())) for row in rows("silver.orders", order="order_id")]

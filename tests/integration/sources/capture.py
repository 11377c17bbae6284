"""Change data capture for tests: a trigger writes each change of `orders` to a log, which then becomes messages as
Debezium writes them, in each of its encodings.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from etl.sources.messages import Message
from tests.integration.sources.conftest import Depot

TABLES = """
CREATE TABLE orders (
    id bigint PRIMARY KEY, customer text NOT NULL, ordered_at timestamptz NOT NULL, amount numeric(12, 2) NOT NULL,
    paid boolean, due_on date, note text
);
CREATE TABLE log (
    number bigserial, op text, lsn pg_lsn DEFAULT pg_current_wal_insert_lsn(), at timestamptz DEFAULT clock_timestamp(),
    before jsonb, after jsonb
);
CREATE FUNCTION capture() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_logical_emit_message(true, 'test', 'so that each change has a position of its own');
    IF TG_OP = 'UPDATE' AND OLD.id <> NEW.id THEN
        INSERT INTO log (op, before) VALUES ('d', to_jsonb(OLD));
        INSERT INTO log (op, after) VALUES ('c', to_jsonb(NEW));
    ELSE
        INSERT INTO log (op, before, after) VALUES (
            CASE TG_OP WHEN 'INSERT' THEN 'c' WHEN 'UPDATE' THEN 'u' ELSE 'd' END,
            CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) END, CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) END
        );
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER capture AFTER INSERT OR UPDATE OR DELETE ON orders FOR EACH ROW EXECUTE FUNCTION capture();
"""
FIELDS = ("id", "customer", "ordered_at", "amount", "paid", "due_on", "note")
Row = dict[str, Any]


@dataclass(frozen=True)
class Encoding:
    """How a connector is set up: how it writes amounts and instants, and the schemas that say so, if it writes any."""

    amount: Callable[[Decimal], Any]
    instant: Callable[[datetime], Any]
    schemas: dict[str, dict[str, Any]] | None = None
    whole_before: bool = False
    """REPLICA IDENTITY FULL."""


def micros(at: datetime) -> int:
    whole = at.astimezone(UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    return (whole.days * 86400 + whole.seconds) * 10**6 + whole.microseconds


def encoded(amount: Decimal) -> str:
    unscaled = int(amount.scaleb(2))
    return base64.b64encode(unscaled.to_bytes(8, "big", signed=True)).decode()


def zoned(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def typed(amount: dict[str, Any], instant: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        "id": {"type": "int64"},
        "customer": {"type": "string"},
        "ordered_at": instant,
        "amount": amount,
        "paid": {"type": "boolean"},
        "due_on": {"type": "int32", "name": "io.debezium.time.Date"},
        "note": {"type": "string"},
    }


BYTES = {"type": "bytes", "name": "org.apache.kafka.connect.data.Decimal", "parameters": {"scale": "2"}}
ENCODINGS = (
    Encoding(str, zoned),
    Encoding(
        str, zoned, typed({"type": "string"}, {"type": "string", "name": "io.debezium.time.ZonedTimestamp"}), True
    ),
    Encoding(encoded, micros, typed(BYTES, {"type": "int64", "name": "io.debezium.time.MicroTimestamp"})),
    Encoding(
        lambda amount: {"scale": 2, "value": encoded(amount)},
        lambda at: micros(at) * 1000,
        typed(
            {"type": "struct", "name": "io.debezium.data.VariableScaleDecimal"},
            {"type": "int64", "name": "io.debezium.time.NanoTimestamp"},
        ),
        True,
    ),
)


def changes(depot: Depot, after: int) -> list[tuple[Any, ...]]:
    """The changes after a number: number, op, lsn, instant, row before, row after."""
    return depot.execute(
        "SELECT number, op, (lsn - '0/0')::bigint, at, before, after FROM log WHERE number > %s ORDER BY number", after
    )


def value_of(change: tuple[Any, ...], encoding: Encoding) -> bytes:
    """The message of a change."""
    _, op, lsn, at, before, after = change
    if before is not None and not encoding.whole_before:
        before = {**dict.fromkeys(FIELDS), "id": before["id"], "amount": None} if op == "d" else None
    payload = {
        "before": before and _row(before, encoding),
        "after": after and _row(after, encoding),
        "source": {"connector": "postgresql", "lsn": lsn, "ts_ms": micros(at) // 1000, "ts_us": micros(at)},
        "op": op,
        "ts_ms": micros(at) // 1000 + 5,
    }
    if encoding.schemas is None:
        return json.dumps(payload).encode()
    fields = [{"field": name, "optional": True, **schema} for name, schema in encoding.schemas.items()]
    sides = [{"type": "struct", "field": side, "optional": True, "fields": fields} for side in ("before", "after")]
    return json.dumps({"schema": {"type": "struct", "fields": sides}, "payload": payload}).encode()


def _row(row: Row, encoding: Encoding) -> Row:
    return row | {
        name: encode(convert(row[name]))
        for name, convert, encode in (
            ("amount", lambda value: Decimal(str(value)).quantize(Decimal("0.01")), encoding.amount),
            ("ordered_at", datetime.fromisoformat, encoding.instant),
            ("due_on", date.fromisoformat, lambda day: (day - date(1970, 1, 1)).days),
        )
        if row[name] is not None
    }


def as_messages(values: Sequence[bytes | None], offsets: dict[int, int], partition: Callable[[], int]) -> list[Message]:
    """Messages of these values, each in the next offset of a partition."""
    messages = []
    for value in values:
        number = partition()
        messages.append(Message(number, offsets.get(number, 0), value))
        offsets[number] = offsets.get(number, 0) + 1
    return messages

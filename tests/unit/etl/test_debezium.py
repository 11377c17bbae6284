"""Messages in Debezium's format: what each encoding means, and what is refused because nothing tells what it means."""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from contracts.columns import AUDIT_COLUMNS, CHANGE_COLUMNS, STREAM_COLUMNS
from contracts.model import (
    BOOLEAN,
    DATE,
    DOUBLE,
    LONG,
    MONEY,
    STRING,
    TIMESTAMP,
    Column,
    Format,
    Layer,
    Load,
    Table,
    Topic,
)
from etl.sources import debezium
from etl.sources.messages import Decoded, Message

TABLE = Table(
    layer=Layer.BRONZE,
    name="things",
    doc="Things",
    grain="one row per change",
    owner="tests",
    freshness=timedelta(days=1),
    load=Load.CHANGES,
    topic=Topic("things", Format.DEBEZIUM),
    key=("id",),
    time_column="at",
    columns=(
        Column("id", LONG, "Thing", required=True),
        Column("at", TIMESTAMP, "When"),
        Column("price", MONEY, "Price"),
        Column("size", DOUBLE, "Size"),
        Column("good", BOOLEAN, "Whether it is good"),
        Column("until", DATE, "Until when"),
        Column("name", STRING, "Name", source="Name"),
        *AUDIT_COLUMNS,
        *STREAM_COLUMNS,
        *CHANGE_COLUMNS,
    ),
)
AT = "2031-01-02T03:04:05.678901Z"
MICROS = 1_925_089_445_678_901
ROW = {"id": 1, "at": AT}
SOURCE = {"ts_ms": 1_925_089_445_700, "lsn": 77}
TIME, CONNECT = "io.debezium.time", "org.apache.kafka.connect.data"


def decode(*values: Any) -> Decoded:
    encoded = [value if value is None or isinstance(value, bytes) else json.dumps(value).encode() for value in values]
    return debezium.decode(TABLE, [Message(0, n, value) for n, value in enumerate(encoded)], date(2031, 1, 3))


def change(op: str = "c", before: Any = None, after: Any = ROW, **other: Any) -> dict[str, Any]:
    return {"op": op, "before": before, "after": after, "source": SOURCE, **other}


def described(after: dict[str, Any], **schemas: Any) -> dict[str, Any]:
    """A change with its schema."""
    types = {"id": {"type": "int64"}, "at": {"type": "string", "name": f"{TIME}.ZonedTimestamp"}, **schemas}
    fields = [{"field": name, **schema} for name, schema in types.items()]
    return {"schema": {"fields": [{"field": "after", "fields": fields}]}, "payload": change(after=after)}


def row(message: Any) -> dict[str, Any]:
    decoded = decode(message)
    assert not decoded.rejected, decoded.rejected
    [result] = decoded.rows.to_pylist()
    return dict(result)


def reason(message: Any) -> str:
    decoded = decode(message)
    assert decoded.rows.num_rows == 0
    [rejected] = decoded.rejected
    [text] = rejected.reasons
    return text


def b64(number: int) -> str:
    return base64.b64encode(number.to_bytes((number.bit_length() + 8) // 8, "big", signed=True)).decode()


def test_a_change_is_a_row_with_its_position() -> None:
    after = {**ROW, "price": 1.5, "size": 2, "good": True, "until": 22281, "Name": "x", "more": {}}
    assert row(change("u", None, after)) == {
        "id": 1,
        "at": datetime(2031, 1, 2, 3, 4, 5, 678901, UTC),
        "price": Decimal("1.50"),
        "size": 2.0,
        "good": True,
        "until": date(2031, 1, 2),
        "name": "x",
        "_op": "u",
        "_lsn": 77,
        "_source_at": datetime(2031, 1, 2, 3, 4, 5, 700_000, UTC),
    }


def test_a_deletion_has_its_key_alone_whatever_else_it_says() -> None:
    """Without REPLICA IDENTITY FULL, Debezium fills columns that may not be NULL with 0 or nothing."""
    before = {"id": 1, "at": 0, "price": "", "size": 0, "good": False, "until": 0, "Name": ""}
    deleted = row(change("d", before, None))
    assert (deleted["id"], deleted["_op"]) == (1, "d")
    assert {deleted[name] for name in ("at", "price", "size", "good", "until", "name")} == {None}


def test_tombstones_are_ignored() -> None:
    decoded = decode(None, change(), {"schema": None, "payload": None} | {"schema": {}}, None)
    assert (decoded.ignored, len(decoded.messages), decoded.rejected) == (3, 1, [])
    assert decode(None).rows.num_rows == 0


@pytest.mark.parametrize(
    ("source", "at"),
    [
        ({"ts_ms": 1000}, datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)),
        ({"ts_ms": 1000, "ts_us": 1_000_001}, datetime(1970, 1, 1, 0, 0, 1, 1, UTC)),
        ({"ts_ms": 1000, "ts_us": 1_000_001, "ts_ns": 1_000_002_999}, datetime(1970, 1, 1, 0, 0, 1, 2, UTC)),
    ],
)
def test_the_time_of_the_source_is_as_exact_as_it_says(source: Any, at: datetime) -> None:
    found = row(change(source=source))
    assert (found["_lsn"], found["_source_at"]) == (None, at)


def test_every_digit_of_a_decimal_is_read() -> None:
    digits = int("9" * 37 + "8")
    encoded = base64.b64encode(digits.to_bytes(16, "big", signed=True)).decode()
    assert debezium._unscaled(encoded, 2) == "9" * 36 + ".98"
    assert debezium._unscaled(encoded, -2) == "9" * 37 + "800"


DECIMAL = {"type": "bytes", "name": f"{CONNECT}.Decimal", "parameters": {"scale": "2"}}
VARIABLE = {"type": "struct", "name": "io.debezium.data.VariableScaleDecimal"}
INSTANT = datetime(2031, 1, 2, 3, 4, 5, 678901, UTC)
MIDNIGHT = datetime(2031, 1, 2, tzinfo=UTC)
MILLIS = INSTANT.replace(microsecond=678000)
DAY = {"type": "int32", "name": f"{TIME}.Date"}


@pytest.mark.parametrize(
    ("name", "value", "schema", "expected"),
    [
        ("price", b64(-12345), DECIMAL, Decimal("-123.45")),
        ("price", b64(0), DECIMAL, Decimal(0)),
        ("price", {"scale": 1, "value": b64(15)}, VARIABLE, Decimal("1.50")),
        ("price", {"scale": -2, "value": b64(3)}, VARIABLE, Decimal(300)),
        ("price", "1234", {"type": "string"}, Decimal(1234)),
        ("price", "1.2E+2", {"type": "string"}, Decimal(120)),
        ("price", 0.1, {"type": "double"}, Decimal("0.10")),
        ("size", b64(250), DECIMAL, 2.5),
        ("size", 7, {"type": "int32"}, 7.0),
        ("at", MICROS, {"type": "int64", "name": f"{TIME}.MicroTimestamp"}, INSTANT),
        ("at", MICROS * 1000 + 999, {"type": "int64", "name": f"{TIME}.NanoTimestamp"}, INSTANT),
        ("at", MICROS // 1000, {"type": "int64", "name": f"{TIME}.Timestamp"}, MILLIS),
        ("at", MICROS // 1000, {"type": "int64", "name": f"{CONNECT}.Timestamp"}, MILLIS),
        ("at", "2031-01-02T03:04:05.678901Z", {"type": "string", "name": f"{TIME}.IsoTimestamp"}, INSTANT),
        ("at", "2031-01-02T04:04:05.678901+01:00", {"type": "string", "name": f"{TIME}.ZonedTimestamp"}, INSTANT),
        ("at", 22281, DAY, MIDNIGHT),
        ("until", 22281, DAY, date(2031, 1, 2)),
        ("until", 22281, {"type": "int32", "name": f"{CONNECT}.Date"}, date(2031, 1, 2)),
        ("until", "2031-01-02Z", {"type": "string", "name": f"{TIME}.IsoDate"}, date(2031, 1, 2)),
        ("Name", "AB12", {"type": "string", "name": "io.debezium.data.Uuid"}, "AB12"),
    ],
)
def test_with_a_schema(name: str, value: Any, schema: Any, expected: Any) -> None:
    assert row(described({**ROW, name: value}, **{name: schema}))[name.lower()] == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("price", "123.45", Decimal("123.45")),
        ("price", "-1234567", Decimal(-1234567)),
        ("price", {"scale": 2, "value": b64(150)}, Decimal("1.50")),
        ("price", "12", Decimal(12)),
        ("until", "2031-01-02", date(2031, 1, 2)),
        ("at", "2031-01-02T03:04:05.678901Z", INSTANT),
    ],
)
def test_without_a_schema(name: str, value: Any, expected: Any) -> None:
    assert row(change(after={**ROW, name: value}))[name] == expected


@pytest.mark.parametrize(
    ("name", "value", "schema"),
    [
        ("price", "1234", None),  # base64 of three bytes, or a number
        ("price", b64(150), None),
        ("price", b64(150), {"type": "bytes"}),
        ("price", b64(150), {**DECIMAL, "parameters": {"scale": "9999999"}}),
        ("price", b64(150), {"type": "bytes", "name": f"{CONNECT}.Decimal"}),
        ("price", base64.b64encode(b"\x7f" * 400).decode(), DECIMAL),
        ("price", "?", DECIMAL),
        ("price", {"scale": 10**9, "value": b64(1)}, VARIABLE),
        ("price", {"scale": 1}, VARIABLE),
        ("price", "1e999999999", {"type": "string"}),
        ("price", "1e-999999999", {"type": "string"}),
        ("price", "1e5000", None),
        ("price", "NaN", {"type": "string"}),
        ("price", "9" * 5000, {"type": "string"}),
        ("price", 5, {"type": "int64", "name": f"{TIME}.MicroTimestamp"}),
        ("price", True, None),
        ("size", "1e999999999", {"type": "string"}),
        ("size", "NaN", {"type": "double"}),
        ("id", 5, {"type": "int64", "name": f"{TIME}.MicroTimestamp"}),
        ("at", MICROS, None),
        ("at", MICROS, {"type": "int64"}),
        ("at", MICROS, {"type": "int64", "name": f"{TIME}.MicroTime"}),
        ("at", 2**62, {"type": "int64", "name": f"{TIME}.Timestamp"}),
        ("at", 10**30, {"type": "int64", "name": f"{TIME}.NanoTimestamp"}),
        ("at", 1.5, {"type": "double"}),
        ("until", 2**31 - 1, DAY),
        ("until", -(10**9), None),
        ("until", 1, {"type": "int64", "name": f"{TIME}.MicroTimestamp"}),
        ("good", 1, None),
        ("Name", 5, None),
        ("Name", "AQI=", {"type": "bytes"}),
        ("Name", {"wkb": "AQI="}, {"type": "struct"}),
        ("Name", "\ud800", None),
        ("Name", ["a"], None),
    ],
)
def test_what_nothing_tells_for_certain_is_refused(name: str, value: Any, schema: Any) -> None:
    after = {**ROW, name: value}
    message = change(after=after) if schema is None else described(after, **{name: schema})
    assert re.match(f"{name} is .* for certain$", reason(message))


@pytest.mark.parametrize(
    ("name", "value", "schema", "text"),
    [
        ("price", "12345678901.00", None, "not a decimal(12,2)"),
        ("price", "1.005", None, "not a decimal(12,2)"),
        ("size", "1e999", None, "not a double that is finite"),
        ("at", "9999-12-31T00:00:00Z", None, "not a timestamp between 1900 and 2199"),
        ("at", 0, {"type": "int64", "name": f"{TIME}.Timestamp"}, ""),
        ("at", -(10**16), {"type": "int64", "name": f"{TIME}.MicroTimestamp"}, "not a timestamp between 1900 and 2199"),
        ("at", "yesterday", None, "not a timestamp"),
        ("until", "soon", None, "not a date"),
        ("id", 2**63, None, "not a bigint"),
    ],
)
def test_values_that_do_not_fit_their_column_are_refused(name: str, value: Any, schema: Any, text: str) -> None:
    after = {**ROW, name: value}
    message = change(after=after) if schema is None else described(after, **{name: schema})
    if not text:
        assert row(message)["at"] == datetime(1970, 1, 1, tzinfo=UTC)
        return
    assert text in reason(message)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (b"{", "it is not JSON"),
        (b"[]", "its JSON is an array, not an object"),
        ({"schema": {}, "payload": 5}, "its payload is the number 5, not an object"),
        ({"schema": 5, "payload": {}}, "its schema is the number 5, not an object"),
        ({"schema": {"fields": 5}, "payload": change()}, "its schema does not describe after"),
        ({"id": 1, "at": AT}, "its op is null, and c, u, d and r are changes of a row"),
        (change("t"), "its op is 't', and c, u, d and r are changes of a row"),
        (change("m"), "its op is 'm'"),
        (change("c", None, None), "it has no after, and its op is c"),
        (change("d", None, None), "it has no before, and its op is d. Give the table a primary key, or REPLICA"),
        (change(after=5), "after is the number 5, not an object"),
        (change(after={"at": AT}), "id is missing"),
        (change(after={"id": 1}), "at is missing"),
        (change("d", {"at": AT}, None), "id is missing"),
        (change("u", {"id": 2}, ROW), "it changes the key id, which takes a deletion and a creation"),
        (change(source=None), "its source is null, not an object"),
        (change(source={"lsn": 5}), "its source has no ts_ms"),
        (change(source={"ts_ms": 10**30}), "its source has no ts_ms"),
        (change(source={"ts_ms": 10**18}), "its source.ts_ms is out of range"),
        (change(source={**SOURCE, "lsn": "0/16B3748"}), "its source.lsn is '0/16B3748', not a position in a log"),
        (change(source={**SOURCE, "lsn": -1}), "its source.lsn is the number -1"),
        (
            change(after={**ROW, "Name": debezium.UNAVAILABLE}),
            "Name is not in the change: it is large, and was not touched. Give the table REPLICA IDENTITY FULL",
        ),
        (described({**ROW, "Name": "x"}), "its schema does not describe Name"),
    ],
)
def test_what_is_no_change_is_refused(message: Any, text: str) -> None:
    assert reason(message).startswith(text), reason(message)


def test_a_refused_message_stops_no_other_and_keeps_its_place() -> None:
    decoded = decode(change(), b"poison", change(after={**ROW, "price": "1.005"}), None, change(after={**ROW, "id": 2}))
    assert [message.offset for message in decoded.messages] == [0, 4]
    assert [json.loads(rejected.row)["offset"] for rejected in decoded.rejected] == [1, 2]
    assert decoded.rows["id"].to_pylist() == [1, 2]

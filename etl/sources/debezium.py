"""Messages in Debezium's JSON format as rows of a bronze table: each change with the row's new state, or its deletion.

What a number or a string means depends on the settings of the connector. The schema in the message says it, where there
is one; otherwise only what the column's type leaves no doubt about is taken. Anything else rejects the message.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias, TypeGuard

from contracts.columns import CHANGE_COLUMNS
from contracts.model import BOOLEAN, DATE, DOUBLE, LONG, STRING, TIMESTAMP, Column, DecimalType, Table
from etl.sources import landing, messages
from etl.sources.landing import LandedFile, Rejected
from etl.sources.messages import Decoded, Message, MessageError
from lake import settings
from lake.publishing import arrow_type

Fields: TypeAlias = "Mapping[str, Any]"
UNAVAILABLE = "__debezium_unavailable_value"
"""What Debezium writes for a large value that an update did not touch, and that the database's log does not have."""
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
INTEGER = re.compile(r"-?[0-9]{1,19}")
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE]([+-]?[0-9]+))?")
BASE64 = re.compile(r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?")
MOST_DIGITS = 100
"""Digits before or behind the point of a number; a decimal column has at most 38."""
CONNECT, TIME = "org.apache.kafka.connect.data.", "io.debezium.time."
DECIMAL, VARIABLE_DECIMAL = f"{CONNECT}Decimal", "io.debezium.data.VariableScaleDecimal"
PER_SECOND = {f"{TIME}Timestamp": 10**3, f"{TIME}MicroTimestamp": 10**6, f"{TIME}NanoTimestamp": 10**9}
PER_SECOND[f"{CONNECT}Timestamp"] = 10**3
"""Schema -> what one second is, of those that count from 1970 on."""
DAYS = (f"{TIME}Date", f"{CONNECT}Date")
TEXTS = {TIMESTAMP: (f"{TIME}ZonedTimestamp", f"{TIME}IsoTimestamp"), DATE: (f"{TIME}IsoDate",)}
"""Schemas of instants and days as ISO 8601 writes them."""


@dataclass(frozen=True)
class _Change:
    """One change: the cells of the contract's columns as text, and where the database made it."""

    cells: list[str | None]
    op: str
    lsn: int | None
    source_at: datetime | None


def decode(table: Table, batch: Sequence[Message], day: date) -> Decoded:
    """The messages as rows, in their order. `day` is that of their loading. Tombstones, which Debezium writes for
    Kafka's compaction after a deletion, are ignored.
    """
    import pyarrow as pa

    columns = [column for column in table.columns if column.name not in landing.ADDED_NAMES]
    kept: list[Message] = []
    changes: list[_Change] = []
    rejected: list[Rejected] = []
    ignored = 0
    for message in batch:
        try:
            if (change := _change(table, message.value, columns)) is None:
                ignored += 1
                continue
        except MessageError as error:
            rejected.append(messages.reject(table, message, day, (str(error),)))
            continue
        kept.append(message)
        changes.append(change)
    cells = list(zip(*(change.cells for change in changes), strict=True)) if changes else [()] * len(columns)
    raw = pa.table([pa.chunked_array([pa.array(values, pa.string())]) for values in cells], [c.name for c in columns])
    typed, reasons = landing.cast_cells(
        table, LandedFile(settings.landing(), messages.topic_of(table), day), raw, columns
    )
    for column, values in zip(CHANGE_COLUMNS, _positions(changes), strict=True):
        typed = typed.append_column(column.name, pa.array(values, arrow_type(column.type)))
    fits = [number not in reasons for number in range(len(kept))]
    rejected += [messages.reject(table, kept[row], day, tuple(causes)) for row, causes in sorted(reasons.items())]
    return Decoded(
        typed.filter(pa.array(fits, pa.bool_())),
        [message for message, fit in zip(kept, fits, strict=True) if fit],
        rejected,
        ignored,
    )


def _positions(changes: Sequence[_Change]) -> tuple[list[Any], ...]:
    """The values of CHANGE_COLUMNS."""
    return [c.op for c in changes], [c.lsn for c in changes], [c.source_at for c in changes]


def _change(table: Table, value: bytes | None, columns: Sequence[Column]) -> _Change | None:
    """The change that a message describes; None for a tombstone, MessageError for what is no change of a row."""
    if value is None:
        return None
    message = messages.parse(value)
    schema: Fields | None = None
    if "payload" in message and "schema" in message:
        schema, message = _object(message["schema"], "its schema"), message["payload"]
        if message is None:
            return None
    change = _object(message, "its payload")
    op = change.get("op")
    if op not in ("c", "u", "d", "r"):
        raise MessageError(f"its op is {_shown(op)}, and c, u, d and r are changes of a row")
    side = "before" if op == "d" else "after"
    if change.get(side) is None:
        remedy = ". Give the table a primary key, or REPLICA IDENTITY FULL" if op == "d" else ""
        raise MessageError(f"it has no {side}, and its op is {op}{remedy}")
    row, types = _object(change[side], side), _types_of(schema, side)
    # without REPLICA IDENTITY FULL a deletion has only its key; other columns may have any value
    known = [column for column in columns if op != "d" or column.name in table.key]
    cells = {column.name: _cell(row, column, types) for column in known}
    _ensure_identified(table, change, op, cells)
    source = _object(change.get("source"), "its source")
    return _Change([cells.get(column.name) for column in columns], op, _lsn(source), _source_at(source))


def _ensure_identified(table: Table, change: Fields, op: str, cells: Mapping[str, str | None]) -> None:
    """MessageError for a change without a key or a day, and for one that moves a row to another key: Debezium writes a
    deletion and a creation for that.
    """
    missing = [name for name in table.key if cells[name] is None]
    if op != "d" and table.time_column and cells.get(table.time_column, "") is None:
        missing.append(table.time_column)
    if missing:
        raise MessageError(f"{', '.join(missing)} is missing")
    before = change.get("before")
    if op == "u" and isinstance(before, dict):
        names = [table.column(name).source_name for name in table.key]
        after = change["after"]
        if moved := [name for name in names if before.get(name) is not None and before[name] != after.get(name)]:
            raise MessageError(f"it changes the key {', '.join(moved)}, which takes a deletion and a creation")


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise MessageError(f"{what} is {_shown(value)}, not an object")
    return value


def _shown(value: Any) -> str:
    """What a JSON value is, for a reason; a short text as it is."""
    is_short = isinstance(value, str) and not messages.is_number(value) and value.isascii() and len(value) < 20
    return repr(value) if is_short else messages.kind_of(value)


# --- schemas


@dataclass(frozen=True)
class _Schema:
    """What the schema of a message says of a field."""

    type: str
    name: str
    scale: int | None


def _types_of(schema: Fields | None, side: str) -> dict[str, _Schema] | None:
    """The schema of each field of `before` or `after`; None for a message without a schema."""
    if schema is None:
        return None
    for part in _fields(schema):
        if part.get("field") == side:
            return {str(field.get("field")): _schema(field) for field in _fields(part)}
    raise MessageError(f"its schema does not describe {side}")


def _fields(schema: Fields) -> list[dict[str, Any]]:
    fields = schema.get("fields")
    return [field for field in fields if isinstance(field, dict)] if isinstance(fields, list) else []


def _schema(field: Fields) -> _Schema:
    parameters = field.get("parameters")
    scale = str(parameters.get("scale", "")) if isinstance(parameters, dict) else ""
    is_scale = INTEGER.fullmatch(scale) and len(scale) < 5
    return _Schema(str(field.get("type")), str(field.get("name") or ""), int(scale) if is_scale else None)


# --- cells


def _cell(row: Fields, column: Column, types: Mapping[str, _Schema] | None) -> str | None:
    """The cell as text, as a CSV file would have it; MessageError where its meaning is not known for certain."""
    name = column.source_name
    value = row.get(name)
    if value is None:
        return None
    if value == UNAVAILABLE:
        raise MessageError(
            f"{name} is not in the change: it is large, and was not touched. Give the table REPLICA IDENTITY FULL"
        )
    schema = None if types is None else types.get(name)
    if types is not None and schema is None:
        raise MessageError(f"its schema does not describe {name}")
    try:
        text = _text(value, column, schema)
    except (ValueError, OverflowError, ArithmeticError):
        text = None
    if text is None:
        called = f" ({schema.name or schema.type})" if schema else ""
        raise MessageError(f"{name} is {_shown(value)}{called}, which is no {column.type.spark} for certain")
    return text


def _text(value: Any, column: Column, schema: _Schema | None) -> str | None:
    """The cell as text; None, or an error of Python, for one whose meaning is not known."""
    if isinstance(column.type, DecimalType) or column.type in (LONG, DOUBLE):
        return _number(value, column, schema)
    return _READERS[column.type](value, schema)


def _number(value: Any, column: Column, schema: _Schema | None) -> str | None:
    name = schema.name if schema else ""
    if name == DECIMAL and schema is not None and schema.scale is not None:
        return _unscaled(value, schema.scale)
    if name == VARIABLE_DECIMAL or isinstance(value, dict):
        struct = value if isinstance(value, dict) else {}
        scale = struct.get("scale")
        return _unscaled(struct.get("value"), int(scale)) if _is_integer(scale) else None
    if name or isinstance(value, bool):
        return None  # a time, bits, or another number with a meaning of its own
    if messages.is_number(value) or (isinstance(value, str) and _is_plain(value, schema)):
        return _bounded(value, column)
    return None


def _is_plain(text: str, schema: _Schema | None) -> bool:
    """Whether a text is a number as it is written, and not the bytes of a decimal: without a schema nothing tells 1234
    from what it encodes.
    """
    return schema.type == "string" if schema else not BASE64.fullmatch(text)


def _bounded(text: str, column: Column) -> str | None:
    """A number of a sensible size, without an exponent for a decimal: 1e999999999 would take a gigabyte."""
    match = NUMBER.fullmatch(text)
    exponent = match[1] if match else None
    if match is None or len(text) > 4 * MOST_DIGITS or (exponent and len(exponent) > 5):
        return None
    if exponent is None or column.type == DOUBLE:
        return str(text)
    return _plain(Decimal(text))


def _plain(number: Decimal) -> str | None:
    """A decimal without an exponent; None for one that is too long."""
    _, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int) or len(digits) > MOST_DIGITS or abs(exponent) > MOST_DIGITS:
        return None
    return f"{number:f}"


def _unscaled(value: Any, scale: int) -> str | None:
    """A decimal whose digits are the bytes of a big-endian integer, in base64."""
    if not isinstance(value, str) or len(value) > MOST_DIGITS or abs(scale) > MOST_DIGITS:
        return None
    try:
        content = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        return None
    if not content:
        return None
    sign, digits, _ = Decimal(int.from_bytes(content, "big", signed=True)).as_tuple()
    return _plain(Decimal((sign, digits, -scale)))  # scaleb rounds to the 28 digits of Python's decimal context


def _boolean(value: Any, schema: _Schema | None) -> str | None:
    return ("true" if value else "false") if isinstance(value, bool) and not (schema and schema.name) else None


def _string(value: Any, schema: _Schema | None) -> str | None:
    """A string that is text: bytes come as base64, and decimals, too."""
    if not isinstance(value, str) or messages.is_number(value) or (schema and schema.type != "string"):
        return None
    return value if messages.is_text(value) else None


def _date(value: Any, schema: _Schema | None) -> str | None:
    name = schema.name if schema else ""
    if _is_integer(value):
        return _day(value).isoformat() if schema is None or name in DAYS else None
    if isinstance(value, str) and not messages.is_number(value):
        return value.removesuffix("Z") if schema is None or name in TEXTS[DATE] else None
    return None


def _timestamp(value: Any, schema: _Schema | None) -> str | None:
    """An instant. A number without a schema may be milliseconds or microseconds: nothing tells."""
    name = schema.name if schema else ""
    if _is_integer(value):
        if name in PER_SECOND:
            microseconds = int(value) * 10**6 // PER_SECOND[name]
            return (EPOCH + timedelta(microseconds=microseconds)).isoformat()
        return _day(value).isoformat() if name in DAYS else None
    if isinstance(value, str) and not messages.is_number(value):
        return value if schema is None or name in TEXTS[TIMESTAMP] else None
    return None


def _day(value: str) -> date:
    return EPOCH.date() + timedelta(days=int(value))


def _is_integer(value: Any) -> TypeGuard[str]:
    return bool(messages.is_number(value) and INTEGER.fullmatch(value))


_READERS: Mapping[Any, Callable[[Any, _Schema | None], str | None]] = {
    BOOLEAN: _boolean,
    STRING: _string,
    DATE: _date,
    TIMESTAMP: _timestamp,
}


# --- the source


def _lsn(source: Fields) -> int | None:
    """The position in PostgreSQL's log; None for other databases."""
    lsn = source.get("lsn")
    if lsn is None:
        return None
    if not _is_integer(lsn) or not 0 <= int(lsn) < 1 << 63:
        raise MessageError(f"its source.lsn is {_shown(lsn)}, not a position in a log")
    return int(lsn)


def _source_at(source: Fields) -> datetime | None:
    """When the database made the change, as exactly as the message says."""
    for name, per_second in (("ts_ns", 10**9), ("ts_us", 10**6), ("ts_ms", 10**3)):
        value = source.get(name)
        if _is_integer(value):
            try:
                return EPOCH + timedelta(microseconds=int(value) * 10**6 // per_second)
            except OverflowError:
                raise MessageError(f"its source.{name} is out of range") from None
    raise MessageError("its source has no ts_ms, so nothing orders it among the changes of its row")

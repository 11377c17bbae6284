"""Messages of a Kafka topic as rows of a bronze table.

A message whose value is no JSON object, or has a cell that does not fit its column, is rejected with a reason; it never
stops the others.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from types import NoneType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import msgspec

from contracts.model import BOOLEAN, DATE, STRING, TIMESTAMP, Column, Table
from etl.sources import landing
from etl.sources.landing import LandedFile, Rejected
from lake import settings

if TYPE_CHECKING:
    import pyarrow as pa


SHOWN = 5
"""Names of fields in a reason."""


class Message(NamedTuple):
    """A message: its place in the topic, and its value."""

    partition: int
    offset: int
    value: bytes | None


@dataclass(frozen=True)
class Decoded:
    """The rows of a batch in the contract's own columns, the messages that they come from, and the rejected messages.

    `rows` and `messages` are in the same order. `ignored` messages say nothing of a row.
    """

    rows: pa.Table
    messages: list[Message]
    rejected: list[Rejected]
    ignored: int = 0


class MessageError(ValueError):
    """A message is no row; the text says why."""


class _Number(str):
    """A number of JSON, as it is written: a double would lose digits of a decimal."""

    __slots__ = ()


_decode_quickly = msgspec.json.Decoder(dict[str, Any], float_hook=_Number).decode
NEGATIVE_ZERO = re.compile(rb"[\s:]-0[\s,}]")
"""Integers lose how they are written: -0 would be 0, and no negative double."""
FLAT = frozenset((str, int, _Number, bool, NoneType))


def ends(batch: Sequence[Message]) -> dict[int, int]:
    """The next offset of each partition after a batch."""
    following: dict[int, int] = {}
    for message in batch:
        following[message.partition] = max(following.get(message.partition, 0), message.offset + 1)
    return following


def name_of(topic: str, message: Message) -> str:
    """What a message is called where a landed file has its name. Names of a partition's messages sort as they do."""
    return f"kafka/{topic}/{message.partition}/{message.offset:020}"


def decode(table: Table, messages: Sequence[Message], day: date) -> Decoded:
    """The messages as rows, in their order. `day` is that of their loading."""
    import pyarrow as pa

    columns = [column for column in table.columns if column.name not in landing.ADDED_NAMES]
    rejected: list[Rejected] = []
    kept: list[Message] = []
    rows: list[list[str | None]] = []
    kinds = [(column.source_name, _kinds(column)) for column in columns]
    for message in messages:
        try:
            rows.append(_flat_cells(message.value, kinds) or _cells(message.value, columns))
            kept.append(message)
        except MessageError as error:
            rejected.append(reject(table, message, day, (str(error),)))
    cells = list(zip(*rows, strict=True)) if rows else [()] * len(columns)
    raw = pa.table(
        [pa.chunked_array([pa.array(values, pa.string())]) for values in cells], names=[c.name for c in columns]
    )
    whole = LandedFile(settings.landing(), topic_of(table), day)
    typed, reasons = landing.cast_cells(table, whole, raw, columns)
    if not reasons:
        return Decoded(typed, kept, rejected)
    rejected += [reject(table, kept[row], day, tuple(causes)) for row, causes in sorted(reasons.items())]
    fits = [row not in reasons for row in range(len(kept))]
    return Decoded(
        typed.filter(pa.array(fits)),
        [message for message, fit in zip(kept, fits, strict=True) if fit],
        rejected,
    )


def topic_of(table: Table) -> str:
    """The name of the table's topic."""
    if table.topic is None:
        raise ValueError(f"{table.qualified} has no topic")
    return table.topic.name


def _cells(value: bytes | None, columns: Sequence[Column]) -> list[str | None]:
    """The message's cells as text, as a CSV file would have them."""
    if value is None:
        raise MessageError("it has no value, and a table of rows has no use for a deletion")
    row = parse(value)
    return [_cell(row.get(column.source_name), column) for column in columns]


def _flat_cells(value: bytes | None, columns: Sequence[tuple[str, frozenset[type]]]) -> list[str | None] | None:
    """What `_cells` returns, in a quarter of its time; None where that cannot be told, or the message is no row.

    `columns` have the names and the kinds of JSON that they take.
    """
    if value is None or b"\\" in value:
        return None
    try:
        row = _decode_quickly(value)
    except (ValueError, RecursionError):
        return None
    found = [*map(type, row.values())]
    has_names_once = value.count(b'"') == 2 * (len(found) + found.count(str))
    is_exact = not (0 in row.values() and NEGATIVE_ZERO.search(value))
    if not (has_names_once and is_exact and FLAT.issuperset(found)):
        return None
    cells: list[str | None] = []
    for name, kinds in columns:
        cell = row.get(name)
        kind = type(cell)
        if kind not in kinds:
            return None
        cells.append(str(cell).lower() if kind is int or kind is bool else cell)
    return cells


def _kinds(column: Column) -> frozenset[type]:
    """The kinds of JSON that `_cell` takes in a column."""
    takes_numbers = column.type not in (STRING, BOOLEAN, DATE, TIMESTAMP)
    return frozenset((NoneType, str, *((int, _Number) if takes_numbers else ()), *((bool,) * (column.type == BOOLEAN))))


def parse(value: bytes) -> dict[str, Any]:
    """The JSON object of a message, with numbers as they are written; MessageError for anything else."""
    try:
        row = json.loads(
            value.decode(),
            parse_int=_Number,
            parse_float=_Number,
            parse_constant=_refuse_constant,
            object_pairs_hook=_unique,
        )
    except UnicodeDecodeError as error:
        raise MessageError("it is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise MessageError(f"it is not JSON: {error.msg} at character {error.pos}") from error
    except RecursionError as error:
        raise MessageError("it is nested too deeply") from error
    if not isinstance(row, dict):
        raise MessageError(f"its JSON is {kind_of(row)}, not an object")
    return row


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        counts = Counter(name for name, _ in pairs)
        twice = sorted(_printable(name) for name, count in counts.items() if count > 1)
        more = f" and {len(twice) - SHOWN:,} more" if len(twice) > SHOWN else ""
        raise MessageError(f"it has {', '.join(twice[:SHOWN])}{more} more than once")
    return fields


def _printable(name: str) -> str:
    """A field's name for a message, short and as text."""
    return name[:60].encode("utf-8", "backslashreplace").decode()


def _refuse_constant(name: str) -> NoReturn:
    raise MessageError(f"{name} is no JSON")


def _cell(value: Any, column: Column) -> str | None:
    """The cell as text; MessageError where its kind of JSON is not that of the column."""
    if value is None:
        return None
    if isinstance(value, bool):
        if column.type == BOOLEAN:
            return "true" if value else "false"
    elif isinstance(value, _Number):
        if column.type not in (STRING, BOOLEAN, DATE, TIMESTAMP):
            return value
    elif isinstance(value, str):
        if not (value.isascii() or is_text(value)):
            raise MessageError(f"{column.source_name} is not text: half of a surrogate pair stands alone")
        return value
    raise MessageError(f"{column.source_name} is {kind_of(value)}, not a {column.type.spark}")


def is_text(value: str) -> bool:
    """Whether a string of JSON is text: half of a surrogate pair is not."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_number(value: Any) -> bool:
    """Whether a value of `parse` is a number: the text of it."""
    return isinstance(value, _Number)


def kind_of(value: Any) -> str:
    """What a JSON value is, without its content."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, _Number):
        return f"the number {value}" if len(value) < 40 else "a long number"
    if isinstance(value, str):
        return "a string"
    return "an array" if isinstance(value, list) else "an object"


def reject(table: Table, message: Message, day: date, reasons: tuple[str, ...]) -> Rejected:
    """A rejected message, with its topic, partition, offset and value."""
    topic = topic_of(table)
    place = {"topic": topic, "partition": message.partition, "offset": message.offset}
    text = "" if message.value is None else message.value.decode(errors="backslashreplace")
    row = json.dumps({**place, "value": text}, ensure_ascii=False)
    return Rejected(name_of(topic, message), day, row, reasons)

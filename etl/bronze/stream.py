"""Stage messages of a topic for a bronze table: each message once, whatever is read again.

Messages before the offsets of the table's commits (`etl.sources.offsets`) are in the table, or in its quarantine, and
are skipped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from contracts.columns import AUDIT_COLUMNS, STREAM_COLUMNS
from contracts.interval import Interval, days_of
from contracts.model import Load, Table
from etl.bronze.load import days_in, load_time
from etl.sources import debezium, messages, offsets
from etl.sources.landing import LandingError, Rejected
from etl.sources.messages import Decoded, Message
from etl.sources.offsets import Start
from lake import delta, storage
from lake.publishing import arrow_type

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class LoadedMessages:
    """The result of loading messages: how many were new, the rows that were staged, the first and last name of the new
    messages of each partition, and what to commit with them.
    """

    rows_in: int
    staged: int
    rejected: list[Rejected]
    changed_days: tuple[Interval, ...]
    spans: tuple[tuple[str, str], ...]
    transactions: dict[str, int]


def load(
    table: Table, batch: Sequence[Message], stage: Path, identity: int, starts: Mapping[int, Start]
) -> LoadedMessages:
    """Stage the messages that the table has not read in the folder `stage`, in one parquet file. The caller holds the
    table's lock until it has published. `identity` is that of the topic they come from.

    LandingError where the table ends before `starts`: messages between the two would be lost.
    """
    import pyarrow.parquet as pq

    recorded = offsets.next_offsets(table, sorted({*starts, *(message.partition for message in batch)}))
    new = _unread(table, batch, starts, recorded)
    loaded_at = load_time(table, delta.open_table(table.qualified))
    decode = debezium.decode if table.is_change_stream else messages.decode
    decoded = decode(table, new, loaded_at.date())
    if decoded.rows.num_rows:
        rows = with_added_columns(table, decoded, loaded_at)
        storage.make_folder(stage)
        with (stage / "messages.parquet").open("wb") as output:
            pq.write_table(rows, output, compression="zstd", store_schema=False)
    topic, ends = messages.topic_of(table), _spans(new)
    return LoadedMessages(
        len(new) - decoded.ignored,
        decoded.rows.num_rows,
        decoded.rejected,
        days_of(_days(table, decoded, loaded_at)),
        tuple((messages.name_of(topic, first), messages.name_of(topic, last)) for first, last in ends),
        offsets.transactions(topic, identity, _next(starts, recorded, ends)) if ends else {},
    )


def _next(
    starts: Mapping[int, Start], recorded: Mapping[int, int | None], ends: Sequence[tuple[Message, Message]]
) -> dict[int, int]:
    """The next offset of each partition with new messages, and of those of which none was read yet."""
    unread = {partition: start.offset for partition, start in starts.items() if recorded[partition] is None}
    return unread | {last.partition: last.offset + 1 for _, last in ends}


def _unread(
    table: Table, batch: Sequence[Message], starts: Mapping[int, Start], recorded: Mapping[int, int | None]
) -> list[Message]:
    """The messages that the table has not read, each once, in the order of their offsets."""
    for partition in {message.partition for message in batch}:
        expected, end = starts[partition].recorded if partition in starts else None, recorded[partition]
        if expected is not None and (end is None or end < expected):
            raise LandingError(
                f"{table.qualified}: it had read partition {partition} of {messages.topic_of(table)} up to"
                f" {expected:,}, and now ends at {end or 0:,}: it was removed or restored. Messages are read again from"
                " there"
            )
    distinct = {
        (message.partition, message.offset): message
        for message in batch
        if message.offset >= (recorded[message.partition] or 0)
    }
    return [distinct[place] for place in sorted(distinct)]


def _spans(new: Sequence[Message]) -> list[tuple[Message, Message]]:
    """The first and the last message of each partition; they are in order."""
    first: dict[int, Message] = {}
    last: dict[int, Message] = {}
    for message in new:
        first.setdefault(message.partition, message)
        last[message.partition] = message
    return [(first[partition], last[partition]) for partition in first]


def with_added_columns(table: Table, decoded: Decoded, loaded_at: datetime) -> pa.Table:
    """The decoded rows in the contract's columns, with where they come from."""
    import pyarrow as pa

    topic, count = messages.topic_of(table), len(decoded.messages)
    added = {
        "_file": [messages.name_of(topic, message) for message in decoded.messages],
        "_file_hash": [hashlib.sha256(message.value or b"").hexdigest() for message in decoded.messages],
        "_landed_date": [loaded_at.date()] * count,
        "_loaded_at": [loaded_at] * count,
        "_partition": [message.partition for message in decoded.messages],
        "_offset": [message.offset for message in decoded.messages],
    }
    rows = decoded.rows
    for column in (*AUDIT_COLUMNS, *STREAM_COLUMNS):
        rows = rows.append_column(column.name, pa.array(added[column.name], arrow_type(column.type)))
    return rows.select(table.column_names)


def _days(table: Table, decoded: Decoded, loaded_at: datetime) -> set[date]:
    if table.time_column == "_landed_date" or table.load == Load.CHANGES:
        return {loaded_at.date()} if decoded.messages else set()
    return days_in(table, decoded.rows)

"""Stage messages of a topic for a bronze table on a Spark cluster: its executors read, decode and write them.

What is staged is what `etl.bronze.stream` stages of the same messages, and it is published in the same way.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyspark.sql import functions as F

from contracts.interval import days_of
from contracts.model import DATE, Load, Table
from etl import engine
from etl.bronze.load import load_time
from etl.bronze.stream import LoadedMessages, with_added_columns
from etl.sources import debezium, messages, offsets
from etl.sources.landing import LandingError, Rejected
from etl.sources.messages import Message
from etl.sources.offsets import Start
from lake import delta, settings, storage
from lake.publishing import nullable_schema

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

REASONS, ROW = "_reasons", "_row"
"""Columns beside those of the contract: why a message is rejected, and what it holds."""


class ClusterError(RuntimeError):
    """The cluster cannot read topics; the message says what it lacks."""


def load(
    table: Table, stage: Path, identify: Callable[[], int], starts: Mapping[int, Start], ends: Mapping[int, int]
) -> LoadedMessages:
    """Stage the messages from `starts` to `ends` in the folder `stage`. The caller holds the table's lock until it has
    published. `identify` returns the topic's identity, after they were read, and raises where it is another topic.

    LandingError where the table has read another number of them than `starts` says.
    """
    recorded = offsets.next_offsets(table, sorted(starts))
    if moved := [partition for partition, start in starts.items() if recorded[partition] != start.recorded]:
        raise LandingError(
            f"{table.qualified}: another writer has read partition {moved[0]} of {messages.topic_of(table)} meanwhile,"
            " or the table was restored. Messages are read again from where it ends"
        )
    loaded_at = load_time(table, delta.open_table(table.qualified))
    ranges = {partition: (starts[partition].offset, ends[partition]) for partition in sorted(starts)}
    topic, scratch = messages.topic_of(table), stage.parent / f"{uuid.uuid4().hex}-decoded"
    with _translate_errors():
        _decoded(table, ranges, loaded_at).write.parquet(str(scratch))
    decoded = engine.session().read.schema(_ddl(table)).parquet(str(scratch))
    decoded.filter(F.col(REASONS).isNull()).select(*table.column_names).write.parquet(str(stage))
    rejected = [_rejected(row) for row in decoded.filter(F.col(REASONS).isNotNull()).toArrow().to_pylist()]
    rows = sum(storage.footer(path).num_rows for path in storage.tree(stage, ".parquet"))
    days = _days(table, stage)
    storage.remove_tree(scratch)
    spans = [
        tuple(messages.name_of(topic, Message(partition, at, None)) for at in (start, end - 1))
        for partition, (start, end) in ranges.items()
        if start < end
    ]
    return LoadedMessages(
        rows + len(rejected),
        rows,
        rejected,
        days_of(days),
        tuple((first, last) for first, last in spans),
        offsets.transactions(topic, identify(), {partition: end for partition, (_, end) in ranges.items()}),
    )


def _decoded(table: Table, ranges: Mapping[int, tuple[int, int]], loaded_at: datetime) -> DataFrame:
    """The messages of these offsets: rows in the contract's columns, or reasons why they are none."""
    topic = messages.topic_of(table)
    options = {
        **_client_options(),
        "assign": json.dumps({topic: [*ranges]}),
        "startingOffsets": json.dumps({topic: {str(partition): start for partition, (start, _) in ranges.items()}}),
        "endingOffsets": json.dumps({topic: {str(partition): end for partition, (_, end) in ranges.items()}}),
        "kafka.isolation.level": "read_committed",
        "failOnDataLoss": "true",
    }
    read = engine.session().read.format("kafka").options(**options).load().select("partition", "offset", "value")
    return read.mapInArrow(_Decode(table, loaded_at), _ddl(table))


@contextmanager
def _translate_errors() -> Iterator[None]:
    """Raise ClusterError, with a remedy, for what a cluster may lack."""
    try:
        yield
    except Exception as error:
        if "source: kafka" in str(error) or "DATA_SOURCE_NOT_FOUND" in str(error):
            raise ClusterError(
                "the engine has no Kafka source. Start its Spark with --packages"
                " org.apache.spark:spark-sql-kafka-0-10_2.13:4.1.1, or unset MILLRACE_STREAM_READER"
            ) from None
        if "ModuleNotFoundError" in str(error):
            raise ClusterError(
                "the cluster's Python cannot import Millrace. Let PYTHONPATH there name a checkout, and install the"
                " packages of requirements/pipeline.txt, or unset MILLRACE_STREAM_READER"
            ) from None
        raise


class _Decode:
    """Decodes messages on an executor, which must be able to import Millrace."""

    def __init__(self, table: Table, loaded_at: datetime) -> None:
        self.table, self.loaded_at = table, loaded_at

    def __call__(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            received = [Message(row["partition"], row["offset"], row["value"]) for row in batch.to_pylist()]
            yield from decoded_batch(self.table, received, self.loaded_at).to_batches()


def decoded_batch(table: Table, received: list[Message], loaded_at: datetime) -> pa.Table:
    """Messages as rows, with REASONS and ROW where they are rejected."""
    import pyarrow as pa

    decode = debezium.decode if table.is_change_stream else messages.decode
    decoded = decode(table, received, loaded_at.date())
    schema = nullable_schema(table)
    schema = schema.append(pa.field(REASONS, pa.list_(pa.string()))).append(pa.field(ROW, pa.string()))
    good = with_added_columns(table, decoded, loaded_at).cast(nullable_schema(table)).to_pylist()
    bad = [
        {"_file": row.file, "_landed_date": row.day, REASONS: list(row.reasons), ROW: row.row}
        for row in decoded.rejected
    ]
    return pa.Table.from_pylist([*good, *bad], schema=schema)


def _ddl(table: Table) -> str:
    columns = ", ".join(f"{column.name} {column.type.spark}" for column in table.columns)
    return f"{columns}, {REASONS} array<string>, {ROW} string"


def _rejected(row: Mapping[str, Any]) -> Rejected:
    return Rejected(row["_file"], row["_landed_date"], row[ROW], tuple(row[REASONS]))


def _days(table: Table, stage: Path) -> set[Any]:
    """The days of the staged rows."""
    column = (table.time_column if table.load != Load.CHANGES else None) or "_landed_date"
    day = F.col(column) if table.column(column).type == DATE else F.to_date(column)
    paths = [str(path) for path in storage.tree(stage, ".parquet")]
    if not paths:
        return set()
    found = engine.session().read.parquet(*paths).select(day.alias("day")).distinct().collect()
    return {row["day"] for row in found if row["day"]}


def _client_options() -> dict[str, str]:
    """The settings of the client in the names that Java has for them."""
    options = {"kafka.bootstrap.servers": settings.kafka()}
    conf = settings.kafka_conf()
    for name in ("security.protocol", "sasl.mechanism", "ssl.endpoint.identification.algorithm"):
        if name in conf:
            options[f"kafka.{name}"] = conf[name]
    if "ssl.ca.location" in conf:
        options |= {"kafka.ssl.truststore.type": "PEM", "kafka.ssl.truststore.location": conf["ssl.ca.location"]}
    if "sasl.username" in conf:
        plain = conf.get("sasl.mechanism", "PLAIN") == "PLAIN"
        module = "plain.PlainLoginModule" if plain else "scram.ScramLoginModule"
        user, password = (json.dumps(conf.get(name, "")) for name in ("sasl.username", "sasl.password"))
        options["kafka.sasl.jaas.config"] = (
            f"org.apache.kafka.common.security.{module} required username={user} password={password};"
        )
    return options

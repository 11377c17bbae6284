"""Read the topics of bronze tables from Kafka: each partition from the offset that the table's commits name.

Partitions are assigned, not shared out by a consumer group: the table is what says how far it has read. The group
`millrace-lake` only gets the offsets for Kafka's own tools.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from contracts.model import Table
from etl.sources import messages, offsets
from etl.sources.messages import Message
from etl.sources.offsets import Start
from lake import settings
from lake.topics import UNKNOWN

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, TopicPartition
    from confluent_kafka.admin import AdminClient

GROUP = "millrace-lake"
TIMEOUT = 10.0
"""Seconds for a request to the brokers."""
REFRESH_SECONDS = 10.0
"""How often to look for partitions that were added."""
LARGEST_MESSAGE = 64 << 20
"""Bytes that a partition may return at once; a single larger message is returned all the same."""
log = logging.getLogger("millrace")
CLIENT_LOG = logging.getLogger("millrace.kafka.client")
CLIENT_LOG.setLevel(logging.CRITICAL)
"""The client repeats each failed connection many times a second; `Reader.problem` has it once."""
QUIET = {"log_level": 0}
"""For clients that are not polled, which would print each failed connection."""
Client = TypeVar("Client")


class StreamError(RuntimeError):
    """A topic cannot be read, or not without losing messages; the text names it and the remedy."""


class UnreachableError(StreamError):
    """The brokers do not answer, or not in time: nothing is missing, and they may answer later."""


@dataclass(frozen=True)
class Lag:
    """How far a table is behind a partition: the next offset that it reads, the partition's first and end offsets."""

    table: str
    topic: str
    partition: int
    next_offset: int | None
    first: int
    end: int

    @property
    def messages(self) -> int:
        """Messages of the partition that the table has not read."""
        return self.end - max(self.next_offset or 0, self.first)


def configuration() -> dict[str, Any]:
    """The settings of a client; StreamError without brokers."""
    brokers = settings.kafka()
    if not brokers:
        raise StreamError("MILLRACE_KAFKA is not set. Set it to the brokers, such as localhost:9092")
    return {"bootstrap.servers": brokers, "client.id": "millrace", **settings.kafka_conf()}


def connect(make: Callable[[dict[str, Any]], Client], enforced: Mapping[str, Any] | None = None) -> Client:
    """A client with the settings; StreamError for settings that it refuses, without their values."""
    from confluent_kafka import KafkaException

    try:
        return make({**configuration(), **(enforced or {})})
    except (KafkaException, TypeError, ValueError):
        raise StreamError(
            "the Kafka client refuses MILLRACE_KAFKA_CONF. Give settings of librdkafka as key=value,key=value; a value"
            " with a comma needs a line of its own in the file that MILLRACE_KAFKA_CONF_FILE names"
        ) from None


class Reader:
    """Reads the topics of some bronze tables, in batches of messages by table."""

    def __init__(self, tables: Sequence[Table]) -> None:
        from confluent_kafka import Consumer
        from confluent_kafka.admin import AdminClient

        self.tables = {messages.topic_of(table): table for table in tables}
        if len(self.tables) < len(tables):
            names = " and ".join(table.qualified for table in tables)
            raise StreamError(f"of {names}, two have the same topic. Give each its own, or make silver tables of one")
        self.problem = "the brokers have not answered yet"
        """Why the brokers cannot be reached; empty while they can."""
        self._identities: dict[str, int] = {}
        self._assigned: dict[tuple[str, int], int] = {}
        self._started: dict[tuple[str, int], Start] = {}
        self._ends: dict[tuple[str, int], int] = {}
        self._refreshed = float("-inf")
        self._admin = connect(AdminClient, QUIET)
        own = {
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "fetch.message.max.bytes": LARGEST_MESSAGE,
            "receive.message.max.bytes": 2 * LARGEST_MESSAGE,
            "queued.max.messages.kbytes": 64 << 10,
            "error_cb": lambda error: self._note(error.str()),
        }
        self._consumer = connect(lambda conf: Consumer({"group.id": GROUP, **conf}, logger=CLIENT_LOG), own)

    def read(self, most: int, seconds: float) -> list[tuple[Table, Message]]:
        """Up to `most` messages, of the next `seconds`; none while the brokers do not answer. StreamError where some
        can no longer be read.
        """
        from confluent_kafka import KafkaError

        if time.monotonic() - self._refreshed >= REFRESH_SECONDS:
            try:
                self._refresh()
                self.problem = ""
            except UnreachableError as error:
                self._note(str(error))
        found = []
        for received in self._consumer.consume(most, seconds):
            failure = received.error()
            if failure and failure.code() == KafkaError._PARTITION_EOF:
                self._ends[received.topic() or "", received.partition() or 0] = received.offset() or 0
                continue
            if failure:
                self._raise_or_note(failure, received.topic())
                continue
            message = Message(received.partition() or 0, received.offset() or 0, received.value())
            found.append((self.tables[received.topic() or ""], message))
        return found

    def unread(self, table: Table) -> tuple[dict[int, Start], dict[int, int]]:
        """Where the table's reading starts and the topic ends, by partition, for a reader elsewhere. StreamError where
        messages are gone.
        """
        topic = messages.topic_of(table)
        if topic not in self._identities:
            self._ensure_messages_are_kept(table)
        self._identities[topic] = self.identity(table)
        starts = self._find_starts(table, self._partitions(topic))
        return starts, {partition: self._watermarks(topic, partition)[1] for partition in starts}

    def starts(self, table: Table) -> dict[int, Start]:
        """Where the reading of each partition started."""
        topic = messages.topic_of(table)
        return {partition: start for (name, partition), start in self._started.items() if name == topic}

    def gaps(self, table: Table) -> dict[int, tuple[int, int]]:
        """Partition -> from which offset to which one there is no message for readers: transactions were aborted there,
        or leave their marks.
        """
        topic = messages.topic_of(table)
        ends = {partition: self._ends.get((topic, partition), 0) for partition in self.starts(table)}
        return {
            partition: (start.offset, ends[partition])
            for partition, start in self.starts(table).items()
            if start.offset < ends[partition]
        }

    def identity(self, table: Table) -> int:
        """The identity of the topic that is read; StreamError where it was created again since."""
        topic = messages.topic_of(table)
        known, current = self._identities.get(topic, UNKNOWN), identity_of(self._admin, topic)
        if UNKNOWN not in (known, current) and known != current:
            raise StreamError(_created_again(table, topic))
        return known or current

    def acknowledge(self, table: Table, read: Mapping[int, int]) -> None:
        """Note how far the table has read, and tell Kafka for its own tools: best effort, the table decides."""
        from confluent_kafka import KafkaException, TopicPartition

        topic = messages.topic_of(table)
        self._started |= {(topic, partition): Start(offset, offset) for partition, offset in read.items()}
        with suppress(KafkaException):
            self._consumer.commit(
                offsets=[TopicPartition(topic, partition, offset) for partition, offset in read.items()],
                asynchronous=True,
            )

    def rewind(self) -> None:
        """Read all tables again from where their commits end. Nothing is read before that is known."""
        self._consumer.unassign()
        self._assigned.clear()
        self._ends.clear()
        self._refreshed = float("-inf")

    def ranges(self, table: Table) -> dict[int, tuple[int, int]]:
        """Partition -> the offset of its first message, and that after its last one."""
        topic = messages.topic_of(table)
        return {partition: self._watermarks(topic, partition) for partition in self._partitions(topic)}

    def lags(self) -> Iterator[Lag]:
        """How far each table is behind each partition of its topic."""
        for topic, table in self.tables.items():
            ranges = self.ranges(table)
            read = offsets.next_offsets(table, [*ranges])
            for partition, (first, end) in ranges.items():
                yield Lag(table.qualified, topic, partition, read[partition], first, end)

    def close(self) -> None:
        """Leave the brokers."""
        self._consumer.close()

    def _refresh(self) -> None:
        """Assign partitions that are not assigned yet, each from the offset that the table's commits name."""
        from confluent_kafka import KafkaException

        assigned, started = dict(self._assigned), dict(self._started)
        for topic, table in self.tables.items():
            if topic not in self._identities:
                self._ensure_messages_are_kept(table)
            self._identities[topic] = self.identity(table)
            new = [partition for partition in self._partitions(topic) if (topic, partition) not in assigned]
            for partition, start in self._find_starts(table, new).items():
                assigned[topic, partition], started[topic, partition] = start.offset, start
        if assigned != self._assigned:
            try:
                places = self._consumer.position(self._consumer.assignment())
                positions = {(place.topic, place.partition): place.offset for place in places if place.offset >= 0}
                self._consumer.assign(
                    [_position(*place, positions.get(place, start)) for place, start in assigned.items()]
                )
            except KafkaException as error:
                raise UnreachableError(f"partitions cannot be assigned: {error.args[0].str()}") from error
            self._assigned, self._started = assigned, started
        self._refreshed = time.monotonic()

    def _find_starts(self, table: Table, partitions: Sequence[int]) -> dict[int, Start]:
        """Where to read each partition from; StreamError where messages from there on are gone. A table that has read
        the topic reads a partition that was added from offset 0.
        """
        topic, starts = messages.topic_of(table), dict[int, Start]()
        has_read = offsets.identity_of(table) is not None
        if offsets.is_another(table, self._identities[topic]):
            raise StreamError(_created_again(table, topic))
        for partition, following in offsets.next_offsets(table, partitions).items():
            first, end = self._watermarks(topic, partition)
            start = following if following is not None else 0 if has_read else first
            if start < first:
                raise StreamError(
                    f"{table.qualified}: messages {start:,} to {first - 1:,} of partition {partition} of {topic} are"
                    " gone: Kafka's retention passed them before they were read. Land them as files if their source"
                    f" still has them, then: millrace stream skip {table.qualified}"
                )
            if start > end:
                raise StreamError(
                    f"{table.qualified}: it has read partition {partition} of {topic} up to {start:,}, which ends at"
                    f" {end:,}: the topic was created again, or its brokers lost messages. To read it from its"
                    f" beginning: millrace stream skip {table.qualified}"
                )
            starts[partition] = Start(following, start)
        return starts

    def _partitions(self, topic: str) -> list[int]:
        """The partitions of a topic; StreamError where there is no such topic."""
        from confluent_kafka import KafkaException

        try:
            described = self._consumer.list_topics(topic, timeout=TIMEOUT).topics[topic]
        except KafkaException as error:
            raise UnreachableError(
                f"the brokers {settings.kafka()}, which MILLRACE_KAFKA names, do not answer: {error.args[0].str()}"
            ) from error
        if described.error:
            raise StreamError(
                f"the topic {topic} of {self.tables[topic].qualified} cannot be read: {described.error.str()}. Create"
                " it, or name another one in the contract"
            )
        return sorted(described.partitions)

    def _watermarks(self, topic: str, partition: int) -> tuple[int, int]:
        """The offsets of the first message and after the last."""
        from confluent_kafka import KafkaException

        try:
            first, end = self._consumer.get_watermark_offsets(_position(topic, partition), timeout=TIMEOUT)
        except KafkaException as error:
            raise UnreachableError(
                f"partition {partition} of {topic} does not answer: {error.args[0].str()}"
            ) from error
        return first, end

    def _ensure_messages_are_kept(self, table: Table) -> None:
        """StreamError for a topic that Kafka compacts: messages that are not read yet may go without a trace. Of a
        topic of changes the newest of each key is enough to end at the right rows, so that is only a warning.
        """
        topic = messages.topic_of(table)
        if "compact" not in self._cleanup_policy(topic):
            return
        problem = (
            f"{table.qualified}: Kafka compacts the topic {topic} (cleanup.policy), so messages whose key comes again"
            " go before they are read, and nothing tells"
        )
        if not table.is_change_stream:
            raise StreamError(
                f"{problem}. Set it to delete: kafka-configs.sh --alter --entity-type topics --entity-name {topic}"
                " --add-config cleanup.policy=delete. Or write the messages to a topic of their own"
            )
        log.warning("%s: a row keeps its newest change, and may lack some before it", problem)

    def _cleanup_policy(self, topic: str) -> str:
        """The topic's `cleanup.policy`; empty where this user may not see it, or the brokers do not answer."""
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import ConfigResource  # type: ignore[attr-defined]

        resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
        try:
            request = self._admin.describe_configs([resource], request_timeout=TIMEOUT)
            entries = request[resource].result()
        except KafkaException:
            return ""
        entry = entries.get("cleanup.policy")
        return str(entry.value) if entry else ""

    def _raise_or_note(self, error: KafkaError, topic: str | None) -> None:
        """StreamError for a topic that is gone; after an offset that is gone, look where to read from. Other errors
        pass, and are noted.
        """
        from confluent_kafka import KafkaError as Errors

        if error.code() in (Errors.UNKNOWN_TOPIC_OR_PART, Errors._UNKNOWN_TOPIC, Errors._UNKNOWN_PARTITION):
            raise StreamError(f"the topic {topic} was deleted. Create it again, or name another one in the contract")
        if error.code() in (Errors._AUTO_OFFSET_RESET, Errors.OFFSET_OUT_OF_RANGE):
            self.rewind()
        self._note(error.str())

    def _note(self, problem: str) -> None:
        if problem != self.problem:
            log.warning("Kafka: %s", problem)
        self.problem = problem


def identity_of(admin: AdminClient, topic: str) -> int:
    """A number for Kafka's id of a topic, which a topic of that name that is created later does not have; UNKNOWN where
    the brokers give no ids, or do not answer.
    """
    from confluent_kafka import KafkaException, TopicCollection

    try:
        request = admin.describe_topics(TopicCollection([topic]), request_timeout=TIMEOUT)
        described = request[topic].result()
    except KafkaException:
        return UNKNOWN
    digest = hashlib.sha256(str(described.topic_id).encode()).digest()
    return int.from_bytes(digest[:8]) >> 1 if described.topic_id else UNKNOWN


def _position(topic: str, partition: int, offset: int = 0) -> TopicPartition:
    from confluent_kafka import TopicPartition

    return TopicPartition(topic, partition, offset)


def _created_again(table: Table, topic: str) -> str:
    return (
        f"{table.qualified}: the topic {topic} was deleted and created again: it is not the one that the table has"
        f" read. To read the new one from its beginning: millrace stream skip {table.qualified}"
    )

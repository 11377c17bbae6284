"""Read the topics of bronze tables as a member of a consumer group, from offsets that the caller keeps.

Members share the partitions of a topic. Kafka says who reads a partition; where its reading starts, and whether another
member has read on meanwhile, is the caller's to say (see `features.streaming.tail_store`).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from contracts.model import Table
from etl.sources import messages
from etl.sources.kafka import (
    CLIENT_LOG,
    LARGEST_MESSAGE,
    QUIET,
    TIMEOUT,
    StreamError,
    UnreachableError,
    connect,
    identity_of,
)
from etl.sources.messages import Message
from lake import settings
from lake.topics import UNKNOWN

if TYPE_CHECKING:
    from confluent_kafka import Consumer, KafkaError, TopicPartition

SESSION_SECONDS = 6
"""After so long without a heartbeat a member's partitions go to others: the least that brokers allow by default."""
IDENTITY_SECONDS = 5.0
"""How often to look whether a topic was created again."""

Starts = Callable[[Table, int, Mapping[int, tuple[int, int]]], Mapping[int, int]]
"""Given a table, the identity of its topic and the first and end offset of some partitions: the offset from which to
read each of them.
"""


class GroupReader:
    """A member of the group. `starts` is called when partitions are assigned to it, and by `begin_again`."""

    def __init__(self, tables: Sequence[Table], group: str, starts: Starts) -> None:
        from confluent_kafka import Consumer
        from confluent_kafka.admin import AdminClient

        self.tables = {messages.topic_of(table): table for table in tables}
        self.problem = "the brokers have not answered yet"
        """Why the brokers cannot be reached; empty while they can."""
        self._starts = starts
        self._failure: Exception | None = None
        self._identities: dict[str, int] = {}
        self._checked = time.monotonic()
        self._assigned: set[tuple[str, int]] = set()
        self._has_restarted = False
        """Whether partitions were read from elsewhere since `read` began: what it has received is from before that."""
        self._is_new = False
        """Whether partitions were assigned since `read` began."""
        self._ends: dict[tuple[str, int], int] = {}
        enforced: dict[str, Any] = {
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "group.protocol": "classic",
            "partition.assignment.strategy": "range,roundrobin",
            "session.timeout.ms": SESSION_SECONDS * 1000,
            "heartbeat.interval.ms": SESSION_SECONDS * 1000 // 4,
            "fetch.wait.max.ms": 50,
            "fetch.error.backoff.ms": 50,
            "topic.metadata.refresh.interval.ms": 5_000,
            "fetch.message.max.bytes": LARGEST_MESSAGE,
            "receive.message.max.bytes": 2 * LARGEST_MESSAGE,
            "queued.max.messages.kbytes": 64 << 10,
            "error_cb": lambda error: self._note(error.str()),
        }
        self._admin = connect(AdminClient, QUIET)
        self._consumer: Consumer = connect(lambda conf: Consumer(conf, logger=CLIENT_LOG), enforced)
        self._consumer.subscribe([*self.tables], on_assign=self._assign, on_revoke=self._revoke, on_lost=self._revoke)

    def read(self, most: int, seconds: float) -> dict[str, list[Message]]:
        """Up to `most` messages of the next `seconds`, by topic; none while the brokers do not answer.

        StreamError where some can no longer be read, and what `starts` raised.
        """
        from confluent_kafka import KafkaError

        received: dict[str, list[Message]] = defaultdict(list)
        ends: dict[tuple[str, int], int] = {}
        self._has_restarted = False
        self._is_new = False
        for message in self._consumer.consume(most, seconds):
            key = (message.topic() or "", message.partition() or 0)
            if failure := message.error():
                if failure.code() == KafkaError._PARTITION_EOF:
                    ends[key] = message.offset() or 0
                else:
                    self._raise_or_note(failure, message.topic())
                continue
            if key in self._assigned:  # it may have been fetched before its partition went to another member
                received[key[0]].append(Message(key[1], message.offset() or 0, message.value()))
        if self._failure:
            raise self._failure
        if received:
            self.problem = ""
        if time.monotonic() - self._checked >= IDENTITY_SECONDS:
            self._checked = time.monotonic()
            self._look_for_other_topics()
        if self._is_new and (received or ends):  # some may be from before the assignment, some from after: read again
            self._restart()
        if not self._has_restarted:
            self._ends |= ends
        return {} if self._has_restarted else received

    def ends(self, topic: str) -> dict[int, int]:
        """The end of each partition that was read up to it; offsets before it may have no message, as transactions
        leave them.
        """
        return {partition: end for (name, partition), end in self._ends.items() if name == topic}

    def assigned(self, topic: str) -> list[int]:
        """The partitions of a topic that this member reads."""
        return sorted(partition for name, partition in self._assigned if name == topic)

    def begin_again(self) -> None:
        """Ask `starts` again for all partitions that this member reads, and read them from there."""
        self._restart()

    def _restart(self) -> None:
        """Read all topics from where the caller says: after a seek no message comes that was fetched before it, as may
        after another assignment. A partition that has failed cannot be sought in; that needs another reader.
        """
        from confluent_kafka import KafkaException

        self._has_restarted = True
        self._ends.clear()
        for topic in self.tables:
            for partition, offset in self._find_starts(topic, self.assigned(topic)).items():
                try:
                    self._consumer.seek(_at(topic, partition, offset))
                except KafkaException as error:
                    raise UnreachableError(
                        f"partition {partition} of {topic} cannot be read from {offset:,}: {error.args[0].str()}"
                    ) from error

    def acknowledge(self, topic: str, read: Mapping[int, int]) -> None:
        """Tell Kafka how far a topic is read, for its own tools."""
        from confluent_kafka import KafkaException

        with suppress(KafkaException):
            self._consumer.commit(offsets=[_at(topic, *step) for step in read.items()], asynchronous=True)

    def close(self) -> None:
        """Leave the group, so that others read on at once."""
        self._consumer.close()

    def _assign(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        """Start where the caller says. Errors cannot leave this callback of the client, so `read` raises them."""
        by_topic: dict[str, list[int]] = defaultdict(list)
        for partition in partitions:
            by_topic[partition.topic].append(partition.partition)
        starts: list[TopicPartition] = []
        try:
            for topic, numbers in by_topic.items():
                starts += [_at(topic, *start) for start in self._find_starts(topic, numbers).items()]
        except Exception as error:  # also of the caller's store
            self._failure = error
        else:
            self._assigned = {(start.topic, start.partition) for start in starts}
            self._is_new = True
            self._ends.clear()
            self.problem = ""
        consumer.assign(starts)

    def _revoke(self, _consumer: Consumer, partitions: Sequence[TopicPartition]) -> None:
        gone = {(partition.topic, partition.partition) for partition in partitions}
        self._assigned -= gone
        self._ends = {key: end for key, end in self._ends.items() if key not in gone}

    def _find_starts(self, topic: str, partitions: Sequence[int]) -> Mapping[int, int]:
        if not partitions:
            return {}
        self._identities[topic] = identity_of(self._admin, topic)
        ranges = {partition: self._watermarks(topic, partition) for partition in partitions}
        return self._starts(self.tables[topic], self._identities[topic], ranges)

    def _watermarks(self, topic: str, partition: int) -> tuple[int, int]:
        from confluent_kafka import KafkaException

        try:
            first, end = self._consumer.get_watermark_offsets(_at(topic, partition), timeout=TIMEOUT)
        except KafkaException as error:
            raise UnreachableError(
                f"partition {partition} of {topic} does not answer: {error.args[0].str()}. Brokers:"
                f" {settings.kafka()}, which MILLRACE_KAFKA names"
            ) from error
        return first, end

    def _look_for_other_topics(self) -> None:
        """Begin again with a topic that was deleted and created again since."""
        for topic, known in list(self._identities.items()):
            current = identity_of(self._admin, topic)
            if current != UNKNOWN:
                self.problem = ""
            if UNKNOWN not in (known, current) and known != current:
                self.begin_again()

    def _raise_or_note(self, error: KafkaError, topic: str | None) -> None:
        from confluent_kafka import KafkaError as Errors

        if error.code() in (Errors._AUTO_OFFSET_RESET, Errors.OFFSET_OUT_OF_RANGE) and topic:
            self.begin_again()
        if error.code() in (Errors._FENCED, Errors.FENCED_INSTANCE_ID):
            raise StreamError(
                "another feature worker has this one's group.instance.id. Give each its own in MILLRACE_KAFKA_CONF"
            )
        unknown = (Errors.UNKNOWN_TOPIC_OR_PART, Errors._UNKNOWN_TOPIC, Errors._UNKNOWN_PARTITION)
        if error.code() in unknown:
            self._note(f"the topic {topic} does not exist. Create it, or name another one in the contract")
            return
        self._note(error.str())

    def _note(self, problem: str) -> None:
        self.problem = problem


def _at(topic: str, partition: int, offset: int = 0) -> TopicPartition:
    from confluent_kafka import TopicPartition

    return TopicPartition(topic, partition, offset)

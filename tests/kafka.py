"""A real Kafka of one node on loopback, from its Maven artifacts."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic, OffsetSpec

from etl.spark import jars
from etl.spark.jars import Jar
from etl.spark.server import free_port
from tests import programs
from tests.servers import Server

LOCK = Path(__file__).with_name("kafka.lock")
SECONDS = 30.0


@cache
def artifacts() -> tuple[Jar, ...]:
    """The jars of LOCK."""
    lines = [line.split() for line in LOCK.read_text().splitlines() if not line.startswith("#")]
    return tuple(Jar(*name.split(":"), digest) for name, digest in lines)


@dataclass
class Kafka(Server):
    """Broker and controller in one process, which keep their logs in the folder."""

    controller_port: int = field(default_factory=free_port)
    properties: dict[str, str] = field(default_factory=dict)

    def command(self) -> list[str]:
        settings = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@127.0.0.1:{self.controller_port}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.folder / "logs"),
            "num.partitions": "1",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "1",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "1",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "auto.create.topics.enable": "false",
            "log.retention.check.interval.ms": "1000",
            "log.segment.delete.delay.ms": "100",
            "message.max.bytes": str(32 << 20),
            **self.properties,
        }
        path = self.folder / "server.properties"
        path.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        if not (self.folder / "logs" / "meta.properties").exists():
            self._format(path)
        return [*self._java(), "kafka.Kafka", str(path)]

    def _java(self) -> list[str]:
        options = ["-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        classpath = os.pathsep.join(map(str, jars.fetched(artifacts())))
        return [str(programs.java()), *options, "-cp", classpath]

    def _format(self, properties: Path) -> None:
        identity = uuid.uuid4().hex[:22]
        command = [*self._java(), "kafka.tools.StorageTool", "format", "-t", identity, "-c", str(properties)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self.folder)
        assert done.returncode == 0, done.stdout + done.stderr

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.url})

    def answers(self) -> bool:
        try:
            return bool(self.admin().list_topics(timeout=2).brokers)
        except KafkaException:
            return False

    def create(self, topic: str, partitions: int = 1, **config: str) -> None:
        new = NewTopic(topic, partitions, 1, config={key.replace("_", "."): value for key, value in config.items()})
        admin = self.admin()  # collected too early, it takes its requests back
        admin.create_topics([new])[topic].result(SECONDS)

    def delete(self, topic: str) -> None:
        admin = self.admin()
        admin.delete_topics([topic])[topic].result(SECONDS)

    def create_again(self, topic: str, partitions: int = 2) -> None:
        """Create a topic that was just deleted: the broker may still be at that."""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                return self.create(topic, partitions)
            except KafkaException:
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def delete_before(self, topic: str, partition: int, offset: int) -> None:
        """Delete the messages before an offset, as retention does."""
        admin, before = self.admin(), TopicPartition(topic, partition, offset)
        admin.delete_records([before])[before].result(SECONDS)

    def committed(self, group: str, topic: str, partition: int) -> int:
        """The offset that a consumer group has committed."""
        at = ConsumerGroupTopicPartitions(group, [TopicPartition(topic, partition)])
        admin = self.admin()
        [found] = admin.list_consumer_group_offsets([at])[group].result(SECONDS).topic_partitions
        return int(found.offset)

    def add_partitions(self, topic: str, total: int) -> None:
        admin = self.admin()
        admin.create_partitions([NewPartitions(topic, total)])[topic].result(SECONDS)

    def abort(self, topic: str, *values: bytes) -> None:
        """Write messages in a transaction, and abort it: readers of committed messages can read past them."""
        producer = Producer({"bootstrap.servers": self.url, "transactional.id": uuid.uuid4().hex})
        producer.init_transactions(SECONDS)
        producer.begin_transaction()
        for value in values:
            producer.produce(topic, value)
        producer.flush(SECONDS)
        producer.abort_transaction(SECONDS)
        deadline = time.monotonic() + SECONDS
        while self._ends(topic, IsolationLevel.READ_COMMITTED) < self._ends(topic, IsolationLevel.READ_UNCOMMITTED):
            assert time.monotonic() < deadline
            time.sleep(0.05)  # the broker marks the end of the transaction later

    def _ends(self, topic: str, level: IsolationLevel) -> int:
        """The sum of the end offsets of a topic's partitions."""
        admin = self.admin()
        partitions = admin.list_topics(topic, SECONDS).topics[topic].partitions
        latest = {TopicPartition(topic, partition): OffsetSpec.latest() for partition in partitions}
        offsets = admin.list_offsets(latest, isolation_level=level)
        return sum(int(found.result(SECONDS).offset) for found in offsets.values())

    def produce(self, topic: str, *values: bytes | None, **options: Any) -> None:
        """Write messages with these values, and wait until the broker has them."""
        producer = Producer({"bootstrap.servers": self.url, "acks": "all", "message.max.bytes": 32 << 20})
        failed: list[str] = []
        for value in values:
            producer.poll(0)
            producer.produce(
                topic, value, on_delivery=lambda error, _: failed.append(str(error)) if error else None, **options
            )
        assert producer.flush(SECONDS) == 0
        assert not failed

"""The embedded broker: what it has acknowledged outlives a kill, and it is the only one of its folder and port."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from etl.spark.server import free_port
from lake import settings
from millrace import broker
from tests import patience
from tests.servers import Server


@dataclass
class Embedded(Server):
    """The embedded broker of a home."""

    program: Path = Path()
    health: int = field(default_factory=free_port)

    def command(self) -> list[str]:
        options = {"port": self.port, "data": self.folder / "data", "health": f"127.0.0.1:{self.health}"}
        return [str(self.program), *(f"-{name}={value}" for name, value in options.items())]

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.port}"

    def answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.health}/ready", timeout=10).status_code == 200
        except httpx.TransportError:
            return False

    def produce(self, topic: str, *values: bytes) -> None:
        producer = Producer({"bootstrap.servers": self.url, "acks": "all"})
        failures: list[object] = []
        for value in values:
            producer.produce(topic, value, on_delivery=lambda error, _: failures.append(error) if error else None)
        assert producer.flush(patience.SECONDS) == 0
        assert not failures

    def read(self, topic: str, count: int) -> list[tuple[int, bytes]]:
        """Offset and value of the messages of partition 0."""
        consumer = Consumer({"bootstrap.servers": self.url, "group.id": "test", "enable.partition.eof": False})
        consumer.assign([TopicPartition(topic, 0, 0)])
        messages = consumer.consume(count, patience.SECONDS)
        consumer.close()
        return [(message.offset() or 0, message.value() or b"") for message in messages]


@pytest.fixture(scope="module")
def program() -> Path:
    return built()


def built() -> Path:
    """The program, in this checkout's own home: building it takes half a minute, once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_HOME", str(settings.CHECKOUT / ".millrace"))
        return broker.build()


@pytest.fixture
def embedded(program: Path, tmp_path: Path) -> Iterator[Embedded]:
    server = Embedded(folder=tmp_path, program=program)
    server.start()
    yield server
    assert server.process
    server.process.kill()
    server.process.wait()


def test_a_killed_broker_keeps_what_it_has_acknowledged(embedded: Embedded) -> None:
    admin = AdminClient({"bootstrap.servers": embedded.url})
    admin.create_topics([NewTopic("plays", 1, -1)])["plays"].result(patience.SECONDS)
    values = [str(n).encode() for n in range(500)]
    for kill in range(2):
        embedded.produce("plays", *values[250 * kill : 250 * (kill + 1)])
        assert embedded.process
        embedded.process.send_signal(signal.SIGKILL)
        embedded.process.wait()
        embedded.start()
    assert embedded.read("plays", 500) == list(enumerate(values))


def test_it_ends_in_order_and_says_that_it_is_for_demos(embedded: Embedded) -> None:
    embedded.stop()
    assert embedded.process
    assert embedded.process.returncode == 0
    log = (embedded.folder / "log").read_text()
    assert "for demos and tests only" in log
    assert str(embedded.folder / "data") in log


def test_a_second_one_of_its_folder_or_port_is_refused(embedded: Embedded, program: Path, tmp_path: Path) -> None:
    def refused(server: Embedded) -> str:
        done = subprocess.run(server.command(), capture_output=True, text=True, timeout=patience.SECONDS)
        assert done.returncode == 1
        return done.stderr

    same_folder = Embedded(folder=embedded.folder, program=program)
    assert "Another broker runs with the messages in" in refused(same_folder)
    same_port = Embedded(folder=tmp_path / "other", program=program, port=embedded.port)
    assert f"127.0.0.1:{embedded.port} is in use by another program" in refused(same_port)
    assert "MILLRACE_BROKER_PORT" in refused(same_port)
    same_health = Embedded(folder=tmp_path / "other", program=program, health=embedded.health)
    assert "MILLRACE_HEALTH_PORT" in refused(same_health)


def test_a_home_knows_its_own_broker(program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MILLRACE_BROKER_PORT", str(port))
    assert not broker.is_running()
    command = [str(program), f"-port={port}", f"-data={broker.folder()}", f"-health=127.0.0.1:{free_port()}"]
    with subprocess.Popen([*command, f"-cluster={broker.cluster_id()}"], env=os.environ) as process:
        patience.until(broker.is_running, "the broker does not answer")
        monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "another"))
        assert not broker.is_running()
        process.terminate()

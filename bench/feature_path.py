"""Time messages from Kafka to served features: `python -m bench.feature_path --kafka host:port [--online URL]`.

Produces at a steady rate to a topic of its own, first read by a plain consumer (the echo), then by a feature worker. A
message is servable once the position of its tail is past it, which is looked up every two milliseconds. Then the time
to catch up with a backlog, and the time from the kill of a worker until the next one has read on. Uses a home of its
own.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bench.stream import CONTRACT, PARTITIONS, SILVER, _cpu, _iso, _millrace, _write

GOLD = """
from contracts.aggregations import At, Count, Distinct, Latest, Sum, days, feature_table, hours, minutes
from contracts.model import STRING, Column
from {name}.contracts.silver.purchases import purchases
customer_now = feature_table(
    name="customer_now", doc="Purchases of a customer", owner="bench",
    key=(Column("customer", STRING, "Customer", required=True),), events=purchases, at=At.INSTANTS,
    aggregations=(
        Count("purchases", windows=(*minutes(10), *hours(1, 24))),
        Sum("spend", "amount", windows=(*minutes(10), *hours(1, 24))),
        Distinct("amounts", "amount", windows=hours(1, 24)),
        Latest("last_amount", "amount"),
    ),
)
"""
SERVICES = """
from feast import FeatureService
from features import views
bench = FeatureService(name="bench", features=[views.view("customer_now")])
"""
Delivered = dict[tuple[int, int], float]
"""Partition and offset of each message -> when it was produced."""


def main() -> int:
    """Run the benchmark and print it as a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kafka", required=True, help="brokers, host:port")
    parser.add_argument("--online", default="sqlite", help="as MILLRACE_ONLINE")
    parser.add_argument("--rates", type=int, nargs="+", default=[2_000, 20_000], help="messages per second")
    parser.add_argument("--seconds", type=int, default=15)
    parser.add_argument("--backlog", type=int, default=300_000)
    options = parser.parse_args()
    print(f"| {options.online.partition(':')[0]} | p50 | p99 | CPU of the worker per message |\n|---|---|---|---|")
    with _project(options.kafka, options.online) as topic:
        for rate in options.rates:
            print(_row(f"echo, {rate:,}/s", _echo(options.kafka, topic, rate, options.seconds)), flush=True)
            with _working() as worker:
                _wait_until_read(options.kafka, topic)
                before = _cpu(worker.pid)
                latencies = _servable(options.kafka, topic, rate, options.seconds)
                cost = (_cpu(worker.pid) - before) / len(latencies) * 1e6
            print(_row(f"servable, {rate:,}/s", latencies, f"{cost:.0f} us"), flush=True)
        _catch_up(options.kafka, topic, options.backlog)
        _recover(options.kafka, topic)
    return 0


def _row(name: str, latencies: list[float], cost: str = "") -> str:
    latencies.sort()
    p50, p99 = (latencies[int(len(latencies) * share)] * 1000 for share in (0.5, 0.99))
    return f"| {name} | {p50:.0f} ms | {p99:.0f} ms | {cost} |"


@contextmanager
def _project(brokers: str, online: str, events: int = 1) -> Iterator[str]:
    """A project whose view is online, with so many purchases of the customer `c0` yesterday. Yields the topic of its
    table.
    """
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    admin, topic = AdminClient({"bootstrap.servers": brokers}), f"bench-{uuid.uuid4().hex[:8]}"
    admin.create_topics([NewTopic(topic, PARTITIONS, 1)])[topic].result(30)
    with tempfile.TemporaryDirectory() as folder:
        name = f"bench_{uuid.uuid4().hex[:8]}"
        root = Path(folder) / name
        os.environ |= {
            "MILLRACE_PROJECT": str(root),
            "MILLRACE_HOME": f"{folder}/home",
            "MILLRACE_KAFKA": brokers,
            "MILLRACE_ONLINE": online,
            "MILLRACE_HEALTH_PORT": "18976",
        }
        _write(root / "contracts" / "bronze" / "purchases.py", CONTRACT.format(topic=topic))
        _write(root / "contracts" / "silver" / "purchases.py", SILVER)
        _write(root / "millrace.toml", f'name = "{name}"\n')
        _write(root / "contracts" / "gold" / "customer_now.py", GOLD.format(name=name))
        _write(root / "services.py", SERVICES)
        day = datetime.now(UTC).date() - timedelta(days=1)
        landed = Path(folder) / "home" / "landing" / "purchases" / f"{day}" / "purchases.csv"
        midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
        bought = (midnight + n * timedelta(days=1) / events for n in range(events))
        rows = "".join(f"{-1 - n},c0,{n % 100 / 4},{_iso(at.timestamp())}\n" for n, at in enumerate(bought))
        _write(landed, f"purchase,customer,amount,bought_at\n{rows}")
        _millrace("run", "--start", f"{day}", "--end", f"{day + timedelta(days=1)}")
        _millrace("serve")
        yield topic
    admin.delete_topics([topic])[topic].result(30)


@contextmanager
def _working() -> Iterator[subprocess.Popen[bytes]]:
    worker = _start()
    try:
        yield worker
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait()


def _start() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-W", "ignore", "-m", "millrace", "start", "feature-worker"]
    worker = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(_positions()) < PARTITIONS:
        if worker.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the feature worker has not begun")
        time.sleep(0.05)
    return worker


def _positions() -> dict[int, int]:
    """The next offset of each partition of the view's tail."""
    from features.online import backends
    from features.streaming import tails

    [tail] = tails.all_tails()
    positions = backends.configured().tails().positions(tail.name)
    return {partition: position.next_offset for partition, position in positions.items()}


def _ends(brokers: str, topic: str) -> dict[int, int]:
    """The end of each partition."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"bootstrap.servers": brokers, "group.id": uuid.uuid4().hex})
    places = [TopicPartition(topic, partition) for partition in range(PARTITIONS)]
    ends = {place.partition: consumer.get_watermark_offsets(place)[1] for place in places}
    consumer.close()
    return ends


def _wait_until_read(brokers: str, topic: str) -> None:
    ends = _ends(brokers, topic)
    while any(_positions().get(partition, 0) < end for partition, end in ends.items()):
        time.sleep(0.05)


def _produce(brokers: str, topic: str, count: int, rate: int | None, delivered: Delivered) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 1})
    started = time.time()
    for n in range(count):
        if rate and n % 10 == 0:
            time.sleep(max(0.0, started + n / rate - time.time()))
        at = time.time()
        row = {"purchase": n, "customer": f"c{n % 997}", "amount": n % 100 / 4, "bought_at": _iso(at)}

        def note(_error: object, message: object, at: float = at) -> None:
            delivered[message.partition(), message.offset()] = at  # type: ignore[attr-defined]

        while True:
            try:
                producer.produce(topic, json.dumps(row), key=f"c{n % 997}", on_delivery=note)
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    producer.flush()


def _echo(brokers: str, topic: str, rate: int, seconds: int) -> list[float]:
    """Seconds from producing to a plain consumer in this process."""
    from confluent_kafka import Consumer, TopicPartition

    delivered: Delivered = {}
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": uuid.uuid4().hex, "fetch.wait.max.ms": 50})
    consumer.assign([TopicPartition(topic, partition, end) for partition, end in _ends(brokers, topic).items()])
    producing = threading.Thread(target=_produce, args=(brokers, topic, rate * seconds, rate, delivered))
    producing.start()
    seen: Delivered = {}
    while len(seen) < rate * seconds:
        for message in consumer.consume(5_000, 0.01):
            if not message.error():
                seen[message.partition() or 0, message.offset() or 0] = time.time()
    producing.join()
    consumer.close()
    return [seen[place] - at for place, at in delivered.items()]


def _servable(brokers: str, topic: str, rate: int, seconds: int) -> list[float]:
    """Seconds from producing to the position of the tail being past the message."""
    delivered: Delivered = {}
    count, before = rate * seconds, sum(_positions().values())
    producing = threading.Thread(target=_produce, args=(brokers, topic, count, rate, delivered))
    producing.start()
    reached: dict[int, list[tuple[int, float]]] = {partition: [(end, 0.0)] for partition, end in _positions().items()}
    while sum(steps[-1][0] for steps in reached.values()) < before + count:
        positions, now = _positions(), time.time()
        for partition, offset in positions.items():
            if offset > reached[partition][-1][0]:
                reached[partition].append((offset, now))
        time.sleep(0.002)
    producing.join()
    ends = {partition: [end for end, _ in steps] for partition, steps in reached.items()}
    return [
        reached[partition][bisect_right(ends[partition], offset)][1] - produced
        for (partition, offset), produced in delivered.items()
    ]


def _catch_up(brokers: str, topic: str, count: int) -> None:
    _produce(brokers, topic, count, None, {})
    before, started = sum(_positions().values()), time.monotonic()
    with _working() as worker:
        _wait_until_read(brokers, topic)
        seconds, cpu = time.monotonic() - started, _cpu(worker.pid)
    read = sum(_positions().values()) - before
    print(f"\ncatching up with {read:,} messages: {seconds:.1f} s, {read / cpu:,.0f} messages per CPU second")


def _recover(brokers: str, topic: str) -> None:
    """From the kill of a worker until the next one, started at once, has counted a message sent meanwhile."""
    times = []
    for _ in range(3):
        with _working() as worker:
            worker.kill()
            worker.wait()
        started = time.monotonic()
        _produce(brokers, topic, PARTITIONS * 10, None, {})
        following = _start()
        _wait_until_read(brokers, topic)
        times.append(time.monotonic() - started)
        following.send_signal(signal.SIGTERM)
        following.wait()
    print(f"after kill -9 and a new worker: {', '.join(f'{seconds:.1f}' for seconds in times)} s until servable")


if __name__ == "__main__":
    sys.exit(main())

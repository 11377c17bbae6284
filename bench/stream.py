"""Time messages from Kafka to bronze: `python -m bench.stream --kafka host:port`.

Produces at a steady rate to a topic of its own, which it deletes afterwards, while a lake writer runs in another
process, and looks every 50 ms which messages the table has. Then the time to catch up with a million messages, and to
make a silver table of them, against the same million in a file. Uses a home of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

CONTRACT = """
from datetime import timedelta
from contracts.columns import AUDIT_COLUMNS, STREAM_COLUMNS
from contracts.model import DOUBLE, LONG, STRING, TIMESTAMP, Column, Layer, Table, Topic
purchases = Table(
    layer=Layer.BRONZE, name="purchases", doc="Purchases", grain="one row per purchase", owner="bench",
    freshness=timedelta(days=1), topic=Topic({topic!r}), time_column="bought_at",
    columns=(
        Column("purchase", LONG, "Purchase", required=True), Column("customer", STRING, "Customer", required=True),
        Column("amount", DOUBLE, "Amount", required=True), Column("bought_at", TIMESTAMP, "When", required=True),
        *AUDIT_COLUMNS, *STREAM_COLUMNS,
    ),
)
"""
SILVER = """
from datetime import timedelta
from contracts.model import LONG, MONEY, STRING, TIMESTAMP, Column, Layer, Table
purchases = Table(
    layer=Layer.SILVER, name="purchases", doc="Purchases", grain="one row per purchase", owner="bench",
    freshness=timedelta(days=1), inputs=("bronze.purchases",), key=("purchase",), time_column="bought_at",
    columns=(
        Column("purchase", LONG, "Purchase", required=True), Column("customer", STRING, "Customer", required=True),
        Column("amount", MONEY, "Amount", required=True), Column("bought_at", TIMESTAMP, "When", required=True),
    ),
)
"""
PARTITIONS = 8


def main() -> int:
    """Run the benchmark and print it as a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kafka", required=True, help="brokers, host:port")
    parser.add_argument("--rates", type=int, nargs="+", default=[2_000, 20_000], help="messages per second")
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--backlog", type=int, default=1_000_000)
    options = parser.parse_args()
    print("| | p50 | p99 |\n|---|---|---|")
    for rate in options.rates:
        with _topic(options.kafka) as topic, _writing():
            print(_steady(options.kafka, topic, rate, options.seconds), flush=True)
    with _topic(options.kafka) as topic:
        _produce(options.kafka, topic, options.backlog, None)
        started = time.monotonic()
        with _writing() as writer:
            while sum(rows for rows, _ in _seen()) < options.backlog:
                time.sleep(0.2)
            seconds = time.monotonic() - started
            print(
                f"\ncatching up with {options.backlog:,} messages: {seconds:.0f} s,"
                f" {options.backlog / (cpu := _cpu(writer.pid)):,.0f} messages per CPU second"
            )
        wall, silver = _run()
        print(f"by stream: {cpu:.1f} s of CPU to bronze, {silver:.1f} s ({wall:.1f} s of wall) for a run to silver")
    with _topic(options.kafka):
        _land(options.backlog)
        wall, both = _run()
        print(f"by file: {both:.1f} s of CPU ({wall:.1f} s of wall) for a run to bronze and silver")
    return 0


@contextmanager
def _topic(brokers: str) -> Iterator[str]:
    """A topic, a project with a table of it, and an empty home."""
    from confluent_kafka.admin import AdminClient
    from confluent_kafka.cimpl import NewTopic

    name, admin = f"bench-{uuid.uuid4().hex[:8]}", AdminClient({"bootstrap.servers": brokers})
    admin.create_topics([NewTopic(name, PARTITIONS, 1)])[name].result(30)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / f"bench_{uuid.uuid4().hex[:8]}"
        _write(root / "millrace.toml", f'name = "{root.name}"\n')
        _write(root / "contracts" / "bronze" / "purchases.py", CONTRACT.format(topic=name))
        _write(root / "contracts" / "silver" / "purchases.py", SILVER)
        os.environ |= {
            "MILLRACE_PROJECT": str(root),
            "MILLRACE_HOME": f"{folder}/home",
            "MILLRACE_KAFKA": brokers,
            "MILLRACE_HEALTH_PORT": "18975",
        }
        yield name
    admin.delete_topics([name])[name].result(30)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _millrace(*arguments: str) -> None:
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "millrace", *arguments], check=True, stdout=subprocess.DEVNULL
    )


def _run() -> tuple[float, float]:
    """Seconds of wall and of CPU that a run over today takes."""
    today = datetime.now(UTC).date()
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    _millrace("run", "--start", f"{today}", "--end", f"{today + timedelta(days=1)}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.monotonic() - started, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _land(count: int) -> None:
    """The messages of `_produce` as a CSV file."""
    at = time.time()
    rows = "".join(f"{n},c{n % 997},{n % 100 / 4},{_iso(at)}\n" for n in range(count))
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    path = Path(os.environ["MILLRACE_HOME"]) / "landing" / "purchases" / day / "purchases.csv"
    _write(path, f"purchase,customer,amount,bought_at\n{rows}")


@contextmanager
def _writing() -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-W", "ignore", "-m", "millrace", "start", "lake-writer"]
    writer = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    time.sleep(6)  # until it reads
    if writer.poll() is not None:
        raise RuntimeError("the lake writer ended")
    try:
        yield writer
    finally:
        writer.send_signal(signal.SIGTERM)
        writer.wait()


def _produce(brokers: str, topic: str, count: int, rate: int | None) -> None:
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": brokers, "linger.ms": 5})
    started = time.time()
    for n in range(count):
        if rate and n % 20 == 0:
            time.sleep(max(0.0, started + n / rate - time.time()))
        at = time.time()
        row = {"purchase": n, "customer": f"c{n % 997}", "amount": n % 100 / 4, "bought_at": _iso(at)}
        while True:
            try:
                producer.produce(topic, json.dumps(row), key=f"c{n % 997}")
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
    producer.flush()


def _iso(at: float) -> str:
    seconds, fraction = divmod(at, 1)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(fraction * 1e6):06}Z"


def _seen() -> list[tuple[int, str]]:
    """Rows and path of each data file of the table."""
    from lake import delta

    table = delta.open_table("bronze.purchases")
    if table is None:
        return []
    return [(file["num_records"], file["path"]) for file in delta.data_files(table)]


def _steady(brokers: str, topic: str, rate: int, seconds: int) -> str:
    import pyarrow.parquet as pq

    from lake import settings

    count = rate * seconds
    producing = threading.Thread(target=_produce, args=(brokers, topic, count, rate))
    producing.start()
    first_seen: dict[str, float] = {}
    total = 0
    while total < count:
        now, files = time.time(), _seen()
        for _, path in files:
            first_seen.setdefault(path, now)
        total = sum(rows for rows, _ in files)
        time.sleep(0.05)
    producing.join()
    root = settings.table_path("bronze.purchases")
    latencies = sorted(
        at - bought.timestamp()
        for path, at in first_seen.items()
        for bought in pq.read_table(root / path, columns=["bought_at"])["bought_at"].to_pylist()
    )
    return (
        f"| {rate:,} messages a second | {latencies[len(latencies) // 2]:.1f} s |"
        f" {latencies[int(len(latencies) * 0.99)]:.1f} s |"
    )


def _cpu(pid: int) -> float:
    import psutil

    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


if __name__ == "__main__":
    sys.exit(main())

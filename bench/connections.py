"""Time the feature server under load: `python -m bench.connections`.

MILLRACE_HOME names a home in which a release of the sample is online. Sends requests for 1 entity with all features of
`recommendation_v1` over 1, 8 and 32 connections, each waiting for its response, to 1 and 2 workers. The client is one
process and shares the machine's cores with the server: on two cores the figures say what one machine does with both,
not what the server could do alone. The server's CPU time per request is the figure least disturbed by other work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from statistics import median
from typing import Any

import psutil
import uvloop

from bench.serving import pairs, request_body
from etl.spark import server as spark_server

CONNECTIONS = (1, 8, 32)
WORKERS = (1, 2)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.connections", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=3, help="measurements of each setup; the median is printed (default 3)"
    )
    parser.add_argument("--seconds", type=float, default=5, help="length of a measurement (default 5)")
    parser.add_argument(
        "--port",
        type=int,
        nargs="+",
        help="ports of running servers, such as containers, to measure instead of starting servers",
    )
    options = parser.parse_args()
    requests = [request(pair) for pair in random.Random(0).sample(pairs(), 1000)]
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")
    if options.port:
        print("| servers | connections | requests/s | p50 | p99 |\n|---|---|---|---|---|")
        report(options.port, None, str(len(options.port)), requests, options)
        return
    print(
        "| workers | connections | requests/s | p50 | p99 | server CPU per request | memory (PSS)"
        " |\n|---|---|---|---|---|---|---|"
    )
    for workers in WORKERS:
        with server(workers) as (port, process):
            report([port], process, str(workers), requests, options)


def report(
    ports: list[int], process: psutil.Process | None, workers: str, requests: list[bytes], options: argparse.Namespace
) -> None:
    """Print a row per number of connections, which are spread over the ports. CPU and memory need the process."""
    measure(ports, requests, 8, 2.0)
    for connections in CONNECTIONS:
        before = processor_seconds(process) if process else 0
        rounds = [measure(ports, requests, connections, options.seconds) for _ in range(options.rounds)]
        rate, p50, p99 = (median(figures[column] for figures in rounds) for column in range(3))
        line = f"| {workers} | {connections} | {rate:,.0f} | {p50 * 1e3:.2f} ms | {p99 * 1e3:.2f} ms |"
        if process:
            processor = (processor_seconds(process) - before) / sum(number for *_, number in rounds)
            line += f" {processor * 1e6:.0f} µs | {memory(process)} |"
        print(line, flush=True)


def request(pair: tuple[int, int]) -> bytes:
    body = json.dumps(request_body([pair])).encode()
    lines = ("POST /get-online-features HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json")
    return "\r\n".join((*lines, f"Content-Length: {len(body)}", "\r\n")).encode() + body


class Caller(asyncio.Protocol):
    """One connection: sends a request, waits for the whole response, sends the next one."""

    def __init__(self, requests: list[bytes], seconds: list[float], until: float, done: asyncio.Future[None]) -> None:
        self._requests, self._seconds, self._until, self._done = requests, seconds, until, done
        self._number = random.randrange(len(requests))
        self._buffer = b""

    def connection_made(self, transport: Any) -> None:
        """Send the first request."""
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        """Record the time of a complete response, then send the next request or close."""
        self._buffer += data
        head = self._buffer.find(b"\r\n\r\n")
        if head < 0:
            return
        length = self._buffer[:head].lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
        if len(self._buffer) < head + 4 + int(length):
            return
        if not self._buffer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"the server answered {self._buffer[:500]!r}")
        now = time.perf_counter()
        self._seconds.append(now - self._sent)
        self._buffer = b""
        if now < self._until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's signature)
        """Mark this connection as done."""
        if not self._done.done():
            self._done.set_result(None)

    def _send(self) -> None:
        self._number = (self._number + 1) % len(self._requests)
        self._sent = time.perf_counter()
        self._transport.write(self._requests[self._number])


def measure(
    ports: list[int], requests: list[bytes], connections: int, seconds: float
) -> tuple[float, float, float, int]:
    """Requests per second, the median and 99th percentile of their times in seconds, and their count."""

    async def load() -> tuple[float, float, float, int]:
        loop, timings = asyncio.get_running_loop(), list[float]()
        started = time.perf_counter()
        ends = [loop.create_future() for _ in range(connections)]
        for end, port in zip(ends, cycle(ports), strict=False):
            await loop.create_connection(partial(Caller, requests, timings, started + seconds, end), "127.0.0.1", port)
        await asyncio.gather(*ends)
        timings.sort()
        return (
            len(timings) / (time.perf_counter() - started),
            timings[len(timings) // 2],
            timings[len(timings) * 99 // 100],
            len(timings),
        )

    return uvloop.run(load())


@contextmanager
def server(workers: int) -> Iterator[tuple[int, psutil.Process]]:
    """Run a server with that many workers; yields its port and its process."""
    port = spark_server.free_port()
    environment = {**os.environ, "MILLRACE_FEATURES_PORT": str(port), "MILLRACE_FEATURES_WORKERS": str(workers)}
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-m", "features.serving"], env=environment)
    try:
        deadline = time.monotonic() + 120
        while not is_ready(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit("the feature server did not start")
            time.sleep(0.2)
        yield port, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def is_ready(port: int) -> bool:
    try:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(f"http://127.0.0.1:{port}/ready", timeout=5):
            return True
    except OSError:
        return False


def processor_seconds(process: psutil.Process) -> float:
    return sum(sum(member.cpu_times()[:2]) for member in (process, *process.children()))


def memory(process: psutil.Process) -> str:
    """The proportional set size of each process: its private memory and its share of shared memory."""
    return " + ".join(f"{member.memory_full_info().pss >> 20}" for member in (process, *process.children())) + " MiB"


if __name__ == "__main__":
    main()

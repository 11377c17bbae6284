"""The feature server as processes: its environment, its workers, how it ends, and connections that send slowly."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from etl.spark.server import free_port
from features import registry
from features.online import materialize
from features.serving.options import LARGEST_HEAD
from lake import release, settings
from lake.files import machine
from tests.unit.features.conftest import Lake, fill

# Whoever runs `services.down` with this token ends the server: no other test may carry the same.
OURS = uuid.uuid4().hex
SECRETS = {
    "AIRFLOW__CORE__FERNET_KEY": "secret-fernet",
    "AIRFLOW__API_AUTH__JWT_SECRET": "secret-jwt",
    "AIRFLOW__API__SECRET_KEY": "secret-key",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "postgresql://secret-database",
    "AIRFLOW_CONN_SHOP": "secret-connection",
    "OPENLINEAGE_API_KEY": "secret-lineage",
}
BODY = json.dumps({"features": ["guest_activity:paid_7d"], "entities": {"guest_id": [1]}}).encode()
HEAD = b"POST /get-online-features HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
HEAD += b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"POST /get-online-features HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
CHUNK = b"%x\r\n%b\r\n" % (len(BODY), BODY)

FROM_THE_HOST = "from millrace import components; components.features()"
ECHO = """
import os, sys
from features.serving import options
options.REQUEST_SECONDS, options.DRAIN_SECONDS = float(sys.argv[2]), 600
from features.serving import workers

async def echo(scope, receive, send):
    assert scope["type"] == "http"
    body, message = b"", {"more_body": True}
    while message.get("more_body"):
        message = await receive()
        body += message.get("body", b"")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})

sys.exit(workers.run(lambda: echo, int(os.environ["MILLRACE_FEATURES_PORT"]), int(sys.argv[1])))
"""
"""Our workers and our protocol around an application that echoes, which starts in a tenth of the time."""


class Running:
    """A server that was started, and its port."""

    def __init__(self, home: Path, *arguments: str, **variables: str) -> None:
        self.port = free_port()
        named = {
            "MILLRACE_HOME": str(home),
            "MILLRACE_FEATURES_PORT": str(self.port),
            "PROMETHEUS_MULTIPROC_DIR": str(home),
        }
        command = [sys.executable, "-W", "ignore", "-c", *arguments]
        self.process = subprocess.Popen(command, cwd=settings.CHECKOUT, env={**os.environ, **named, **variables})
        until(lambda: self.process.poll() is not None or self.status("/ready") == 200)
        assert self.process.poll() is None

    def status(self, path: str) -> int:
        """0 where nobody answers."""
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
            connection.request("GET", path)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0

    def workers(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.process.pid).children()}

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=60)


def echoing(home: Path, workers: int, patience: float) -> Running:
    return Running(home, ECHO, str(workers), str(patience))


def until(holds: Callable[[], Any]) -> None:
    while not holds():
        time.sleep(0.05)


def everything(connection: socket.socket) -> bytes:
    """All that the server sends until it closes."""
    pieces = []
    while piece := connection.recv(1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def answer_of(connection: socket.socket, status: int = 200) -> bytes:
    response = http.client.HTTPResponse(connection)
    response.begin()
    assert response.status == status
    return response.read()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The real server with two workers, started as the host of the services starts it."""
    home = tmp_path_factory.mktemp("served")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MILLRACE_HOME", str(home))
        for name in ("MILLRACE_LAKE", "MILLRACE_RELEASE", "MILLRACE_ENGINE", "MILLRACE_ONLINE"):
            patch.delenv(name, raising=False)
        fill(Lake())
        registry.apply()
        materialize.materialize(release.read())
    variables = {"MILLRACE_FEATURES_WORKERS": "2", "MILLRACE_SERVICES_TOKEN": OURS, "SPT_NOENV": "1"}
    running = Running(home, FROM_THE_HOST, **SECRETS, **variables)
    yield running
    running.process.kill()
    running.process.wait()


def test_its_metrics_are_its_own(server: Running, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Another server that shares the home, on this machine or another, removes those of its own only."""
    home = Path(psutil.Process(server.process.pid).environ()["MILLRACE_HOME"])
    assert [folder.name for folder in (home / "run" / "metrics").iterdir()] == [f"{machine()}-{server.port}"]


@pytest.fixture(scope="module")
def short_timeouts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Waits a second for a request."""
    running = echoing(tmp_path_factory.mktemp("short_timeouts"), 1, 1.0)
    yield running
    running.process.kill()
    running.process.wait()


def test_its_processes_carry_no_secret_of_airflows(server: Running) -> None:
    until(lambda: len(server.workers()) == 2)
    for pid in (server.process.pid, *server.workers()):
        carried = Path(f"/proc/{pid}/environ").read_bytes()
        assert b"secret-" not in carried
        assert b"AIRFLOW" not in carried
        assert f"MILLRACE_SERVICES_TOKEN={OURS}".encode() in carried  # by which `make down` finds it


def test_workers_share_one_port_and_one_account_of_requests(server: Running) -> None:
    for _ in range(40):
        assert server.status("/health") == 200
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    name = 'millrace_features_requests_total{route="/health",service="",status="200"}'
    (counted,) = [line for line in lines if line.startswith(name)]
    assert float(counted.rpartition(" ")[2]) == 40.0
    assert "millrace_features_workers 2.0" in lines


def test_a_large_body_is_refused_and_the_connection_goes_on(server: Running) -> None:
    with server.connect() as connection:
        connection.sendall(HEAD.replace(str(len(BODY)).encode(), b"3000000") + b"\r\n" + b" " * 3_000_000)
        assert b"1,048,576 bytes" in answer_of(connection, 413)
        connection.sendall(HEAD + b"\r\n" + BODY)
        assert b'"values":[0.05]' in answer_of(connection)


def test_a_worker_that_was_killed_is_replaced(tmp_path: Path) -> None:
    server = echoing(tmp_path, 2, 600)
    until(lambda: len(server.workers()) == 2)
    before = server.workers()
    os.kill(min(before), signal.SIGKILL)
    until(lambda: len(server.workers()) == 2 and min(before) not in server.workers())
    assert max(before) in server.workers()
    assert server.status("/") == 200
    workers = [psutil.Process(pid) for pid in server.workers()]
    server.process.kill()  # and workers end with the process that started them
    server.process.wait()
    assert not psutil.wait_procs(workers, timeout=300)[1]
    with pytest.raises(ConnectionRefusedError):
        server.connect()


def test_connections_that_come_together_are_shared_by_the_workers(tmp_path: Path) -> None:
    server = echoing(tmp_path, 2, 600)
    until(lambda: len(server.workers()) == 2)
    assert server.status("/") == 200
    shares = []
    for _ in range(20):  # a worker may be slow to wake up, but not each time
        connections = [server.connect() for _ in range(32)]
        for connection in connections:
            connection.sendall(HEAD + b"\r\n" + BODY)
        for connection in connections:
            assert answer_of(connection) == BODY
        found = [psutil.Process(pid).net_connections() for pid in server.workers()]
        shares.append(min(sum(each.status == psutil.CONN_ESTABLISHED for each in held) for held in found))
        for connection in connections:
            connection.close()
    server.process.kill()
    server.process.wait()
    assert max(shares) >= 8, shares


@pytest.mark.parametrize("workers", [1, 2])
def test_requests_in_flight_are_answered_before_it_ends(tmp_path: Path, workers: int) -> None:
    server = echoing(tmp_path, workers, 600)
    connections = [server.connect() for _ in range(4)]
    for connection in connections:
        connection.sendall(HEAD + b"Expect: 100-continue\r\n\r\n" + BODY[:9])
    for connection in connections:
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 Continue")  # so the application waits for the rest
    server.process.send_signal(signal.SIGTERM)
    until(lambda: server.status("/") == 0)
    assert server.process.poll() is None
    for connection in connections:
        connection.sendall(BODY[9:])
        assert answer_of(connection) == BODY
        connection.close()
    assert server.process.wait(300) in (0, -signal.SIGTERM)


def test_workers_that_end_at_once_end_the_server(tmp_path: Path) -> None:
    code = ECHO.replace("async def echo", "workers._serve = lambda *_: 1 / 0\nasync def echo")
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path), "MILLRACE_FEATURES_PORT": str(free_port())}
    command = [sys.executable, "-c", code, "2", "600"]
    done = subprocess.run(command, cwd=settings.CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "5 workers of the feature server ended as soon as they were started" in done.stderr


def test_a_slow_body_is_waited_for_no_longer_than_promised(short_timeouts: Running) -> None:
    with short_timeouts.connect() as connection:
        connection.sendall(HEAD + b"\r\n" + BODY[:9])
        answer = everything(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"The request had not arrived after 1 s" in answer


def test_a_slow_head_is_waited_for_no_longer_either(short_timeouts: Running) -> None:
    with short_timeouts.connect() as connection:
        connection.sendall(HEAD)
        assert everything(connection).startswith(b"HTTP/1.1 408 ")
    with short_timeouts.connect() as connection:
        assert everything(connection) == b""


def test_drops_do_not_hold_a_connection_open(short_timeouts: Running) -> None:
    """Each byte comes in time, the request never does."""
    with short_timeouts.connect() as connection:
        connection.sendall(HEAD.replace(str(len(BODY)).encode(), b"99999999") + b"\r\n")
        dropped = threading.Thread(target=drop, args=[connection])
        dropped.start()
        # not until it closes: it resets a connection whose client still sends
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 408 ")
        dropped.join()


def drop(connection: socket.socket) -> None:
    try:
        while True:
            connection.sendall(b" ")
            time.sleep(0.05)
    except OSError:
        return


def test_empty_lines_between_requests_do_not_hold_it_open_either(short_timeouts: Running) -> None:
    with short_timeouts.connect() as connection:
        connection.sendall(HEAD + b"\r\n" + BODY)
        assert answer_of(connection) == BODY
        connection.sendall(b"\r\n")
        assert everything(connection) == b""


def test_an_endless_head_is_refused(short_timeouts: Running) -> None:
    with short_timeouts.connect() as connection:
        connection.sendall(HEAD + b"X: " + b"x" * (LARGEST_HEAD - len(HEAD) - 3))  # more would be left unread: a reset
        answer = connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 431 ")


def test_endless_trailers_are_refused(server: Running) -> None:
    """Sent are 16 MiB at most, of which the sockets hold most; without a bound it was 57 MiB in 10 s."""
    trailers, sent = b"Xx: y\r\n" * 10_000, 0
    with server.connect() as connection:
        connection.sendall(CHUNKED + b"Content-Type: application/json\r\n\r\n" + CHUNK + b"0\r\n")
        with contextlib.suppress(OSError):  # closed or reset
            while sent < 64 << 20:
                connection.sendall(trailers)
                sent += len(trailers)
    assert sent < 16 << 20
    assert server.status("/ready") == 200


def test_trailers_are_no_headers(server: Running) -> None:
    """They would declare the body's type, or carry the token, past what looked at the head."""
    with server.connect() as connection:
        connection.sendall(CHUNKED + b"\r\n" + CHUNK + b"0\r\nContent-Type: application/json\r\n\r\n")
        answer_of(connection, 415)


def test_pipelined_requests_are_answered_in_turn(short_timeouts: Running) -> None:
    bodies = [f"{number:>{len(BODY)}}".encode() for number in range(3)]
    with short_timeouts.connect() as connection:
        connection.sendall(b"".join(HEAD + b"\r\n" + body for body in bodies[:-1]))
        connection.sendall(HEAD + b"Connection: close\r\n\r\n" + bodies[-1])
        answers = everything(connection)
    assert [answers.find(body) for body in bodies] == sorted(answers.find(body) for body in bodies)
    assert answers.count(b"HTTP/1.1 200 OK") == 3


def test_an_option_that_means_nothing_ends_it_with_a_sentence(tmp_path: Path) -> None:
    environment = {**os.environ, "MILLRACE_HOME": str(tmp_path), "MILLRACE_FEATURES_WORKERS": "many"}
    command = [sys.executable, "-m", "features.serving"]
    done = subprocess.run(command, cwd=settings.CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Set it to a number from 1 to 256" in done.stderr

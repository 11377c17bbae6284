"""The processes that serve one listening socket: the server itself, or workers forked from it."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from prometheus_client import multiprocess
from setproctitle import setproctitle

from features.serving.options import DRAIN_SECONDS, MOST_CONNECTIONS
from lake import settings

BACKLOG = 2048
HEALTHY_SECONDS = 5.0
"""A worker that lived this long is replaced at once; an earlier exit is followed by a pause."""
MOST_FAILURES = 5
STOP_SECONDS = DRAIN_SECONDS + 1.5
KEEP_ALIVE_SECONDS = 15
PAUSE_SECONDS = 1.0


def run(make: Callable[[], Any], port: int, workers: int = 1) -> int:
    """Serve until SIGTERM or SIGINT and return the exit status. Requests in flight have `DRAIN_SECONDS` to finish."""
    listener = _listen(port)
    app = make()
    gc.collect()
    gc.freeze()  # imports stay: the collector can skip them, and forked workers share their memory
    if workers == 1:
        _serve(app, listener)
        return 0
    return Supervisor(app, listener, workers).run()


def _listen(port: int) -> socket.socket:
    address = settings.bind()
    listener = socket.create_server(
        (address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET, backlog=BACKLOG
    )
    listener.setblocking(False)
    return listener


def _serve(app: Any, listener: socket.socket, parent: int | None = None) -> None:
    """Answer requests until a signal, or until the parent process, at the other end of the pipe `parent`, exits."""
    import uvicorn

    from features.serving.protocol import BoundedProtocol

    config = uvicorn.Config(
        app,
        http=BoundedProtocol,
        ws="none",
        log_level="warning",
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    server = _server(config, listener)

    async def serve() -> None:
        if parent is not None:
            asyncio.get_running_loop().add_reader(parent, setattr, server, "should_exit", True)
        await server.serve()

    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(serve())


def _server(config: Any, listener: socket.socket) -> Any:
    """uvicorn's server, except that it accepts one connection at a time, so that an idle worker gets the next one.

    Event loops accept all waiting connections at once: of 32 that arrived together, one of two workers got all 32.
    """
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 (ours is accepted from)
            await super().startup(sockets=[])
            self._loop = asyncio.get_running_loop()
            self._accepting: set[asyncio.Task[Any]] = set()
            self._loop.add_reader(listener, self._accept)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002
            self._loop.remove_reader(listener)
            listener.close()
            await super().shutdown(sockets=[])

        def _accept(self) -> None:
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return  # another worker was faster, or the client left
            except OSError as error:  # out of file descriptors: wait until some are closed
                print(
                    f"The feature server cannot accept connections for a second: {error}", file=sys.stderr, flush=True
                )
                self._loop.remove_reader(listener)
                self._loop.call_later(PAUSE_SECONDS, self._resume)
                return
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            accepting = self._loop.create_task(self._loop.connect_accepted_socket(self._protocol, connection))
            self._accepting.add(accepting)
            accepting.add_done_callback(self._accepting.discard)

        def _resume(self) -> None:
            if not self.should_exit:
                self._loop.add_reader(listener, self._accept)

        def _protocol(self) -> Any:
            protocol: Any = self.config.http_protocol_class
            return protocol(
                config=self.config, server_state=self.server_state, app_state=self.lifespan.state, _loop=self._loop
            )

    return Server(config)


class Supervisor:
    """Keeps a number of forked workers running."""

    def __init__(self, app: Any, listener: socket.socket, workers: int) -> None:
        self._app, self._listener, self._number = app, listener, workers
        self._started: dict[int, float] = {}
        self._alive, self._parent_end = os.pipe()  # a worker sees EOF when this process exits, for whatever reason
        self._failures = 0

    def run(self) -> int:
        """Run until a signal; returns 1 if workers exit as soon as they start."""
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, _stop)
        try:
            for _ in range(self._number):
                self._start()
            while self._failures < MOST_FAILURES:
                self._replace(*os.wait())
            print(
                f"{self._failures} workers of the feature server ended as soon as they were started",
                file=sys.stderr,
                flush=True,
            )
            return 1
        except SystemExit:
            return 0
        finally:
            self._end()

    def _start(self) -> None:
        blocked = {signal.SIGTERM, signal.SIGINT}
        signal.pthread_sigmask(signal.SIG_BLOCK, blocked)  # a signal before the record would lose the worker
        try:
            pid = os.fork()
            if pid == 0:
                self._become_worker(blocked)
            self._started[pid] = time.monotonic()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)

    def _become_worker(self, blocked: set[signal.Signals]) -> None:
        """Serve in the forked child; never returns."""
        status = 1
        try:
            os.close(self._parent_end)
            for signum in blocked:
                signal.signal(signum, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, blocked)
            setproctitle("millrace features worker")
            _serve(self._app, self._listener, self._alive)
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(status)

    def _replace(self, pid: int, status: int) -> None:
        started = self._started.pop(pid, None)
        if started is None:
            return
        self._forget_metrics(pid)
        code = os.waitstatus_to_exitcode(status)
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
        lived = time.monotonic() - started
        print(
            f"Worker {pid} of the feature server {how} after {lived:.0f} s; another one is started",
            file=sys.stderr,
            flush=True,
        )
        self._failures = self._failures + 1 if lived < HEALTHY_SECONDS else 0
        if self._failures:
            time.sleep(0.2 * self._failures)
        self._start()

    def _forget_metrics(self, pid: int) -> None:
        """Drop the gauges of a worker that ended; its counters stay in the sums."""
        prometheus: Any = multiprocess
        prometheus.mark_process_dead(pid)

    def _end(self) -> None:
        for signum in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signum, signal.SIG_IGN)
        self._listener.close()
        self._signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while self._started and time.monotonic() < deadline:
            with suppress(ChildProcessError):
                pid, _ = os.waitpid(-1, os.WNOHANG)
                self._started.pop(pid, None)
            time.sleep(0.02)
        self._signal(signal.SIGKILL)

    def _signal(self, signum: signal.Signals) -> None:
        for pid in self._started:
            with suppress(ProcessLookupError):
                os.kill(pid, signum)


def _stop(_signum: int, _frame: object) -> None:
    raise SystemExit(0)

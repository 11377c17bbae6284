"""A proxy before an S3 server that lets a number of writes pass and refuses every later one, as a store does whose
quota is used up.

It is a process of its own: delta-rs keeps Python's lock while it waits for an answer, so that a thread of the test's
process could not give one.
"""

from __future__ import annotations

import multiprocessing
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from etl.spark.server import free_port, listens

REFUSAL = (
    b"<?xml version='1.0' encoding='UTF-8'?><Error><Code>QuotaExceeded</Code><Message>The quota of the bucket is used"
    b" up</Message></Error>"
)
EVERY = 1 << 30
OWN_HEADERS = ("content-length", "transfer-encoding", "connection")


def serve(port: int, onward: int, writes_left: Any) -> None:
    """Pass requests on to the port `onward`, PUT and POST only as long as `writes_left` is above zero."""

    def admits() -> bool:
        with writes_left.get_lock():
            writes_left.value -= 1
            return bool(writes_left.value >= 0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # headers and content in one packet

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.command in ("PUT", "POST") and not admits():
                self._answer(403, [("Content-Type", "application/xml")], REFUSAL)
                return
            beyond = HTTPConnection("127.0.0.1", onward, timeout=60)
            try:
                beyond.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():  # Host too: it is signed
                    beyond.putheader(name, value)
                beyond.endheaders(body)
                answer = beyond.getresponse()
                self._answer(answer.status, answer.getheaders(), answer.read())
            finally:
                beyond.close()

        def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes) -> None:
            self.send_response_only(status)
            known = {name.lower(): value for name, value in headers}
            for name, value in headers:
                if name.lower() not in OWN_HEADERS:
                    self.send_header(name, value)
            self.send_header(
                "Content-Length", known.get("content-length", "0") if self.command == "HEAD" else str(len(content))
            )
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass  # noqa: N815  the base class looks for these names

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    server.serve_forever()


class RefusingProxy:
    """A running proxy. `writes` is how many more writes may pass."""

    def __init__(self, onward: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.port = free_port()
        self._left = context.Value("q", EVERY)
        self._process = context.Process(target=serve, args=(self.port, onward, self._left), daemon=True)
        self._process.start()
        while not listens(self.port):
            assert self._process.is_alive()

    @property
    def writes(self) -> int:
        """How many more writes may pass; below zero, how many were refused."""
        return int(self._left.value)

    @writes.setter
    def writes(self, count: int) -> None:
        self._left.value = count

    def stop(self) -> None:
        """End it and wait until it is gone."""
        self._process.terminate()
        self._process.join()

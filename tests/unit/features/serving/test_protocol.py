"""The server's HTTP connection, fed with bytes as they may arrive: its bounds hold however they are cut."""

import asyncio
import json
import re
from typing import Any

import pytest
from uvicorn import Config
from uvicorn.server import ServerState

from features.serving.protocol import BoundedProtocol

HEAD = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n"
MIB = 1 << 20


class Sent(asyncio.Transport):
    """Keeps what is written before it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.closed = b"", False

    def write(self, data: Any) -> None:
        if not self.closed:
            self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        """Its data are fed anyway."""

    def resume_reading(self) -> None:
        """As above."""


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answers with the names of the headers and the size of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    content = json.dumps([[name.decode() for name, _ in scope["headers"]], size]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(content))]})
    await send({"type": "http.response.body", "body": content})


async def exchanged(pieces: tuple[bytes, ...]) -> tuple[Sent, int]:
    """What was sent, and the bytes taken before the connection was closed."""
    transport, taken = Sent(), 0
    config = Config(application, log_config=None)
    protocol = BoundedProtocol(config, ServerState(), {})
    protocol.connection_made(transport)
    for piece in pieces:
        if transport.closed:
            break
        protocol.data_received(piece)
        taken += len(piece)
        for _ in range(9):  # the application answers
            await asyncio.sleep(0)
    protocol.connection_lost(ConnectionResetError())  # None would close the transport
    return transport, taken


def feed(*pieces: bytes) -> tuple[list[tuple[int, Any]], bool, int]:
    """Answers as status and JSON, whether it closed the connection, and how many bytes it took."""
    sent, taken = asyncio.run(exchanged(pieces))
    answers = re.findall(rb"HTTP/1.1 (\d+) .*?\r\n\r\n([\[{].*?[\]}])(?=HTTP|$)", sent.written, re.DOTALL)
    return [(int(status), json.loads(content)) for status, content in answers], sent.closed, taken


def padded(size: int, head: bytes = GET) -> bytes:
    """A head of so many bytes."""
    return head + b"X: " + b"x" * (size - len(head) - 7) + b"\r\n\r\n"


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1 << 20, 50_000, 1000])
@pytest.mark.parametrize("before", [b"", GET + b"\r\n"])
def test_a_head_has_64_kib_at_most(size: int, before: bytes) -> None:
    """However it is cut, and on a connection that answered before."""
    first = [before] if before else []
    answers, closed, _ = feed(*first, *cut(padded(1 << 16), size))
    assert [status for status, _ in answers] == [200] * (len(first) + 1)
    assert not closed
    answers, closed, _ = feed(*first, *cut(padded((1 << 16) + 1), size))
    assert [status for status, _ in answers] == [200] * len(first) + [431]
    assert closed
    assert "65,536 bytes" in answers[-1][1]["detail"]


def test_a_large_head_behind_another_request_is_not_answered() -> None:
    answers, closed, _ = feed(GET + b"\r\n" + padded(80_000))
    assert closed
    assert answers == []  # 431 would be taken for the answer to the first


def test_requests_pipelined_in_a_read_are_bounded_each_for_itself() -> None:
    body = b" " * 60_000
    request = padded(60_000, HEAD + b"Content-Length: 60000\r\n") + body
    answers, closed, _ = feed(request * 4)
    assert [(status, content[1]) for status, content in answers] == [(200, 60_000)] * 4
    assert not closed


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"2\r\n{}\r\n0\r\n", b"Xx: y\r\n"),
        (b"2\r\n{}\r\n0\r\nX: ", b"y"),
        (b"2;x=", b"y"),
        (b"", b"1;x=" + b"y" * 99 + b"\r\n \r\n"),
    ],
)
def test_chunk_extensions_and_trailers_end(start: bytes, more: bytes) -> None:
    endless = (more * 10_000)[: 10_000 // len(more) * len(more)]
    answers, closed, taken = feed(CHUNKED + start, *[endless] * 400)
    assert closed
    assert MIB // 2 < taken < 2 * MIB
    ((status, content),) = answers
    assert (status, content["error_type"]) == (413, "FramingTooLargeError")


def test_the_largest_body_may_come_in_small_chunks() -> None:
    chunks = (b"10\r\n" + b" " * 16 + b"\r\n") * (MIB // 16)
    answers, closed, _ = feed(CHUNKED, *cut(chunks + b"0\r\n\r\n", 256_000))
    assert [(status, content[1]) for status, content in answers] == [(200, MIB)]
    assert not closed


def test_a_body_of_a_declared_length_is_no_framing() -> None:
    body = b" " * (3 * MIB)
    answers, closed, _ = feed(HEAD + b"Content-Length: %d\r\n\r\n" % len(body), *cut(body, 256_000), GET + b"\r\n")
    assert [(status, content[1]) for status, content in answers] == [(200, 3 * MIB), (200, 0)]
    assert not closed


def test_trailers_are_no_headers() -> None:
    request = CHUNKED + b"2\r\n{}\r\n0\r\nAuthorization: Bearer x\r\n\r\n"
    answers, closed, _ = feed(request * 2)
    assert answers == [(200, [["host", "transfer-encoding"], 2])] * 2
    assert not closed


@pytest.mark.parametrize(
    "malformed",
    [b"\x16\x03\x01\x02\x00", b"NONE / HTTP/1.1\r\n\r\n", b"GET http://a:b:c/ HTTP/1.1\r\n\r\n", CHUNKED + b"x\r\n"],
)
def test_what_is_not_http_is_refused_in_json(malformed: bytes) -> None:
    ((status, content),), closed, _ = feed(malformed)
    assert (status, content["error_type"]) == (400, "MalformedRequestError")
    assert closed

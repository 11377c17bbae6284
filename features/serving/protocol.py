"""uvicorn's HTTP protocol with limits that an application cannot set: on a request's head, framing and arrival."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from features.serving.errors import MalformedRequestError, RequestError, TooLargeError, content_of
from features.serving.options import LARGEST_FRAMING, LARGEST_HEAD, REQUEST_SECONDS

PIECE = 1 << 12
"""Bytes parsed at a time. The parser does not say where in them a request began, so a pipelined head may be longer."""
DISCARDED: Any = deque(maxlen=0)
"""Receives trailers, which uvicorn would append to the headers of the application."""


class HeadTooLargeError(TooLargeError):
    """The request line and the headers are too long."""

    status = 431


class FramingTooLargeError(TooLargeError):
    """A chunked body has too many bytes beside its content: chunk sizes, extensions and trailers."""


class SlowRequestError(RequestError):
    """The request did not arrive in time."""

    status = 408


class BoundedProtocol(HttpToolsProtocol):
    """One connection. A timer runs only while part of a request is missing, so usual requests cost nothing extra."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first request."""
        self._partial, self._in_head, self._room = True, True, LARGEST_HEAD
        self._timer: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse part of a request, or several requests."""
        start = 0
        while start < len(data):
            end = start + (min(self._room, PIECE) if self._in_head else PIECE)
            piece = data[start:end]  # of a usual request: all of it, without a copy
            start = end
            self._room -= len(piece)
            super().data_received(piece)
            if self.transport.is_closing():
                return
            if self._room <= 0:
                self._refuse(self._too_large())
                return
        if self._timer is None and (self._partial or self._is_idle()):
            self._arm()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed, in the format of the application."""
        self._refuse(MalformedRequestError(f"{msg} Expected: HTTP/1.1."))

    def on_message_begin(self) -> None:
        """A request starts."""
        self._partial = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head is complete."""
        super().on_headers_complete()  # raises for a malformed URL, which is a head that is not complete
        self._in_head, self._room = False, LARGEST_FRAMING
        self.headers = DISCARDED

    def on_body(self, body: bytes) -> None:
        """Do not count content as framing: the application limits it."""
        self._room += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is complete."""
        self._partial, self._in_head, self._room = False, True, LARGEST_HEAD
        self._disarm()
        super().on_message_complete()

    def _is_idle(self) -> bool:
        """Whether no response is pending; there, empty lines end uvicorn's own timeout."""
        cycle: Any = self.cycle  # None before the first one
        return cycle is None or cycle.response_complete

    def _arm(self) -> None:
        self._timer = self.loop.call_later(REQUEST_SECONDS, self._expire)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self.pipeline:  # reading was paused for the requests before this one, which is not its sender's fault
            self._arm()
            return
        late = f"The request had not arrived after {REQUEST_SECONDS:.0f} s."
        self._refuse(SlowRequestError(f"{late} Send it again, as a whole."))

    def _too_large(self) -> TooLargeError:
        if self._in_head:
            most = f"A request line with its headers may have {LARGEST_HEAD:,} bytes."
            return HeadTooLargeError(f"{most} Send the rest in the body.")
        most = f"Chunk sizes, extensions and trailers of a body may have {LARGEST_FRAMING:,} bytes."
        return FramingTooLargeError(f"{most} Send fewer chunks, or declare the body's Content-Length.")

    def _refuse(self, error: RequestError) -> None:
        """Close the connection, with an error response if a request is waiting for one and no response has started."""
        cycle: Any = self.cycle
        began = self._partial and self.scope is not None and self._is_idle()
        awaited = began if self._in_head else not self.pipeline and not cycle.response_started
        if awaited:
            content = content_of(error, error.status)
            lines = (
                f"HTTP/1.1 {error.status} Refused",
                "content-type: application/json",
                f"content-length: {len(content)}",
                "connection: close",
                "\r\n",
            )
            self.transport.write("\r\n".join(lines).encode() + content)
        self.transport.close()

"""HTTP as uvicorn speaks it, with two bounds that an application cannot set: a request's head and its arrival."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from features.serving.errors import RequestError, TooLargeError, content_of
from features.serving.options import LARGEST_HEAD, REQUEST_SECONDS


class HeadTooLargeError(TooLargeError):
    """The request line and the headers are too long."""

    status = 431


class SlowRequestError(RequestError):
    """The request did not arrive in time."""

    status = 408


class BoundedProtocol(HttpToolsProtocol):
    """One connection. A timer runs only while a part of a request is missing: usual requests pay nothing for it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first request is awaited."""
        self._partial, self._in_head, self._head_bytes = True, True, 0
        self._timer: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Some of a request, or several."""
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._in_head and self._head_bytes > LARGEST_HEAD:
            most = f"A request line with its headers may have {LARGEST_HEAD:,} bytes."
            self._refuse(HeadTooLargeError(f"{most} Send the rest in the body."))
        elif self._timer is None and (self._partial or self._is_idle()):
            self._arm()

    def on_message_begin(self) -> None:
        """A request begins."""
        self._partial = self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Its head is there."""
        self._in_head, self._head_bytes = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """All of it is there."""
        self._partial = False
        self._disarm()
        super().on_message_complete()

    def _is_idle(self) -> bool:
        """Between two requests, where empty lines end uvicorn's own waiting."""
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

    def _refuse(self, error: RequestError) -> None:
        """Answer, unless nothing was asked or an answer has begun, and close."""
        cycle: Any = self.cycle
        awaited = self._head_bytes > 0 if self._in_head else cycle is not None and not cycle.response_started
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

"""The gateway before Feast's application: admits requests, limits their size, answers Millrace's own routes, and
counts.

Only the routes in `ROUTES` exist, whatever else Feast mounts.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from starlette.concurrency import run_in_threadpool

from features.registry import store as registry_store
from features.serving import metrics, token
from features.serving.errors import (
    INTERNAL,
    ContentTypeError,
    HostNotAllowedError,
    MalformedRequestError,
    MethodNotAllowedError,
    RequestError,
    RouteNotFoundError,
    TooLargeError,
    WritesDisabledError,
    content_of,
)
from features.serving.online import OnlineFeatures
from features.serving.options import LARGEST_BODY, MOST_ENTITIES, Options, host_name
from features.serving.served import Probe, Served
from features.serving.status import status_of
from lake import settings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]
Headers = Iterable[tuple[bytes, bytes]]

ONLINE, READY, METRICS, HEALTH = "/get-online-features", "/ready", "/metrics", "/health"
READ, WRITE = ("GET", "HEAD"), ("POST",)
WRITES = ("/push", "/write-to-online-store", "/materialize", "/materialize-incremental")
ROUTES = {ONLINE: ("POST",), HEALTH: READ, READY: READ, METRICS: READ, **dict.fromkeys(WRITES, WRITE)}
OTHER = "other"
"""Metrics label of unknown routes."""
JSON = b"application/json"
INLINE_BYTES = 1 << 14
"""Requests up to this size, of some hundred entities, run inline: a thread hand-off costs more."""
log = logging.getLogger("millrace.features")


class ClientClosedError(Exception):
    """The client disconnected before its request arrived."""


@dataclass(slots=True)
class Response:
    """A response and its metrics label."""

    status: int
    content: bytes = b""
    content_type: bytes = JSON
    headers: Headers = ()
    service: str = ""


class Gateway:
    """The server as an ASGI application."""

    def __init__(self, app: Application, online: OnlineFeatures, options: Options) -> None:
        self._app, self.online, self._options = app, online, options
        self._probe = Probe()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer and count an HTTP request; pass lifespan events on to Feast's application."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return
        started = time.perf_counter()
        route = scope["path"] if scope["path"] in ROUTES else OTHER
        service, status = "", metrics.CLIENT_CLOSED
        try:
            sent = StatusRecorder(send)
            response = await self._response(scope, receive, sent)
            service = response.service
            if sent.status is None:
                await _send(response, scope["method"] == "HEAD", send)
            status = str(sent.status or response.status)
        except ClientClosedError:
            pass
        finally:
            metrics.observe(route, service, status, time.perf_counter() - started)

    async def _response(self, scope: Message, receive: Receive, send: StatusRecorder) -> Response:
        try:
            headers = dict(scope["headers"])
            self._ensure_admitted(scope, headers)
            path = scope["path"]
            if path == ONLINE:
                return await self._answer(scope, headers, receive, send)
            if path == HEALTH:
                return Response(200, b'{"status": "alive"}')
            if path == READY:
                return _readiness(await self._probe.look(), registry_store.outage(self.online.store))
            if path == METRICS:
                probed = await self._probe.look()
                served = probed if isinstance(probed, Served) else None
                outage = registry_store.outage(self.online.store)
                content = await run_in_threadpool(metrics.exposition, served, self._options.workers, outage is None)
                return Response(200, content, metrics.CONTENT_TYPE)
            return await self._forward_to_feast(scope, await _body(headers, receive), receive, send)
        except ClientClosedError:
            raise
        except Exception as error:
            return _error(error)

    def _ensure_admitted(self, scope: Message, headers: dict[bytes, bytes]) -> None:
        """Raise a RequestError unless a route takes this request and its sender may use it."""
        _ensure_host(scope["headers"], headers.get(b"host"), self._options.hosts)
        path, method = scope["path"], scope["method"]
        methods = ROUTES.get(path)
        if methods is None:
            readable = ", ".join(sorted(ROUTES.keys() - set(WRITES)))
            raise RouteNotFoundError(f"Nothing is served there. Routes are {readable}.")
        if method not in methods:
            raise MethodNotAllowedError(f"{path} does not take this method. Use {methods[0]}.", ", ".join(methods))
        if path in WRITES:
            if not self._options.writes:
                remedy = "To allow writes with a token, start it with MILLRACE_FEATURES_WRITES=1."
                raise WritesDisabledError(f"This server is read-only: the DAG puts features online. {remedy}")
            token.ensure_valid(headers.get(b"authorization"))
        if methods == WRITE and headers.get(b"content-type", b"").partition(b";")[0].strip().lower() != JSON:
            raise ContentTypeError("The body must be declared as JSON. Send `Content-Type: application/json`.")

    async def _answer(
        self, scope: Message, headers: dict[bytes, bytes], receive: Receive, send: StatusRecorder
    ) -> Response:
        body = await _body(headers, receive)
        service = ""
        try:
            request, resolved = self.online.resolve(body)
            service = resolved.service
            if self.online.is_left_to_feast():
                resolved.checked(request.entities)
                response = await self._forward_to_feast(scope, body, receive, send)
                response.service = service
                return response
            if len(body) <= INLINE_BYTES and settings.online() == "sqlite":
                content = self.online.answer(request, resolved)
            else:  # other requests must not wait for a long one or for a database
                content = await run_in_threadpool(self.online.answer, request, resolved)
            metrics.observe_entities(service, min(len(next(iter(request.entities.values()))), MOST_ENTITIES))
            return Response(200, content, service=service)
        except Exception as error:
            response = _error(error)
            response.service = service
            return response

    async def _forward_to_feast(self, scope: Message, body: bytes, receive: Receive, send: StatusRecorder) -> Response:
        """Let Feast's application answer a request whose body was already received."""
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Message:
            return next(messages, None) or await receive()

        try:
            await self._app(scope, replay, send)
        except Exception:
            if send.status is None:  # else the error was answered, and Starlette raises it again for logging
                raise
        return Response(send.status or INTERNAL)


class StatusRecorder:
    """Sends messages and records the status."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        """Send the message."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        await self._send(message)


async def _send(response: Response, headers_only: bool, send: Send) -> None:
    headers = [
        (b"content-length", str(len(response.content)).encode()),
        (b"content-type", response.content_type),
        *response.headers,
    ]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if headers_only else response.content})


async def _body(headers: dict[bytes, bytes], receive: Receive) -> bytes:
    """The body; TooLargeError before more than `LARGEST_BODY` is buffered, with or without a Content-Length."""
    announced = headers.get(b"content-length", b"0")
    if not announced.isdigit():
        raise MalformedRequestError("Content-Length must be a number of bytes.")
    if len(announced) > 12 or int(announced) > LARGEST_BODY:
        raise _too_large()
    message = await receive()
    body: bytes | bytearray = message.get("body", b"")
    while message.get("more_body"):
        message = await receive()
        body = bytearray(body) if isinstance(body, bytes) else body
        body += message.get("body", b"")
        if len(body) > LARGEST_BODY:
            raise _too_large()
    if message["type"] == "http.disconnect":
        raise ClientClosedError
    if len(body) > LARGEST_BODY:
        raise _too_large()
    return bytes(body)


def _too_large() -> TooLargeError:
    return TooLargeError(f"A body may have {LARGEST_BODY:,} bytes. Send fewer entities in each of several requests.")


def _ensure_host(headers: Headers, host: bytes | None, allowed: frozenset[str]) -> None:
    """Raise unless the Host header is an allowed name.

    This stops DNS rebinding, by which a web page could read features through a visitor's browser.
    """
    if host is None or sum(name == b"host" for name, _ in headers) > 1:
        raise MalformedRequestError("A request must have one Host header.")
    name = _host_name(host)
    if name not in allowed:
        remedy = f"Use {', '.join(sorted(allowed))}, or start it with MILLRACE_FEATURES_HOSTS=NAME to add one."
        raise HostNotAllowedError(f"This server does not answer to that name. {remedy}")


@lru_cache(1 << 10)
def _host_name(header: bytes) -> str | None:
    return host_name(header.decode("latin-1"))


def _readiness(probed: Served | Exception, outage: str | None) -> Response:
    """Ready also while the registry is unreachable: the definitions read last are served, and the response says so."""
    if isinstance(probed, Exception):
        return _error(probed)
    horizon = probed.horizon.date().isoformat() if probed.horizon else None
    content = {"status": "ready", "generation": probed.generation, "release": probed.release, "horizon": horizon}
    return Response(200, json.dumps(content | ({"registry": outage} if outage else {})).encode())


def _error(error: Exception) -> Response:
    status = status_of(error)
    if status == INTERNAL:
        log.error("A request failed", exc_info=error)
    return Response(status, content_of(error, status), headers=error.headers if isinstance(error, RequestError) else ())

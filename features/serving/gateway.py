"""What stands before Feast's application: who may ask what, of which size; and the routes that are ours.

Only the routes of `ROUTES` exist, whatever Feast mounts besides them. Each request is counted.
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
LOOK, WRITE = ("GET", "HEAD"), ("POST",)
WRITES = ("/push", "/write-to-online-store", "/materialize", "/materialize-incremental")
ROUTES = {ONLINE: ("POST",), HEALTH: LOOK, READY: LOOK, METRICS: LOOK, **dict.fromkeys(WRITES, WRITE)}
OTHER = "other"
"""The label of routes that do not exist."""
JSON = b"application/json"
INLINE_BYTES = 1 << 14
"""Requests up to this size, of some hundred entities, run inline: a thread hand-off costs more."""
log = logging.getLogger("millrace.features")


class ClientClosedError(Exception):
    """The client went away before its request had arrived."""


@dataclass(slots=True)
class Response:
    """An answer, and how it is counted. Without a status it was sent already."""

    status: int
    content: bytes = b""
    content_type: bytes = JSON
    headers: Headers = ()
    service: str = ""


class Gateway:
    """The whole server as an ASGI application."""

    def __init__(self, app: Application, online: OnlineFeatures, options: Options) -> None:
        self._app, self.online, self._options = app, online, options
        self._probe = Probe()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request and count it, or hand on what begins and ends the application."""
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
            sent = Watched(send)
            response = await self._response(scope, receive, sent)
            service = response.service
            if sent.status is None:
                await _send(response, scope["method"] == "HEAD", send)
            status = str(sent.status or response.status)
        except ClientClosedError:
            pass
        finally:
            metrics.observe(route, service, status, time.perf_counter() - started)

    async def _response(self, scope: Message, receive: Receive, send: Watched) -> Response:
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
                found = await self._probe.look()
                served = found if isinstance(found, Served) else None
                outage = registry_store.outage(self.online.store)
                content = await run_in_threadpool(metrics.exposition, served, self._options.workers, outage is None)
                return Response(200, content, metrics.CONTENT_TYPE)
            return await self._feasts(scope, await _body(headers, receive), receive, send)
        except ClientClosedError:
            raise
        except Exception as error:
            return _error(error)

    def _ensure_admitted(self, scope: Message, headers: dict[bytes, bytes]) -> None:
        """Raise the RequestError of a request that no route takes, or that may not use its route."""
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

    async def _answer(self, scope: Message, headers: dict[bytes, bytes], receive: Receive, send: Watched) -> Response:
        body = await _body(headers, receive)
        service = ""
        try:
            request, resolved = self.online.resolve(body)
            service = resolved.service
            if self.online.is_feasts():
                resolved.checked(request.entities)
                response = await self._feasts(scope, body, receive, send)
                response.service = service
                return response
            if len(body) <= INLINE_BYTES and settings.online() == "sqlite":
                content = self.online.answer(request, resolved)
            else:  # others must not wait for a long request, or for a server
                content = await run_in_threadpool(self.online.answer, request, resolved)
            metrics.observe_entities(service, min(len(next(iter(request.entities.values()))), MOST_ENTITIES))
            return Response(200, content, service=service)
        except Exception as error:
            response = _error(error)
            response.service = service
            return response

    async def _feasts(self, scope: Message, body: bytes, receive: Receive, send: Watched) -> Response:
        """Have Feast's application answer a request whose body was received."""
        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def again() -> Message:
            return next(messages, None) or await receive()

        try:
            await self._app(scope, again, send)
        except Exception:
            if send.status is None:  # else Starlette raises what was answered once more, for servers that log it
                raise
        return Response(send.status or INTERNAL)


class Watched:
    """Sends, and knows the status that was sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status: int | None = None

    async def __call__(self, message: Message) -> None:
        """Hand the message on."""
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
    """The body; TooLargeError before more than `LARGEST_BODY` is kept, whether or not its length was announced."""
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
    """A name that leads here by DNS rebinding is not ours.

    A page of that name must not read features through a visitor's browser.
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


def _readiness(found: Served | Exception, outage: str | None) -> Response:
    """Ready also while the registry is away: the definitions that were read last are served, and the answer says so."""
    if isinstance(found, Exception):
        return _error(found)
    horizon = found.horizon.date().isoformat() if found.horizon else None
    content = {"status": "ready", "generation": found.generation, "release": found.release, "horizon": horizon}
    return Response(200, json.dumps(content | ({"registry": outage} if outage else {})).encode())


def _error(error: Exception) -> Response:
    status = status_of(error)
    if status == INTERNAL:
        log.error("A request failed", exc_info=error)
    return Response(status, content_of(error, status), headers=error.headers if isinstance(error, RequestError) else ())

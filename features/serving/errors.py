"""Requests that are refused, with the status that each has, and how an error is written."""

from __future__ import annotations

import json
from typing import Any, ClassVar

UNPROCESSABLE = 422
INTERNAL = 500


class RequestError(Exception):
    """A request that is refused; the message says why, and what to send instead."""

    status: ClassVar[int] = UNPROCESSABLE
    headers: tuple[tuple[bytes, bytes], ...] = ()


class MalformedRequestError(RequestError):
    """It is not HTTP with a JSON body, as this server reads it."""

    status = 400


class UnauthorizedError(RequestError):
    """It does not carry the token."""

    status = 401
    headers = ((b"www-authenticate", b'Bearer realm="millrace"'),)


class WritesDisabledError(RequestError):
    """It would write, and the server is read-only."""

    status = 403


class RouteNotFoundError(RequestError):
    """Nothing is served there."""

    status = 404


class NameNotFoundError(RequestError):
    """No feature, view or service has this name."""

    status = 404


class MethodNotAllowedError(RequestError):
    """The route has other methods."""

    status = 405

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.headers = ((b"allow", allowed.encode()),)


class TooLargeError(RequestError):
    """It has more bytes, entities or features than are answered at once."""

    status = 413


class ContentTypeError(RequestError):
    """Its body is not declared as JSON."""

    status = 415


class HostNotAllowedError(RequestError):
    """It was sent to a name that is not this server's: a web page may have made the browser do so."""

    status = 421


class FieldError(RequestError):
    """A field of the body is unknown, or has another type."""


class EntityError(RequestError):
    """An entity's key is missing, null, out of range or of another type, or columns differ in length."""


def content_of(error: Exception, status: int) -> bytes:
    """The JSON body: status code, detail, and the error's type, as Feast's servers write errors.

    What went wrong inside (500) is for the log.
    """
    detail: Any = str(error)
    if status == INTERNAL:
        detail = "The feature server failed. Its log, logs/features.log of MILLRACE_HOME, says why."
    return json.dumps({"status_code": status, "detail": detail, "error_type": type(error).__name__}).encode()

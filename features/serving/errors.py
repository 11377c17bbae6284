"""Errors of refused requests with their HTTP status, and the JSON body of an error."""

from __future__ import annotations

import json
from typing import Any, ClassVar

UNPROCESSABLE = 422
INTERNAL = 500


class RequestError(Exception):
    """A refused request; the message says why, and what to send instead."""

    status: ClassVar[int] = UNPROCESSABLE
    headers: tuple[tuple[bytes, bytes], ...] = ()


class MalformedRequestError(RequestError):
    """The request is not valid HTTP with a JSON body."""

    status = 400


class UnauthorizedError(RequestError):
    """The request does not carry the token."""

    status = 401
    headers = ((b"www-authenticate", b'Bearer realm="millrace"'),)


class WritesDisabledError(RequestError):
    """The request would write, and the server is read-only."""

    status = 403


class RouteNotFoundError(RequestError):
    """The path has no route."""

    status = 404


class NameNotFoundError(RequestError):
    """No feature, view or service has this name."""

    status = 404


class MethodNotAllowedError(RequestError):
    """The route does not take this method."""

    status = 405

    def __init__(self, message: str, allowed: str) -> None:
        super().__init__(message)
        self.headers = ((b"allow", allowed.encode()),)


class TooLargeError(RequestError):
    """The request has too many bytes, entities or features."""

    status = 413


class ContentTypeError(RequestError):
    """The body is not declared as JSON."""

    status = 415


class HostNotAllowedError(RequestError):
    """The Host header is not a name of this server: a web page may have made a browser send the request."""

    status = 421


class FieldError(RequestError):
    """A field of the body is unknown, or has another type."""


class EntityError(RequestError):
    """An entity's key is missing, null, out of range or of another type, or columns differ in length."""


def content_of(error: Exception, status: int) -> bytes:
    """The JSON body: status code, detail, and the error's type, as Feast's servers write errors.

    Details of internal errors (500) go to the log only.
    """
    detail: Any = str(error)
    if status == INTERNAL:
        detail = "The feature server failed. Its log, logs/features.log of MILLRACE_HOME, says why."
    return json.dumps({"status_code": status, "detail": detail, "error_type": type(error).__name__}).encode()

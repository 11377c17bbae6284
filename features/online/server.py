"""What Redis and PostgreSQL have in common: how long they may take, how they are named without their password, and what it means when they do not answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

from features.generation import OnlineStoreUnreachableError

CONNECT_SECONDS = 2
ANSWER_SECONDS = 5
"""A read that takes longer has failed: a model that waits for its features is better told so."""


def masked(url: str) -> str:
    """The URL without user, password and options."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    return f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path}"


@contextmanager
def reaching(where: str, *errors: type[Exception]) -> Iterator[None]:
    """Say what to do when these errors of a client are raised."""
    try:
        yield
    except errors as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise OnlineStoreUnreachableError(
            f"the online store at {where} cannot be used: {told}. Nothing was served, and what is online stays as it was. See that it runs, and that MILLRACE_ONLINE names the right one"
        ) from error

"""What Redis and PostgreSQL have in common: how long they may take, how they are named without their password, and what it means when they do not answer."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from features.generation import OnlineStoreUnfitError, OnlineStoreUnreachableError

CONNECT_SECONDS = 2
ANSWER_SECONDS = 5
"""A read that takes longer has failed: a model that waits for its features is better told so."""


URL = re.compile(r"(?P<scheme>[a-z]+://)(?:[^/?#@\[\]]*@)?(?P<where>[^?#@]*)(?:\?[^@]*)?")


def masked(url: str) -> str:
    """The URL without user, password and options; OnlineStoreUnfitError, which shows nothing of it, where it cannot be told what is the password."""
    parts = URL.fullmatch(url)
    if not parts:
        raise unreadable()
    return parts["scheme"] + parts["where"]


def unreadable() -> OnlineStoreUnfitError:
    """The error of a URL that is none; what is wrong is not shown, because it may be a part of the password."""
    return OnlineStoreUnfitError(
        "MILLRACE_ONLINE is not a URL that can be taken apart. Use scheme://user:password@host:port/database, and in the user and the password %40 for @, %2F for /, %3A for :, %3F for ?,"
        " %23 for #, %5B and %5D for brackets, and %25 for a per cent sign"
    )


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

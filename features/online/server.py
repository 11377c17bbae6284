"""What the Redis and PostgreSQL backends share: timeouts, URLs without credentials, and errors that say what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from features.online.generation import OnlineStoreUnfitError, OnlineStoreUnreachableError
from lake.tls import Explanation

CONNECT_SECONDS = 2
ANSWER_SECONDS = 5
"""Reads that take longer fail, because a waiting model is better served by an error."""


URL = re.compile(r"(?P<scheme>[a-z]+://)(?:[^/?#@\[\]]*@)?(?P<where>[^?#@]*)(?:\?[^@]*)?")


def mask_url(url: str) -> str:
    """The URL without user, password and options; OnlineStoreUnfitError, which shows no part of it, where it cannot be
    parsed.
    """
    parts = URL.fullmatch(url)
    if not parts:
        raise invalid_url()
    return parts["scheme"] + parts["where"]


def invalid_url() -> OnlineStoreUnfitError:
    """The error for a URL that cannot be parsed. It shows no part of the URL, which may contain a password."""
    return OnlineStoreUnfitError(
        "MILLRACE_ONLINE is not a URL that can be taken apart. Use scheme://user:password@host:port/database, and in"
        " the user and the password %40 for @, %2F for /, %3A for :, %3F for ?, %23 for #, %5B and %5D for brackets,"
        " and %25 for a per cent sign"
    )


SETTING = "MILLRACE_ONLINE"
CHECK_SERVER = "See that it runs, and that MILLRACE_ONLINE names the right one"


def _no_explanation(_text: str) -> Explanation | None:
    return None


@contextmanager
def translate_errors(
    where: str, *errors: type[Exception], explain: Callable[[str], Explanation | None] = _no_explanation
) -> Iterator[None]:
    """Raise these errors of a client as OnlineStoreUnreachableError with a remedy."""
    try:
        yield
    except errors as error:
        text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        problem, remedy = explain(text) or (text, CHECK_SERVER)
        raise OnlineStoreUnreachableError(
            f"the online store at {where} cannot be used: {problem}. Nothing was served, and what is online stays as it"
            f" was. {remedy}"
        ) from error

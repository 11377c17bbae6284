"""What Redis and PostgreSQL have in common: how long they may take, how they are named without their password, and what
it means when they do not answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from features.online.generation import OnlineStoreUnfitError, OnlineStoreUnreachableError
from lake import tls

CONNECT_SECONDS = 2
ANSWER_SECONDS = 5
"""A read that takes longer has failed: a model that waits for its features is better told so."""


URL = re.compile(r"(?P<scheme>[a-z]+://)(?:[^/?#@\[\]]*@)?(?P<where>[^?#@]*)(?:\?[^@]*)?")


def masked(url: str) -> str:
    """The URL without user, password and options; OnlineStoreUnfitError, which shows nothing of it, where it cannot be
    told what is the password.
    """
    parts = URL.fullmatch(url)
    if not parts:
        raise unreadable()
    return parts["scheme"] + parts["where"]


def unreadable() -> OnlineStoreUnfitError:
    """The error of a URL that is none; what is wrong is not shown, because it may be a part of the password."""
    return OnlineStoreUnfitError(
        "MILLRACE_ONLINE is not a URL that can be taken apart. Use scheme://user:password@host:port/database, and in"
        " the user and the password %40 for @, %2F for /, %3A for :, %3F for ?, %23 for #, %5B and %5D for brackets,"
        " and %25 for a per cent sign"
    )


LOOK = "See that it runs, and that MILLRACE_ONLINE names the right one"
RENEW = "Renew the certificate at the server, and see that the clocks are right"
REMEDIES = {
    tls.Fault.UNTRUSTED: (
        "See that {authority} in MILLRACE_ONLINE names a file with the certificate of that authority, in PEM"
    ),
    tls.Fault.MISSING: (
        "Let {authority} in MILLRACE_ONLINE name a file with the certificate of the authority that issued the server's,"
        " in PEM"
    ),
    tls.Fault.STRICT: (
        "Have both issued with Subject and Authority Key Identifier, basicConstraints and keyUsage (RFC 5280)"
    ),
    tls.Fault.OTHER_HOST: (
        "Use a host name that it lists in MILLRACE_ONLINE, or give the server a certificate for this one"
    ),
    tls.Fault.ANONYMOUS: "Let {client} in MILLRACE_ONLINE name a certificate and its key",
    tls.Fault.PLAIN: "{off}, or turn TLS on at the server",
    tls.Fault.ENCRYPTED: "{on}",
}


@dataclass(frozen=True)
class Words:
    """What the options for authorities and for a client's certificate are called; how to turn encryption off and on."""

    authority: str
    client: str
    off: str
    on: str

    def explained(self, fault: tls.Fault) -> Explained:
        """The fault, and what to do about it."""
        return fault.format(server="the server"), REMEDIES.get(fault, RENEW).format(**vars(self))


Explained = tuple[str, str]
"""What is wrong, and what to do."""


def _unexplained(_text: str) -> Explained | None:
    return None


@contextmanager
def reaching(
    where: str, *errors: type[Exception], explained: Callable[[str], Explained | None] = _unexplained
) -> Iterator[None]:
    """Say what to do when these errors of a client are raised."""
    try:
        yield
    except errors as error:
        text = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        told, remedy = explained(text) or (text, LOOK)
        raise OnlineStoreUnreachableError(
            f"the online store at {where} cannot be used: {told}. Nothing was served, and what is online stays as it"
            f" was. {remedy}"
        ) from error

"""What the Redis and PostgreSQL backends share: timeouts, URLs without credentials, and errors that say what to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from features.online.generation import OnlineStoreUnfitError, OnlineStoreUnreachableError
from lake import tls

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


CHECK_SERVER = "See that it runs, and that MILLRACE_ONLINE names the right one"
RENEW_CERTIFICATE = "Renew the certificate at the server, and see that the clocks are right"
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
class OptionNames:
    """A client's names of the options for authorities and client certificates, and how to turn encryption off and
    on.
    """

    authority: str
    client: str
    off: str
    on: str

    def explain(self, fault: tls.Fault) -> Explanation:
        """The fault and its remedy."""
        return fault.format(server="the server"), REMEDIES.get(fault, RENEW_CERTIFICATE).format(**vars(self))


Explanation = tuple[str, str]
"""The problem and its remedy."""


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

"""Find out why a TLS connection fails, from the client's error message or with a handshake of our own.

The handshake is for clients with vague messages: Sail only says `error sending request`, and libpq reports an expired
certificate as a failed verification.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import struct
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

SECONDS = 2.0
"""Timeout of each step of a handshake, in addition to the client's own."""
POSTGRES_REQUEST = struct.pack("!ii", 8, 80_877_103)
"""PostgreSQL's SSLRequest, which starts TLS within its protocol."""


class Fault(StrEnum):
    """Why a TLS connection fails: messages to format with `server`."""

    UNTRUSTED = "the certificate of {server} is not trusted, since no authority known here has issued it"
    MISSING = "there is no file of authorities by which to judge the certificate of {server}"
    EXPIRED = "the certificate of {server} has expired"
    EARLY = "the certificate of {server} is not valid yet"
    STRICT = "the certificate of {server}, or of its authority, lacks an extension that Python 3.13 requires"
    OTHER_HOST = "the certificate of {server} is for another host name"
    ANONYMOUS = "{server} asks for a client's certificate that it accepts"
    PLAIN = "{server} does not speak TLS"
    ENCRYPTED = "{server} speaks TLS only"


PHRASES = {
    Fault.MISSING: r"root certificate file .* does not exist|could not (read|load) root certificate",
    Fault.EXPIRED: r"certificate has expired|certificate expired|ExpiredContext|NotAfter",
    Fault.EARLY: r"certificate is not yet valid|NotValidYet|certificate not valid yet|NotBefore",
    Fault.STRICT: r"Missing (Authority|Subject) Key Identifier|not include key usage|CA cert not marked critical",
    Fault.OTHER_HOST: (
        r"certificate (is )?not valid for|NotValidForName|does not match host|[Hh]ostname mismatch|No subject alt"
    ),
    Fault.UNTRUSTED: (
        r"UnknownIssuer|self[- ]signed certificate|unable to get (local )?issuer|PKIX path|certificate verify"
        r" failed(?!:)"
    ),
    Fault.ANONYMOUS: (
        r"certificate required|CertificateRequired|a valid client certificate|alert unknown ca|alert bad cert"
    ),
    Fault.PLAIN: (
        r"(?i)wrong.version.number|InvalidContentType|does not support SSL|record layer failure|unrecognized SSL"
    ),
}
"""The wordings of OpenSSL, libpq, rustls and Java, the more precise ones first."""


Explanation = tuple[str, str]
"""The problem and its remedy."""
RENEW_CERTIFICATE = "Renew the certificate at the server, and see that the clocks are right"
REMEDIES = {
    Fault.UNTRUSTED: ("See that {authority} in {setting} names a file with the certificate of that authority, in PEM"),
    Fault.MISSING: (
        "Let {authority} in {setting} name a file with the certificate of the authority that issued the server's,"
        " in PEM"
    ),
    Fault.STRICT: (
        "Have both issued with Subject and Authority Key Identifier, basicConstraints and keyUsage (RFC 5280)"
    ),
    Fault.OTHER_HOST: ("Use a host name that it lists in {setting}, or give the server a certificate for this one"),
    Fault.ANONYMOUS: "Let {client} in {setting} name a certificate and its key",
    Fault.PLAIN: "{off}, or turn TLS on at the server",
    Fault.ENCRYPTED: "{on}",
}


@dataclass(frozen=True)
class OptionNames:
    """The variable with a server's URL, a client's names of the options for authorities and client certificates, and
    how to turn encryption off and on.
    """

    setting: str
    authority: str
    client: str
    off: str
    on: str

    def explain(self, fault: Fault) -> Explanation:
        """The fault and its remedy."""
        remedy = REMEDIES.get(fault, RENEW_CERTIFICATE).format(**vars(self))
        return fault.format(server="the server"), remedy.format(**vars(self))


POSTGRES = {
    "authority": "sslrootcert",
    "client": "sslcert and sslkey",
    "off": "Where the network may be trusted, set sslmode=disable in {setting}",
    "on": "Set sslmode=verify-full and sslrootcert in {setting}",
}
"""The names of libpq's options."""


def classify(text: str) -> Fault | None:
    """The fault in an error message; None where it is not about TLS."""
    return next((fault for fault, phrase in PHRASES.items() if re.search(phrase, text)), None)


def probe(host: str, port: int, authority: str | None = None, *, postgres: bool = False) -> Fault | None:
    """Connect, trusting the authorities of this file. Returns the fault; None where there is none, or no answer."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if authority:
            context.load_verify_locations(authority)
        else:
            context.load_default_certs()
        _shake_hands(context, host, port, postgres=postgres)
    except ConnectionRefusedError:
        return None
    except OSError as error:  # ssl.SSLError is one
        return classify(str(error))
    return None


def speaks_tls(host: str, port: int) -> bool:
    """Whether the server answers a TLS handshake, with any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with suppress(OSError):
        _shake_hands(context, host, port)
        return True
    return False


def _shake_hands(context: ssl.SSLContext, host: str, port: int, *, postgres: bool = False) -> None:
    with socket.create_connection((host, port), SECONDS) as connection:
        if postgres:
            connection.sendall(POSTGRES_REQUEST)
            if connection.recv(1) != b"S":
                raise ssl.SSLError("the server does not support SSL")
        with context.wrap_socket(connection, server_hostname=host) as encrypted:
            encrypted.settimeout(SECONDS / 10)
            with suppress(TimeoutError):  # a server that requires a client certificate refuses after the handshake
                encrypted.recv(1)


def explain_postgres(text: str, options: Mapping[str, Any], setting: str) -> Explanation | None:
    """What keeps a connection to PostgreSQL from being encrypted, from the message of libpq and the options of the URL
    in a setting; None where it is something else. libpq reports expired and untrusted certificates alike.
    """
    if text.endswith("no encryption"):
        return (
            text,
            (
                f"If the server wants encrypted connections, set sslmode=verify-full and sslrootcert in {setting}. If"
                " not, let its pg_hba.conf admit this host"
            ),
        )
    fault = classify(text)
    if fault is Fault.UNTRUSTED:
        host, port = str(options.get("host") or ""), str(options.get("port") or "5432")
        authority = str(
            options.get("sslrootcert") or os.environ.get("PGSSLROOTCERT") or Path.home() / ".postgresql" / "root.crt"
        )
        if port.isdecimal() and "," not in host:
            fault = probe(host, int(port), None if authority == "system" else authority, postgres=True) or fault
    return OptionNames(setting, **POSTGRES).explain(fault) if fault else None

"""What the feature server is started with: `MILLRACE_FEATURES_HOSTS`, `_WORKERS`, `_WRITES`, `_TOKEN_FILE`, and fixed
bounds.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from features.serving import token

LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = frozenset({"localhost", LOOPBACK, "[::1]"})
HOST = re.compile(r"(?P<name>\[[0-9a-f:.]+\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)\.?(?::\d{1,5})?", re.IGNORECASE)

PLAIN_TOKEN = token.SETTING.removesuffix("_FILE")
"""Refused: the token would be in the environment, and in each dump of it."""

LARGEST_BODY = 1 << 20
"""Bytes of a request's body."""
MOST_ENTITIES = 10_000
MOST_FEATURES = 1_000
"""Of one request: features that it names one by one."""
LARGEST_HEAD = 1 << 16
"""Bytes of a request line with its headers."""
LARGEST_FRAMING = 1 << 20
"""Bytes of a chunked body beside its content: chunk sizes, extensions and trailers."""
REQUEST_SECONDS = 10.0
"""A request has arrived as a whole by then, or its connection is closed."""
MOST_CONNECTIONS = 512
"""Of one worker; others are answered 503."""
DRAIN_SECONDS = 5
"""Requests in flight may take so long to finish when the server ends."""


class ServingOptionError(ValueError):
    """An environment variable of the feature server has a value that means nothing."""


@dataclass(frozen=True)
class Options:
    """Names that a Host header may have, in lower case and without a port; number of workers; are writes allowed?"""

    hosts: frozenset[str] = LOOPBACK_NAMES
    workers: int = 1
    writes: bool = False


def read(environment: Mapping[str, str] | None = None) -> Options:
    """The options that the environment names; ServingOptionError says which of them is wrong."""
    known = os.environ if environment is None else environment
    if known.get(PLAIN_TOKEN):
        raise ServingOptionError(
            f"{PLAIN_TOKEN} is not read. Write the token into a file, and name the file in {token.SETTING}"
        )
    return Options(
        _hosts(known.get("MILLRACE_FEATURES_HOSTS") or ""),
        _workers(known.get("MILLRACE_FEATURES_WORKERS") or "1"),
        _writes(known.get("MILLRACE_FEATURES_WRITES") or "0"),
    )


def host_name(header: str) -> str | None:
    """The name in a Host header, in lower case and without its port or closing dot; None if it is malformed."""
    parts = HOST.fullmatch(header)
    return parts["name"].lower() if parts else None


def _hosts(text: str) -> frozenset[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    known = {name: host_name(name) for name in names}
    if wrong := [name for name, host in known.items() if host is None]:
        raise ServingOptionError(
            f"MILLRACE_FEATURES_HOSTS has {wrong[0]!r}, which is not a host name. Got: {text}. "
            "Expected: names or addresses without a scheme, separated by commas, such as features.example.com,10.0.0.5"
        )
    return LOOPBACK_NAMES | {host for host in known.values() if host}


def _workers(text: str) -> int:
    if text == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if text.isascii() and text.isdecimal() and 0 < int(text) <= 256:
        return int(text)
    expected = "must be a number from 1 to 256, or auto for one a core"
    raise ServingOptionError(f"MILLRACE_FEATURES_WORKERS {expected}. Got: {text}. Unset it to use 1.")


def _writes(text: str) -> bool:
    if text in ("0", "1"):
        return text == "1"
    expected = "must be 1 (allow writes with the token) or 0"
    raise ServingOptionError(f"MILLRACE_FEATURES_WRITES {expected}. Got: {text}. Unset it for 0.")

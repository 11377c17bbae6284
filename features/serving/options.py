"""Options of the feature server: `MILLRACE_FEATURES_HOSTS`, `_WORKERS`, `_WRITES`, `_TOKEN_FILE`, and fixed limits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from features.serving import token
from lake import settings
from lake.settings import SettingError

LOOPBACK = "127.0.0.1"
LOOPBACK_NAMES = frozenset({"localhost", LOOPBACK, "[::1]"})

PLAIN_TOKEN = token.SETTING.removesuffix("_FILE")
"""Refused, because the token would be in the environment and in every dump of it."""

LARGEST_BODY = 1 << 20
"""Bytes of a request's body."""
MOST_ENTITIES = 10_000
MOST_FEATURES = 1_000
"""Features that one request may list."""
LARGEST_HEAD = 1 << 16
"""Bytes of a request line with its headers."""
LARGEST_FRAMING = 1 << 20
"""Bytes of a chunked body beside its content: chunk sizes, extensions and trailers."""
REQUEST_SECONDS = 10.0
"""A request must have arrived completely by then, or its connection is closed."""
MOST_CONNECTIONS = 512
"""Per worker; further ones get 503."""
DRAIN_SECONDS = 5
"""Time for requests in flight to finish when the server stops."""


@dataclass(frozen=True)
class Options:
    """Allowed names in Host headers (lower case, without port), number of workers, and whether writes are allowed."""

    hosts: frozenset[str] = LOOPBACK_NAMES
    workers: int = 1
    writes: bool = False


def read(environment: Mapping[str, str] | None = None) -> Options:
    """The options in the environment; SettingError names an invalid one."""
    variables = os.environ if environment is None else environment
    if variables.get(PLAIN_TOKEN):
        raise SettingError(
            f"{PLAIN_TOKEN} is not read. Write the token into a file, and name the file in {token.SETTING}"
        )

    def value(name: str, default: Any) -> Any:
        text = variables.get(f"MILLRACE_FEATURES_{name}")
        return settings.parse(f"MILLRACE_FEATURES_{name}", text) if text else default

    workers = value("WORKERS", 1)
    return Options(
        LOOPBACK_NAMES | {name for host in value("HOSTS", ()) if (name := host_name(host))},
        _cores() if workers == "auto" else workers,
        value("WRITES", "0") == "1",
    )


def host_name(header: str) -> str | None:
    """The name in a Host header, in lower case and without its port or closing dot; None if it is malformed."""
    parts = settings.HOST.fullmatch(header)
    return parts["name"].lower() if parts else None


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""Deliver events: to the server at `OPENLINEAGE_URL`, or as lines of a file.

Delivery never fails or stalls a run. If the server does not answer, a warning says so, events go to the file, and the
next attempt comes after PAUSE. `OPENLINEAGE_DISABLED=true` turns both off, as for every OpenLineage client.
"""

from __future__ import annotations

import fcntl
import logging
import os
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from openlineage.client.serde import Serde

from lake import secret_files, settings
from lake.files import machine

FILE = "millrace"
"""Stem of the file of our events."""

TIMEOUT = 3.0
"""Seconds to connect to the server, and again for its response."""

PAUSE = 60.0
"""Seconds until this process tries a failed server again."""

log = logging.getLogger(__name__)
_retry_at: dict[str, float] = {}


def emit(event: Any, file: str = FILE) -> None:
    """Send a `RunEvent`, `JobEvent` or `DatasetEvent`, or append it to this machine's file of events."""
    if os.environ.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true":
        return
    url = os.environ.get("OPENLINEAGE_URL", "").strip()
    if url and _send(event, url):
        return
    path = path_of(file)
    try:
        append(path, Serde.to_json(event))
    except OSError as error:
        log.warning("A lineage event is lost: %s cannot be written (%s)", path, error)


def path_of(file: str = FILE) -> Path:
    """`<home>/lineage/<file>.<machine>.ndjson`: one file per machine, because locks may not work across machines."""
    return settings.lineage() / f"{file}.{machine()}.ndjson"


def append(path: Path, line: str) -> None:
    """Append one line atomically, even when other processes write at once or one was killed in the middle of a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _write(descriptor, f"{_closing(descriptor)}{line}\n".encode())
    finally:
        os.close(descriptor)


def _closing(descriptor: int) -> str:
    """A newline, if the last line lacks one."""
    size = os.fstat(descriptor).st_size
    return "\n" if size and os.pread(descriptor, 1, size - 1) != b"\n" else ""


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _send(event: Any, url: str) -> bool:
    """Whether the server took the event."""
    if time.monotonic() < _retry_at.get(url, 0.0):
        return False
    try:
        _post(event, url)
    except Exception as error:  # lineage must not fail the run
        _retry_at[url] = time.monotonic() + PAUSE
        reason = str(error).replace(url, _without_credentials(url)) if url != _without_credentials(url) else error
        log.warning(
            "The lineage server at %s took no event (%s). Events go to %s; next attempt in %.0f s",
            _without_credentials(url),
            reason,
            settings.lineage(),
            PAUSE,
        )
        return False
    return True


def _post(event: Any, url: str) -> None:
    """One attempt: the client's five retries would delay a run by half a minute."""
    from openlineage.client.transport.http import HttpConfig, HttpTransport

    config = {"url": url, "timeout": TIMEOUT, "retry": {"total": 0, "connect": 0, "read": 0}}
    if endpoint := os.environ.get("OPENLINEAGE_ENDPOINT"):
        config["endpoint"] = endpoint
    if key := secret_files.get("OPENLINEAGE_API_KEY"):
        config["auth"] = {"type": "api_key", "apiKey": key}
    transport = HttpTransport(HttpConfig.from_dict(config))
    try:
        transport.emit(event)
    finally:
        transport.close()


def _without_credentials(url: str) -> str:
    """The URL without user name and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

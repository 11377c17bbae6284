"""Keep an idle Spark Connect session alive, and renew one that the server has dropped.

Servers drop sessions without requests: Sail after 15 minutes by default, even during a long query, and Spark after an
hour. From then on every call fails, even one that only builds a plan. So a thread reads a setting now and then, which
counts as a request. It cannot do so while the machine sleeps: then the session gets a new id. Existing frames keep
working, because they refer to the session, not to its id. Temporary views and uploaded data are lost.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import uuid
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SAIL_TIMEOUT = "SAIL_SPARK__SESSION_TIMEOUT_SECS"
LONGEST_SECONDS = 30.0
PINGS = 5
"""Requests per timeout, so that some may be late on a busy machine."""
GONE = ("is not running", "SESSION_NOT_FOUND", "SESSION_CLOSED", "SESSION_CHANGED")
"""Error messages for a dropped session: of Sail, then of Spark."""


def period() -> float:
    """Seconds between two requests: well below Sail's timeout, which an in-process Sail reads from the environment."""
    try:
        timeout = float(os.environ.get(SAIL_TIMEOUT) or LONGEST_SECONDS * PINGS)
    except ValueError:
        timeout = LONGEST_SECONDS * PINGS
    return max(min(LONGEST_SECONDS, timeout / PINGS), 0.1)


@dataclass
class _Kept:
    """A session's settings, for its renewal, and when it was last seen alive.

    `seen` is wall-clock time, which goes on while the machine sleeps.
    """

    settings: Mapping[str, str]
    seconds: float
    seen: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


_kept: weakref.WeakKeyDictionary[SparkSession, _Kept] = weakref.WeakKeyDictionary()
_ending = threading.Event()
atexit.register(_ending.set)
os.register_at_fork(after_in_child=_kept.clear)  # the child has no such thread, and may have inherited its lock


def start(spark: SparkSession, settings: Mapping[str, str]) -> None:
    """Apply the settings, and keep the session alive until it is stopped or garbage-collected."""
    kept = _Kept(settings, period())
    _apply(spark, settings)
    kept.seen = time.time()
    _kept[spark] = kept
    threading.Thread(target=_keep, args=(weakref.ref(spark), kept), name="keep-session", daemon=True).start()


def refresh(spark: SparkSession) -> None:
    """Renew a dropped session; do nothing if it was seen lately. Errors are left to the caller's next request."""
    kept = _kept.get(spark)
    if kept and not 0 <= time.time() - kept.seen < kept.seconds * 2:
        with suppress(Exception):
            _ping(spark, kept)


def _keep(reference: weakref.ref[SparkSession], kept: _Kept) -> None:
    while not _ending.wait(kept.seconds):
        spark = reference()
        if spark is None or spark.is_stopped:
            return
        with suppress(Exception):  # the server is down; the next request reports it
            _ping(spark, kept)
        del spark  # or it is never garbage-collected


def _ping(spark: SparkSession, kept: _Kept) -> None:
    with kept.lock:
        try:
            spark.client.get_configs(next(iter(kept.settings)))
        except Exception as error:
            if not any(message in str(error) for message in GONE):
                raise
            _renew(spark, kept.settings)
        kept.seen = time.time()


def _renew(spark: SparkSession, settings: Mapping[str, str]) -> None:
    """Give the session a new id: the server does not accept one that it has closed."""
    new, client = str(uuid.uuid4()), spark.client
    client._server_session_id = None
    client._session_id = client._artifact_manager._session_id = spark._session_id = new
    _apply(spark, settings)


def _apply(spark: SparkSession, settings: Mapping[str, str]) -> None:
    for name, value in settings.items():
        spark.conf.set(name, value)

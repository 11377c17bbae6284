"""Keeps a Spark Connect session that idles, and renews one that its server forgot.

A server forgets a session without requests: Sail after 15 minutes unless it is set otherwise, also while it works on a
long query, and Spark after an hour. From then on every call fails, even one that only builds a plan. So a thread asks
for a setting now and then, which counts as a request. It cannot do so while the machine sleeps: then the session gets
another id, and goes on. Frames that were made before go on too, because they hold the session and not its id. Temporary
views, and data that was sent to the server beside a plan, are gone.
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
"""In the time after which a session is forgotten, so that some may be late on a busy machine."""
GONE = ("is not running", "SESSION_NOT_FOUND", "SESSION_CLOSED", "SESSION_CHANGED")
"""What servers say of a session that they do not know any more: Sail, then Spark."""


def period() -> float:
    """Seconds between two requests: well below the timeout that Sail is set to, which is in this process's environment
    where Sail runs here.
    """
    try:
        timeout = float(os.environ.get(SAIL_TIMEOUT) or LONGEST_SECONDS * PINGS)
    except ValueError:
        timeout = LONGEST_SECONDS * PINGS
    return max(min(LONGEST_SECONDS, timeout / PINGS), 0.1)


@dataclass
class _Kept:
    """A session that is kept, with the settings that a new one needs, and when it was last known to be there by the
    wall clock, which goes on while a machine sleeps.
    """

    settings: Mapping[str, str]
    seconds: float
    seen: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)


_kept: weakref.WeakKeyDictionary[SparkSession, _Kept] = weakref.WeakKeyDictionary()
_ending = threading.Event()
atexit.register(_ending.set)
os.register_at_fork(after_in_child=_kept.clear)  # the thread stays with the parent, and so may a lock that it held


def start(spark: SparkSession, settings: Mapping[str, str]) -> None:
    """Apply the settings, and keep the session until it is stopped or nobody holds it any more."""
    kept = _Kept(settings, period())
    _apply(spark, settings)
    kept.seen = time.time()
    _kept[spark] = kept
    threading.Thread(target=_keep, args=(weakref.ref(spark), kept), name="keep-session", daemon=True).start()


def refresh(spark: SparkSession) -> None:
    """See that the session is there, unless it was lately, and renew it if it is not. A server that is away is left for
    the caller's own request to tell of.
    """
    kept = _kept.get(spark)
    if kept and not 0 <= time.time() - kept.seen < kept.seconds * 2:
        with suppress(Exception):
            _see_to(spark, kept)


def _keep(reference: weakref.ref[SparkSession], kept: _Kept) -> None:
    while not _ending.wait(kept.seconds):
        spark = reference()
        if spark is None or spark.is_stopped:
            return
        with suppress(Exception):  # a server that is away for now; whoever needs it is told
            _see_to(spark, kept)
        del spark  # else it would never be let go


def _see_to(spark: SparkSession, kept: _Kept) -> None:
    with kept.lock:
        try:
            spark.client.get_configs(next(iter(kept.settings)))
        except Exception as error:
            if not any(sign in str(error) for sign in GONE):
                raise
            _renew(spark, kept.settings)
        kept.seen = time.time()


def _renew(spark: SparkSession, settings: Mapping[str, str]) -> None:
    """Give the session another id, under which the server makes a new one: it takes an id that it has closed for
    gone.
    """
    new, client = str(uuid.uuid4()), spark.client
    client._server_session_id = None
    client._session_id = client._artifact_manager._session_id = spark._session_id = new
    _apply(spark, settings)


def _apply(spark: SparkSession, settings: Mapping[str, str]) -> None:
    for name, value in settings.items():
        spark.conf.set(name, value)

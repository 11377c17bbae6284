"""What is served at this moment: the readiness of the feature server, and the age of its features."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.concurrency import run_in_threadpool

from features.online import backends, generation
from features.online.generation import OnlineStoreError

KEEP_SECONDS = 1.0
log = logging.getLogger("millrace.features")


@dataclass(frozen=True)
class Served:
    """The generation in use, and what it was made from; one of pushed rows alone has no release or horizon."""

    generation: str
    release: int | None
    horizon: datetime | None
    published_at: datetime | None
    pushed: bool


def look() -> Served:
    """What is served; OnlineStoreError while nothing is, or the store does not answer."""
    place = backends.configured()
    in_use = generation.in_use(place)
    if in_use is None:
        raise generation.empty(place.where)
    about = in_use.about
    horizon = datetime.fromisoformat(about.horizon).replace(tzinfo=UTC) if about.horizon else None
    return Served(in_use.name, about.release, horizon, place.published_at(), about.pushed)


class Probe:
    """Looks at most once a second, and never twice at the same time, however many probes come."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._known: Served | OnlineStoreError | None = None
        self._until = 0.0

    async def look(self) -> Served | OnlineStoreError:
        """What is served, or why nothing is."""
        async with self._lock:
            if self._known is None or time.monotonic() >= self._until:
                self._known = await run_in_threadpool(_outcome)
                self._until = time.monotonic() + KEEP_SECONDS
            return self._known


def _outcome() -> Served | OnlineStoreError:
    try:
        return look()
    except OnlineStoreError as error:
        return error
    except Exception:
        log.exception("What is online cannot be looked at")
        return OnlineStoreError(
            "what is online cannot be looked at. The server's log, logs/features.log of MILLRACE_HOME, says why"
        )

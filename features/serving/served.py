"""The generation that is served now, for the readiness probe and the metrics of the feature server."""

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
    """The generation in use and its origin; one with pushed rows only has no release or horizon."""

    generation: str
    release: int | None
    horizon: datetime | None
    published_at: datetime | None
    pushed: bool


def look() -> Served:
    """The generation in use; OnlineStoreError when there is none or the store does not answer."""
    backend = backends.configured()
    in_use = generation.in_use(backend)
    if in_use is None:
        raise generation.empty_error(backend.where)
    metadata = in_use.metadata
    horizon = datetime.fromisoformat(metadata.horizon).replace(tzinfo=UTC) if metadata.horizon else None
    return Served(in_use.name, metadata.release, horizon, backend.published_at(), metadata.pushed)


class Probe:
    """Looks at most once a second and never concurrently, however many probes arrive."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._known: Served | OnlineStoreError | None = None
        self._until = 0.0

    async def look(self) -> Served | OnlineStoreError:
        """The generation in use, or the error that says why there is none."""
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

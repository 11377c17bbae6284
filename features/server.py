"""Feast's own feature server, over HTTP on this machine: for callers that are no Python, or that should not open the files themselves.

It reads the generation in use at each request, like every reader, so a materialization needs no restart. It is for trusted callers: Feast's server also takes pushes, and asks nobody who they are.
"""

from __future__ import annotations

import gc
from typing import Any

LOOPBACK = "127.0.0.1"
REGISTRY_SECONDS = 10
"""So often it looks for other definitions."""


def app() -> Any:
    """The application; the registry is brought up to the definitions first, as there may be none yet."""
    from fastapi import Request
    from fastapi.responses import JSONResponse
    from feast.feature_server import get_app

    from features import registry
    from features.front import UNAVAILABLE, Front, unavailable
    from features.generation import OnlineStoreError

    registry.apply()
    store = registry.open_store()
    made = get_app(store, registry_ttl_sec=REGISTRY_SECONDS)
    made.add_middleware(Front, store=store)

    @made.exception_handler(OnlineStoreError)
    async def nothing_online(_request: Request, error: OnlineStoreError) -> JSONResponse:
        return JSONResponse(unavailable(error), UNAVAILABLE)

    return made


def run(port: int, served: Any = None) -> None:
    """Serve the features, or another application in their place, until the process ends."""
    import uvicorn

    made = app() if served is None else served
    gc.collect()
    gc.freeze()  # what was imported stays, and need not be looked through again while somebody waits
    uvicorn.run(made, host=LOOPBACK, port=port, log_level="warning", access_log=False)

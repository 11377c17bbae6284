"""The application: Feast's feature server with the routes that we serve, behind the gateway."""

from __future__ import annotations

import logging
from typing import Any

from features import registry
from features.registry import store as registry_store
from features.registry.database import RegistryDeniedError
from features.serving import token
from features.serving.errors import INTERNAL, UNPROCESSABLE, FieldError, content_of
from features.serving.gateway import ROUTES, Gateway
from features.serving.online import OnlineFeatures
from features.serving.options import Options, read
from features.serving.status import status_of_write

REGISTRY_SECONDS = 10
"""So often it looks for other definitions."""
log = logging.getLogger("millrace.features")


def _apply() -> None:
    """Bring the registry up to the definitions; a server that may only read it serves what others applied."""
    try:
        registry.apply()
    except RegistryDeniedError as error:
        registry.open_store().list_feature_services()  # RegistryMissingError where nobody applied any
        log.warning("Serving the definitions of the registry, which are not those of this code: %s", error)


def app(options: Options | None = None) -> Gateway:
    """The application. First the registry is brought up to the definitions, and the token of writes is made.

    While the server of a registry in PostgreSQL is away, the definitions that were read last are served.
    """
    from fastapi import Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import Response
    from feast.feature_server import get_app

    chosen = options or read()
    if chosen.writes:
        token.create()
    _apply()
    store = registry.open_store()
    registry_store.keep_answering(store)
    feasts = get_app(store, registry_ttl_sec=REGISTRY_SECONDS)
    feasts.router.routes[:] = [route for route in feasts.router.routes if getattr(route, "path", None) in ROUTES]

    async def refuse(_request: Request, error: Exception) -> Response:
        status = status_of_write(error)
        if status == INTERNAL:
            log.error("A request failed", exc_info=error)
        return Response(content_of(error, status), status, media_type="application/json")

    async def refuse_fields(_request: Request, error: Any) -> Response:
        told: list[dict[str, Any]] = list(error.errors())
        wrong = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in told[:5])
        return Response(
            content_of(FieldError(f"The request is not as expected: {wrong}."), UNPROCESSABLE),
            UNPROCESSABLE,
            media_type="application/json",
        )

    feasts.exception_handlers[Exception] = refuse
    feasts.add_exception_handler(RequestValidationError, refuse_fields)
    return Gateway(feasts, OnlineFeatures(store), chosen)

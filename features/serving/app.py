"""The application: Feast's feature server, reduced to the routes of the gateway."""

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
"""Seconds between checks for new definitions."""
log = logging.getLogger("millrace.features")


def _apply() -> None:
    """Apply the definitions to the registry; with a read-only role, serve those that others applied."""
    try:
        registry.apply()
    except RegistryDeniedError as error:
        registry.open_store().list_feature_services()  # RegistryMissingError where nobody applied any
        log.warning("Serving the definitions of the registry, which are not those of this code: %s", error)


def app(options: Options | None = None) -> Gateway:
    """The application, after applying the definitions and creating the write token.

    While a registry in PostgreSQL is unreachable, the definitions read last are served.
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
    feast_app = get_app(store, registry_ttl_sec=REGISTRY_SECONDS)
    feast_app.router.routes[:] = [route for route in feast_app.router.routes if getattr(route, "path", None) in ROUTES]

    async def refuse(_request: Request, error: Exception) -> Response:
        status = status_of_write(error)
        if status == INTERNAL:
            log.error("A request failed", exc_info=error)
        return Response(content_of(error, status), status, media_type="application/json")

    async def refuse_fields(_request: Request, error: Any) -> Response:
        problems: list[dict[str, Any]] = list(error.errors())
        listed = "; ".join(f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}" for problem in problems[:5])
        return Response(
            content_of(FieldError(f"The request is not as expected: {listed}."), UNPROCESSABLE),
            UNPROCESSABLE,
            media_type="application/json",
        )

    feast_app.exception_handlers[Exception] = refuse
    feast_app.add_exception_handler(RequestValidationError, refuse_fields)
    return Gateway(feast_app, OnlineFeatures(store), chosen)

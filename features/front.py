"""POST /get-online-features, answered before Feast's own route: what it would answer, without making each value a protobuf and a pydantic object on the way.

A request of another form than the usual one, and whatever goes wrong, is handed on to Feast's route, which reads it from the beginning and says what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from feast import FeatureStore, metrics
from feast.permissions.security_manager import get_security_manager
from starlette.concurrency import run_in_threadpool

from contracts import settings
from features.answers import Answer
from features.generation import OnlineStoreError

PATH = "/get-online-features"
JSON = b"application/json"
UNAVAILABLE = 503
AT_ONCE_BYTES = 1 << 14
"""So long a question, of some hundred entities, is answered faster than a thread is woken up for it. Longer ones do not hold up other callers."""
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


def unavailable(error: OnlineStoreError) -> dict[str, Any]:
    """The body of an answer that says why nothing can be served, in the form of Feast's errors."""
    return {"status_code": UNAVAILABLE, "detail": str(error), "error_type": type(error).__name__}


class Front:
    """ASGI middleware around Feast's server."""

    def __init__(self, app: Callable[[Message, Receive, Send], Awaitable[None]], store: FeatureStore) -> None:
        self._app = app
        self._store = store
        self._services: tuple[Any, dict[str, Any]] = (None, {})

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer, or hand on."""
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST" or (b"content-type", JSON) not in scope["headers"]:
            await self._app(scope, receive, send)
            return
        messages = [await receive()]
        while messages[-1].get("more_body"):
            messages.append(await receive())
        body = b"".join(message.get("body", b"") for message in messages)
        here = len(body) <= AT_ONCE_BYTES and settings.online() == "sqlite"  # a server may be slow, and others must not wait for it
        status, content = self._answer(body) if here else await run_in_threadpool(self._answer, body)
        if content is None:
            await self._app(scope, _again(messages, receive), send)
            return
        headers = [(b"content-length", str(len(content)).encode()), (b"content-type", JSON)]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _answer(self, body: bytes) -> tuple[int, bytes | None]:
        """Status and JSON, or no JSON where it is for Feast to answer, to count, to allow or to refuse."""
        counted = metrics._config
        if counted.request or counted.online_features or counted.audit_logging or get_security_manager() is not None:
            return 200, None
        try:
            asked = json.loads(body)
            if not _is_usual(asked):
                return 200, None
            name = asked.get("feature_service")
            features = self._service(name) if name else asked.get("features", [])
            answer = self._store.get_online_features(features, asked["entities"], asked.get("full_feature_names", False))
        except OnlineStoreError as error:  # asked once: what did not answer in time would be waited for twice
            return UNAVAILABLE, json.dumps(unavailable(error)).encode()
        except Exception:
            return 200, None
        return 200, answer.to_json() if isinstance(answer, Answer) else None

    def _service(self, name: str) -> Any:
        """As of the registry that is held now."""
        made_at = getattr(self._store.registry, "cached_registry_proto_created", None)
        if made_at is None or self._services[0] != made_at:
            self._services = (made_at, {})
        services = self._services[1]
        if name not in services:
            services[name] = self._store.get_feature_service(name, allow_cache=True)
        return services[name]


def _is_usual(asked: Any) -> bool:
    """A request that has the types of its model already, as far as the store would not refuse others, and asks for no metadata of versions."""
    if not isinstance(asked, dict) or asked.get("include_feature_view_version_metadata", False) is not False:
        return False
    service, full_names = asked.get("feature_service"), asked.get("full_feature_names", False)
    return isinstance(asked.get("features", []), list) and (service is None or isinstance(service, str)) and isinstance(full_names, bool)


def _again(messages: list[Message], receive: Receive) -> Receive:
    """What was received, once more, and then what comes after it."""
    left = iter(messages)

    async def next_message() -> Message:
        found = next(left, None)
        return await receive() if found is None else found

    return next_message

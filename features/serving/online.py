"""POST /get-online-features: the response of Feast's route, without a protobuf and a model per value."""

from __future__ import annotations

from typing import Any

from fastapi.responses import JSONResponse
from feast import FeatureStore, metrics
from feast.feature_server_utils import convert_response_to_dict
from feast.permissions.security_manager import get_security_manager

from features.online.generation import OnlineStoreError
from features.serving.requests import FeatureRequest, ResolvedRequest, Resolver, parse
from features.serving.response import Answer


class OnlineFeatures:
    """Answers requests for features of one store."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store
        self._resolver = Resolver(store)

    def is_left_to_feast(self) -> bool:
        """Whether Feast's route must answer, because Feast counts or logs requests or checks permissions."""
        counted = metrics._config
        return counted.request or counted.online_features or counted.audit_logging or get_security_manager() is not None

    def resolve(self, body: bytes) -> tuple[FeatureRequest, ResolvedRequest]:
        """The parsed request and what it reads; RequestError if either is invalid."""
        request = parse(body)
        return request, self._resolver.resolve(request)

    def answer(self, request: FeatureRequest, resolved: ResolvedRequest) -> bytes:
        """The JSON response of Feast's feature server.

        RequestError for invalid entities, OnlineStoreError for an unreachable store.
        """
        fits = resolved.fits(request.entities)
        entities = request.entities if fits else resolved.checked(request.entities)
        try:
            answer = self.store.get_online_features(resolved.features, entities, request.full_names, request.versions)
        except OnlineStoreError:
            raise
        except Exception:
            if fits:
                resolved.checked(entities)  # a value out of range is the client's mistake
            raise
        return answer.to_json() if isinstance(answer, Answer) else _json(answer.proto)


def _json(proto: Any) -> bytes:
    return bytes(JSONResponse(convert_response_to_dict(proto)).body)

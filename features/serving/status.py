"""The HTTP status of every error of the store, of Feast and of requests."""

from __future__ import annotations

from feast.errors import FeastError

from features.instants.request import RequestTimeError
from features.online.generation import OnlineStoreError
from features.registry.database import RegistryDeniedError, RegistryUnreachableError
from features.registry.store import RegistryConflictError
from features.serving.errors import INTERNAL, UNPROCESSABLE, RequestError
from features.type_mapping import UnsupportedTypeError

UNAVAILABLE = 503


def status_of(error: Exception) -> int:
    """The status for this error; 500 for errors that no client can cause."""
    if isinstance(error, RequestError):
        return error.status
    if isinstance(error, OnlineStoreError | RegistryUnreachableError | RegistryDeniedError | RegistryConflictError):
        return UNAVAILABLE
    if isinstance(error, UnsupportedTypeError | RequestTimeError):
        return UNPROCESSABLE
    if isinstance(error, FeastError):
        return int(error.http_status_code())
    return INTERNAL


def status_of_write(error: Exception) -> int:
    """The status on routes that write, where Feast and pandas raise plain Python errors for an invalid body."""
    status = status_of(error)
    caused = (FeastError, ValueError, TypeError, LookupError, AttributeError, NotImplementedError, ArithmeticError)
    return UNPROCESSABLE if status == INTERNAL and isinstance(error, caused) else status

"""The instants that an online request asks for: `request_time` of each entity, or now."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from feast.protos.feast.types.Value_pb2 import Value

from features import queries
from features.online import generation
from features.views import REQUEST_TIME

SEVERAL = -(2**63)
FIRST, LAST = (queries.microseconds(datetime(year, 1, 1, tzinfo=UTC)) for year in (1900, 2200))
_common: ContextVar[int | None] = ContextVar("request_time", default=None)


class RequestTimeError(ValueError):
    """`request_time` is no instant, or one that the online store cannot answer for."""


def times(entities: Mapping[str, Sequence[Any]], count: int) -> list[int]:
    """The instant of each of `count` entities, in microseconds since 1970."""
    requested = entities.get(REQUEST_TIME)
    if requested is None:
        return [now()] * count
    return [microseconds(value) for value in requested]


def now() -> int:
    """The instant of a request that Feast answers, or else the present, in microseconds since 1970. RequestTimeError
    where its entities have several.
    """
    common = _common.get()
    if common == SEVERAL:
        raise RequestTimeError(f"this request needs one {REQUEST_TIME}, an instant, for all of its entities")
    return queries.microseconds(generation.now()) if common is None else common


def microseconds(value: Any) -> int:
    """An instant in any form that Feast accepts, in microseconds since 1970; RequestTimeError for anything else."""
    if isinstance(value, Value) and value.WhichOneof("val") == "unix_timestamp_val":
        return int(value.unix_timestamp_val) * 1_000_000
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError as error:
            raise RequestTimeError(f"{REQUEST_TIME} is {value[:40]!r}, and must be an instant") from error
    if isinstance(value, np.datetime64):
        value = pd.Timestamp(value)
    if isinstance(value, datetime) and value == value:  # pandas' NaT is a datetime
        return _within_years(queries.microseconds(value))
    if isinstance(value, int | np.integer) and not isinstance(value, bool):
        return _within_years(int(value) * 1_000_000)
    raise RequestTimeError(
        f"{REQUEST_TIME} is a {type(value).__name__}, and must be an instant, such as datetime.now(UTC)"
    )


def _within_years(at: int) -> int:
    """RequestTimeError for what is no time of ours, such as milliseconds taken for seconds."""
    if not FIRST <= at < LAST:
        raise RequestTimeError(f"{REQUEST_TIME} lies outside of the years 1900 to 2199. Whole numbers are seconds")
    return at


@contextmanager
def at_common_instant(rows: Any) -> Iterator[None]:
    """Within it, `now` is the one instant of a request that Feast answers itself, one view at a time."""
    token = _common.set(_common_instant(rows))
    try:
        yield
    finally:
        _common.reset(token)


def _common_instant(rows: Any) -> int:
    """The instant of all entities; SEVERAL if there are several, or something else than instants."""
    if isinstance(rows, list):
        values = [row.get(REQUEST_TIME) for row in rows]
    else:
        requested = rows.get(REQUEST_TIME)
        values = list(getattr(requested, "val", requested) or [])
    try:
        instants = {microseconds(value) for value in values}
    except RequestTimeError:
        return SEVERAL
    return instants.pop() if len(instants) == 1 else SEVERAL


def too_old(view: str, at: int) -> RequestTimeError:
    """Why the online store has no answer for that instant."""
    moment = datetime.fromtimestamp(at / 1_000_000, UTC)
    return RequestTimeError(
        f"{view}: {REQUEST_TIME} is {moment:%Y-%m-%d %H:%M:%S}, and the online store no longer has the events for it."
        " Request past instants with get_historical_features"
    )

"""Helpers for on-demand features, which depend on the time of the request: days since a past event.

A day is 86,400 seconds and a result is fractional (36 hours are 1.5). It is None when either time is, and negative when
the event is later than the request. Times are rounded down to whole seconds, because that is what Feast serves.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

SECONDS_A_DAY = 86_400


def days_between(later: Any, earlier: Any) -> float | None:
    """Days from `earlier` to `later`; each is a datetime (naive: UTC), an ISO string or epoch seconds."""
    end, start = _seconds(later), _seconds(earlier)
    return None if end is None or start is None else (end - start) / SECONDS_A_DAY


def _seconds(moment: Any) -> int | None:
    if type(moment) is datetime and moment.tzinfo is UTC:  # as Feast has them
        return math.floor(moment.timestamp())
    if isinstance(moment, str):
        moment = datetime.fromisoformat(moment)
    if moment is None or moment != moment:  # NaT and NaN differ from themselves
        return None
    if isinstance(moment, datetime):
        return math.floor((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
    return int(moment)

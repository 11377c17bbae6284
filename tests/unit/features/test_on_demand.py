"""Days since: fractional, in whole seconds, None where a moment is missing."""

from datetime import datetime, timedelta, timezone
from typing import Any

import pandas as pd
import pytest

from features.on_demand import days_between
from tests.unit.features.conftest import at


@pytest.mark.parametrize(
    ("later", "earlier", "days"),
    [
        (at("2017-01-03 12:00"), at("2017-01-02"), 1.5),
        (datetime(2017, 1, 3), datetime(2017, 1, 2, tzinfo=timezone(timedelta(hours=6))), 1.25),
        (at("2017-01-02") + timedelta(microseconds=999_999), at("2017-01-01"), 1.0),
        ("2017-01-03T00:00:00Z", at("2017-01-02"), 1.0),
        (86_400, 0, 1.0),
        (at("2017-01-01"), at("2017-01-02"), -1.0),
        (None, at("2017-01-02"), None),
        (at("2017-01-02"), pd.NaT, None),
    ],
)
def test_days_between(later: Any, earlier: Any, days: float | None) -> None:
    assert days_between(later, earlier) == days

"""What has landed in a bucket starts runs of the same days as on a disk."""

from __future__ import annotations

from datetime import date

import pytest

from contracts import catalog
from contracts.interval import DAY, Interval
from etl import arrivals
from etl.arrivals import Watcher
from lake import publishing, settings, storage
from tests.gateway import Gateway
from tests.projects import ARCADE

PROJECT = ARCADE
FIRST, SECOND = date(2026, 2, 1), date(2026, 2, 2)


@pytest.fixture(autouse=True)
def _zone(store: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MILLRACE_LANDING", f"{settings.lake()}-landing")


def put(day: date, name: str, content: bytes = b"a") -> None:
    storage.write_whole(settings.landing() / "plays" / str(day) / name, content)


def test_new_and_replaced_objects_start_runs_and_loaded_ones_do_not() -> None:
    watcher, plays = Watcher(2.0), catalog.table("bronze.plays")
    now = iter(range(0, 1000, 5))

    def found() -> Interval | None:
        watcher.news(next(now))
        news = watcher.news(next(now))
        if news is None:
            return None
        watcher.announced(news)
        return news.interval

    assert found() is None, "there is no landing zone yet"
    put(FIRST, "a.csv")
    put(SECOND, "b.csv.tmp")
    assert found() == Interval(FIRST, SECOND)
    publishing.open_or_create(plays)
    arrivals.record(plays, arrivals.landed(plays, Interval(FIRST, SECOND + DAY)))
    put(SECOND, "b.csv")
    assert found() == Interval(SECOND, SECOND + DAY)
    arrivals.record(plays, arrivals.landed(plays, Interval(FIRST, SECOND + DAY)))
    put(FIRST, "a.csv", b"b")
    assert found() == Interval(FIRST, SECOND)
    assert found() is None

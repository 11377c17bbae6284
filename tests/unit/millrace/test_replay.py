"""The schedule of a replay, and how values of both paths are compared."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lake import settings
from millrace import broker
from millrace.broker import BrokerError
from millrace.replay import comparison
from millrace.replay.comparison import Comparison, Served
from millrace.replay.schedule import Delivery, Event, Sending, schedule

DAY = datetime(2031, 1, 2, tzinfo=UTC)
EVENTS = [Event(DAY + timedelta(seconds=20 * n), str(n % 7), {"n": n}, {"player": n % 7}) for n in range(-3, 4_000)]


def test_each_event_is_sent_once_and_a_few_of_them_twice() -> None:
    sendings = schedule(EVENTS, 1)
    first = [sending.event.value["n"] for sending in sendings if sending.delivery != Delivery.AGAIN]
    assert sorted(first) == list(range(-3, 4_000))
    again = Counter(sending.event.value["n"] for sending in sendings if sending.delivery == Delivery.AGAIN)
    assert 20 < len(again) < 60
    assert set(again.values()) == {1}


def test_sendings_are_in_order_and_end_with_the_newest_event() -> None:
    sendings = schedule(EVENTS, 1)
    moments = [sending.at for sending in sendings]
    assert moments == sorted(moments)
    assert (moments[0], moments[-1]) == (DAY, EVENTS[-1].at)


def test_deliveries_are_what_they_are_called() -> None:
    sendings = schedule(EVENTS, 1)
    counts = Counter(sending.delivery for sending in sendings)
    assert 20 < counts[Delivery.LATE] < 70
    assert 80 < counts[Delivery.OUT_OF_ORDER] < 160
    for sending in sendings:
        behind = sending.at - sending.event.at
        if sending.delivery == Delivery.IN_TIME:
            assert behind == timedelta()
        elif sending.event.at < DAY:
            assert (sending.delivery, sending.at) in {(Delivery.LATE, DAY), (Delivery.AGAIN, sending.at)}
        elif sending.at < EVENTS[-1].at and sending.delivery == Delivery.LATE:
            assert timedelta(hours=1) <= behind <= timedelta(hours=6)
        elif sending.at < EVENTS[-1].at and sending.delivery == Delivery.OUT_OF_ORDER:
            assert timedelta(minutes=1) <= behind <= timedelta(minutes=10)


def test_an_event_sent_again_comes_after_the_first_time() -> None:
    first: dict[int, Sending] = {}
    for sending in schedule(EVENTS, 1):
        number = sending.event.value["n"]
        assert (number in first) == (sending.delivery == Delivery.AGAIN)
        first.setdefault(number, sending)


def test_a_seed_gives_one_schedule() -> None:
    assert schedule(EVENTS, 1) == schedule(EVENTS, 1)
    assert schedule(EVENTS, 1) != schedule(EVENTS, 2)


@pytest.mark.parametrize(
    ("online", "offline"),
    [
        (None, float("nan")),
        (None, pd.NA),
        (None, pd.NaT),
        (3, 3.0),
        (datetime(2031, 1, 2, 3, 4, 5, tzinfo=UTC), pd.Timestamp("2031-01-02 03:04:05.700", tz="UTC")),
        (datetime(2031, 1, 2, tzinfo=UTC), pd.Timestamp("2031-01-02")),
        (["a", "b"], pd.Series(["a", "b"]).to_numpy()),
    ],
)
def test_one_value_of_both_paths_is_the_same(online: Any, offline: Any) -> None:
    assert comparison.comparable(online) == comparison.comparable(offline)


@pytest.mark.parametrize(
    ("online", "offline"), [(0, None), (3, 4), (0.1 + 0.2, 0.3), (["a"], ["a", "b"]), ("", None), (DAY, None)]
)
def test_values_that_differ_are_counted_and_shown(online: Any, offline: Any) -> None:
    served, result = Served("now", ("player",), 1, [], ("plays", "other")), Comparison("now", 1)
    row = {"player": 1, "request_time": DAY, "plays": online, "other": 1}
    comparison.compare_row(served, row, {"plays": offline, "other": 1}, result)
    assert (result.values, result.differing) == (2, 1)
    [difference] = result.examples
    assert (difference.feature, difference.row) == ("now:plays", {"player": 1, "request_time": DAY})


def test_without_go_the_embedded_broker_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "go"
    old.write_text("#!/bin/sh\necho go version go1.25.9 linux/amd64\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    with pytest.raises(BrokerError, match=r"Go 1\.26 or newer.*make install.*MILLRACE_KAFKA"):
        broker.go()
    old.write_text("#!/bin/sh\necho go version go1.26.0 linux/amd64\n")
    assert broker.go() == str(old)


def test_an_image_without_the_sources_names_a_broker_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "SOURCES", settings.CHECKOUT / "nowhere")
    with pytest.raises(BrokerError, match="MILLRACE_KAFKA"):
        broker.build()

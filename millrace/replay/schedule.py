"""How a day's events are sent to a topic: in the order of their times, with some late, some out of order, some twice.

A project's `replay.py` makes the events. The schedule is a pure function of them and a seed.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

LATE, OUT_OF_ORDER, TWICE = 0.01, 0.03, 0.01
"""Shares of the events."""
LATE_HOURS, OUT_OF_ORDER_SECONDS = (1.0, 6.0), (60.0, 600.0)


class Delivery(StrEnum):
    """How a message is sent."""

    IN_TIME = "in time"
    LATE = "late"
    """Hours after the event."""
    OUT_OF_ORDER = "out of order"
    """Minutes after the event, behind later ones."""
    AGAIN = "a second time"


@dataclass(frozen=True)
class Event:
    """What happened `at` an instant: a message's key and value, and the keys of the entities it concerns."""

    at: datetime
    key: str
    value: Mapping[str, Any]
    entities: Mapping[str, Any]


@dataclass(frozen=True)
class Sending:
    """An event, when to send it in the day's own time, and how."""

    at: datetime
    event: Event
    delivery: Delivery = Delivery.IN_TIME


def schedule(events: Sequence[Event], seed: int) -> list[Sending]:
    """Every event once, and the repeated ones twice, in the order in which to send them.

    Those of a former day are sent when the day begins. No sending is after the newest event, so the day's length does
    not depend on the seed.
    """
    random_source = random.Random(seed)
    newest = max(event.at for event in events)
    begin = newest.replace(hour=0, minute=0, second=0, microsecond=0)
    sendings: list[Sending] = []
    for event in events:
        sending = _send(event, begin, random_source)
        sendings.append(replace(sending, at=min(sending.at, newest)))
        if random_source.random() < TWICE:
            again = sending.at + _hours(random_source)
            sendings.append(Sending(min(again, newest), event, Delivery.AGAIN))
    return sorted(sendings, key=lambda sending: sending.at)


def _send(event: Event, begin: datetime, random_source: random.Random) -> Sending:
    if event.at < begin:
        return Sending(begin, event, Delivery.LATE)
    chance = random_source.random()
    if chance < LATE:
        return Sending(event.at + _hours(random_source), event, Delivery.LATE)
    if chance < LATE + OUT_OF_ORDER:
        behind = timedelta(seconds=random_source.uniform(*OUT_OF_ORDER_SECONDS))
        return Sending(event.at + behind, event, Delivery.OUT_OF_ORDER)
    return Sending(event.at, event)


def _hours(random_source: random.Random) -> timedelta:
    return timedelta(hours=random_source.uniform(*LATE_HOURS))

"""A sample to land: a week of made-up orders, one file per day. Your own files go to the same folders."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path

from contracts.interval import Interval
from lake import settings, storage

INTERVAL = Interval(date(2030, 1, 1), date(2030, 1, 8))
"""Days of the sample."""
NAMES = ("order_id", "customer", "ordered_at", "category", "amount")


def is_landed() -> bool:
    """Whether the last file has landed."""
    return storage.read(_file(INTERVAL.end - timedelta(days=1))) is not None


def land(progress: Callable[[str], None] | None = None) -> Path:
    """Write the sample's files, and return the landing zone."""
    rng = random.Random(1)
    for n in range(INTERVAL.days):
        day = INTERVAL.start + timedelta(days=n)
        if progress:
            progress(f"orders of {day}")
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(NAMES)
        for number in range(20):
            at = datetime(day.year, day.month, day.day) + timedelta(seconds=rng.randrange(86_400))
            category = rng.choice(("book", "game", "toy"))
            writer.writerow(
                [
                    f"{day}-{number}",
                    f"c{rng.randrange(8)}",
                    at.isoformat(" "),
                    category,
                    rng.randrange(100, 9_999) / 100,
                ]
            )
        storage.write_whole(_file(day), text.getvalue().encode())
    return settings.landing()


def _file(day: date) -> Path:
    return settings.landing() / "orders" / str(day) / "orders.csv"

"""The interval [start, end) of whole days, in UTC, that a run carries through every layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

DAY = timedelta(days=1)


class IntervalError(ValueError):
    """`start` or `end` is invalid; the message says what to pass instead."""


@dataclass(frozen=True, order=True)
class Interval:
    """The days from `start` (inclusive) to `end` (exclusive)."""

    start: date
    end: date

    def __post_init__(self) -> None:
        if self.end <= self.start:
            raise IntervalError(
                f"end {self.end} is not after start {self.start}. end is exclusive: one day is start={self.start},"
                f" end={self.start + DAY}"
            )

    @classmethod
    def parse(cls, start: str | None, end: str | None) -> Interval:
        """An interval from two ISO dates, such as 2017-01-01 and 2018-01-02."""
        return cls(_day("start", start), _day("end", end))

    @property
    def days(self) -> int:
        """Number of days."""
        return (self.end - self.start).days

    def __str__(self) -> str:
        return f"[{self.start}, {self.end})"

    def __contains__(self, day: date) -> bool:
        return self.start <= day < self.end

    def months(self) -> Iterator[Interval]:
        """The interval split at the first of each month."""
        start = self.start
        while start < self.end:
            following = (start.replace(day=1) + 32 * DAY).replace(day=1)
            yield Interval(start, min(following, self.end))
            start = following

    def clipped(self, end: date) -> Interval | None:
        """The part before `end`; None when there is none."""
        return Interval(self.start, min(self.end, end)) if self.start < end else None


def _day(name: str, text: str | None) -> date:
    if not text:
        raise IntervalError(
            f'{name} is missing. Give both as ISO dates, end exclusive, such as {{"start": "2017-01-01", "end":'
            ' "2018-01-02"}'
        )
    try:
        return date.fromisoformat(text)
    except (ValueError, TypeError):
        raise IntervalError(f"{name} is {text!r}, which is not an ISO date such as 2017-01-31") from None


def merged(intervals: Iterable[Interval]) -> tuple[Interval, ...]:
    """The same days as sorted intervals that neither overlap nor touch."""
    result: list[Interval] = []
    for interval in sorted(intervals):
        if result and interval.start <= result[-1].end:
            result[-1] = Interval(result[-1].start, max(result[-1].end, interval.end))
        else:
            result.append(interval)
    return tuple(result)


def days_of(days: Iterable[date]) -> tuple[Interval, ...]:
    """The merged intervals of these days."""
    return merged(Interval(day, day + DAY) for day in set(days))


def midnight(day: date) -> datetime:
    """The start of `day` in UTC."""
    return datetime(day.year, day.month, day.day, tzinfo=UTC)

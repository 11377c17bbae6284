"""Days are neither lost nor invented by parsing, cutting and merging intervals."""

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.interval import Interval, IntervalError, days_of, merged, midnight

unhurried = settings(deadline=None)
DAYS = st.dates(date(2016, 12, 1), date(2018, 3, 1))


@st.composite
def intervals(draw: st.DrawFn) -> Interval:
    start = draw(DAYS)
    return Interval(start, start + timedelta(days=draw(st.integers(1, 100))))


def days(*several: Interval) -> set[date]:
    """Counted one by one, by the definition of [start, end)."""
    return {
        interval.start + timedelta(days=n) for interval in several for n in range((interval.end - interval.start).days)
    }


def of(start: str, end: str) -> Interval:
    return Interval.parse(start, end)


# --- parse


def test_two_iso_dates_are_an_interval_whose_end_is_not_in_it() -> None:
    year = of("2017-01-01", "2018-01-02")
    assert (str(year), year.days) == ("[2017-01-01, 2018-01-02)", 366)
    assert date(2017, 1, 1) in year
    assert date(2018, 1, 1) in year
    assert date(2018, 1, 2) not in year
    assert date(2016, 12, 31) not in year


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (
            None,
            "2017-01-02",
            (
                'start is missing. Give both as ISO dates, end exclusive, such as {"start": "2017-01-01", "end":'
                ' "2018-01-02"}'
            ),
        ),
        (
            "2017-01-01",
            "",
            (
                'end is missing. Give both as ISO dates, end exclusive, such as {"start": "2017-01-01", "end":'
                ' "2018-01-02"}'
            ),
        ),
        ("01/02/2017", "2017-01-02", "start is '01/02/2017', which is not an ISO date such as 2017-01-31"),
        ("2017-01-01", "2017-02-30", "end is '2017-02-30', which is not an ISO date such as 2017-01-31"),
        (
            "2017-01-01",
            "2017-01-02T00:00:00",
            "end is '2017-01-02T00:00:00', which is not an ISO date such as 2017-01-31",
        ),
        (20170101, "2017-01-02", "start is 20170101, which is not an ISO date such as 2017-01-31"),
        (
            "2017-01-01",
            "2017-01-01",
            (
                "end 2017-01-01 is not after start 2017-01-01. end is exclusive: one day is start=2017-01-01,"
                " end=2017-01-02"
            ),
        ),
        (
            "2017-01-05",
            "2017-01-01",
            (
                "end 2017-01-01 is not after start 2017-01-05. end is exclusive: one day is start=2017-01-05,"
                " end=2017-01-06"
            ),
        ),
    ],
)
def test_what_is_not_an_interval_is_refused_with_a_sentence(start: str, end: str, message: str) -> None:
    with pytest.raises(IntervalError) as caught:
        Interval.parse(start, end)
    assert str(caught.value) == message


# --- cut and merge


def test_intervals_that_touch_or_overlap_become_one_and_a_gap_stays() -> None:
    assert merged(
        [
            of("2017-01-05", "2017-01-07"),
            of("2017-01-01", "2017-01-03"),
            of("2017-01-03", "2017-01-04"),
            of("2017-01-06", "2017-01-09"),
        ]
    ) == (
        of("2017-01-01", "2017-01-04"),
        of("2017-01-05", "2017-01-09"),
    )


def test_an_interval_inside_another_does_not_shorten_it() -> None:
    assert merged([of("2017-01-01", "2017-01-31"), of("2017-01-05", "2017-01-06")]) == (of("2017-01-01", "2017-01-31"),)


def test_the_months_of_an_interval() -> None:
    assert [*of("2016-12-30", "2017-02-02").months()] == [
        of("2016-12-30", "2017-01-01"),
        of("2017-01-01", "2017-02-01"),
        of("2017-02-01", "2017-02-02"),
    ]


def test_an_interval_that_ends_with_a_month_has_no_empty_month_after_it() -> None:
    assert [*of("2017-01-31", "2017-02-01").months()] == [of("2017-01-31", "2017-02-01")]


@pytest.mark.parametrize(
    ("end", "kept"),
    [
        ("2017-01-04", "2017-01-04"),
        ("2017-01-09", "2017-01-05"),
        ("2017-01-05", "2017-01-05"),
        ("2017-01-02", "2017-01-02"),
    ],
)
def test_clipping_keeps_what_lies_before(end: str, kept: str) -> None:
    assert of("2017-01-01", "2017-01-05").clipped(date.fromisoformat(end)) == of("2017-01-01", kept)


@pytest.mark.parametrize("end", ["2017-01-01", "2016-12-31"])
def test_clipping_before_the_start_leaves_nothing(end: str) -> None:
    assert of("2017-01-01", "2017-01-05").clipped(date.fromisoformat(end)) is None


def test_midnight_is_in_utc() -> None:
    assert midnight(date(2017, 3, 26)) == datetime(2017, 3, 26, tzinfo=UTC)


@unhurried
@given(st.lists(intervals(), max_size=8))
def test_merged_intervals_cover_the_same_days_in_order_with_gaps_between_them(some: list[Interval]) -> None:
    result = merged(some)
    assert days(*result) == days(*some)
    assert all(before.end < other.start for before, other in pairwise(result))


@unhurried
@given(st.lists(DAYS, max_size=30))
def test_the_intervals_of_some_days_hold_these_days_and_no_other(some: list[date]) -> None:
    result = days_of(some)
    assert days(*result) == set(some)
    assert merged(result) == result


@unhurried
@given(intervals())
def test_the_months_cover_the_interval_each_within_a_calendar_month(interval: Interval) -> None:
    months = [*interval.months()]
    assert [day for month in months for day in sorted(days(month))] == sorted(days(interval))
    assert all(len({(day.year, day.month) for day in days(month)}) == 1 for month in months)
    assert len(months) == len({(day.year, day.month) for day in days(interval)})


@unhurried
@given(intervals(), DAYS)
def test_clipping_drops_exactly_the_days_from_the_end_on(interval: Interval, end: date) -> None:
    kept = interval.clipped(end)
    assert (days(kept) if kept else set()) == {day for day in days(interval) if day < end}

"""Many declarations of features on small hostile sets of events, compared with the docstrings of
`contracts.aggregations` at every midnight.

The oracle is a plain loop over the events before t, in Python. The count by DuckDB that backs `millrace verify` has to
agree with it, too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import reduce
from itertools import pairwise
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame

from contracts.aggregations import (
    Aggregation,
    AsOf,
    Count,
    Decayed,
    Dimension,
    Distinct,
    First,
    Latest,
    Max,
    Mean,
    Min,
    Ratio,
    Recent,
    Sum,
    Window,
    before_latest,
    days,
    feature_table,
)
from contracts.interval import DAY, Interval, merged, midnight
from contracts.model import DATE, LONG, MONEY, STRING, TIMESTAMP, Column, Layer, Load, Table, Type
from etl import engine
from etl.gold import aggregate, windows
from etl.gold.measures import Extreme, Measures
from expectations import brute_force
from lake.publishing import arrow_schema

EFFORT = int(os.environ.get("MILLRACE_TEST_EFFORT") or 1)
"""Multiplies how many declarations are tried: 10 for a night."""
hostile = settings(
    max_examples=30 * EFFORT,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)

Row = dict[str, Any]
Key = tuple[Any, ...]
FIRST_DAYS = (date(2016, 2, 25), date(1969, 12, 28), date(2100, 2, 27))
GAPS = (0, 1, 2, 3, 6, 7, 8, 179, 180, 181, 182, 365, 400)
TIMES = (timedelta(0), timedelta(microseconds=1), timedelta(hours=12), DAY - timedelta(microseconds=1))
LENGTHS = (1, 2, 7, 180)
AFTER = 185
"""Days after the last event for which every midnight is compared."""


def silver(name: str, key: tuple[str, ...], *columns: Column, **other: Any) -> Table:
    return Table(
        layer=Layer.SILVER,
        name=name,
        doc=name,
        grain=f"one row per {' and '.join(key)}",
        owner="tests",
        freshness=DAY,
        columns=columns,
        key=key,
        **other,
    )


def column(name: str, kind: Type, *, required: bool = False) -> Column:
    return Column(name, kind, name, required=required)


def stays(time: str) -> Table:
    """Events of any kind: nights that were booked. `time` is a timestamp or a date."""
    return silver(
        "stays",
        ("stay_id",),
        column("stay_id", LONG, required=True),
        column("guest", STRING, required=True),
        column("room", LONG, required=True),
        column("hotel", LONG),
        column("day", DATE),
        column("arrived_at", TIMESTAMP, required=True),
        column("arrived_on", DATE, required=True),
        column("paid", MONEY),
        column("nights", LONG),
        column("channel", STRING),
        time_column=time,
    )


HOTELS = silver(
    "hotels",
    ("hotel_id", "listed_on"),
    column("hotel_id", LONG, required=True),
    column("listed_on", DATE, required=True),
    column("city", STRING),
    column("fee", MONEY),
    load=Load.SNAPSHOT,
)
TIERS = silver(
    "tiers",
    ("guest", "since", "line"),
    column("guest", STRING, required=True),
    column("since", TIMESTAMP, required=True),
    column("line", LONG, required=True),
    column("tier", STRING),
    load=Load.SNAPSHOT,
)
DIMENSIONS = (
    Dimension(HOTELS, {"hotel": "hotel_id"}, ("city", "fee")),
    Dimension(TIERS, ("guest",), ("tier",), AsOf.EVENT, "since"),
)
KEYS = {
    "guest": (column("guest", STRING),),
    "guest and room": (column("guest", STRING), column("room", LONG)),
    "date": (column("day", DATE),),
    "dimension": (column("city", STRING),),
}
"""Text, two of two types, a date that a window's own `day` must not meet, and one that a dimension brings or does
not.
"""


# --- expressions, in SQL and in Python


@dataclass(frozen=True)
class Expression:
    sql: str
    python: Callable[[Row], Any]
    type: Type | None = None


def plus(row: Row, *names: str) -> Any:
    values = [row[name] for name in names]
    return None if None in values else sum(values)


def cell(name: str) -> Expression:
    return Expression(name, lambda row: row[name])


NUMBERS = (
    cell("paid"),
    cell("nights"),
    Expression("paid + fee", lambda row: plus(row, "paid", "fee")),
    Expression("paid - fee", lambda row: None if None in (row["paid"], row["fee"]) else row["paid"] - row["fee"]),
    Expression(
        "CASE WHEN channel = 'web' THEN nights * 2 END",
        lambda row: 2 * row["nights"] if row["channel"] == "web" and row["nights"] is not None else None,
        LONG,
    ),
)
VALUES = (
    *NUMBERS,
    cell("fee"),
    cell("city"),
    cell("guest"),
    cell("channel"),
    cell("tier"),
    cell("hotel"),
    cell("day"),
    cell("arrived_at"),
)
ALWAYS = Expression("", lambda _: True)
FILTERS = (
    ALWAYS,
    Expression("nights > 1", lambda row: row["nights"] is not None and row["nights"] > 1),
    Expression(
        "channel = 'web' OR paid < 0",
        lambda row: row["channel"] == "web" or (row["paid"] is not None and row["paid"] < 0),
    ),
    Expression("tier = 'gold'", lambda row: row["tier"] == "gold"),
    Expression("channel = 'no such channel'", lambda _: False),
)
PYTHON = {each.sql: each.python for each in (*VALUES, *FILTERS)}


# --- declarations


@dataclass(frozen=True, repr=False)
class Case:
    """A declaration, the rows of its inputs, and where its midnights are cut into runs."""

    table: Table
    rows: Mapping[str, tuple[Row, ...]]
    cuts: tuple[tuple[int, bool], ...] = ()

    def __repr__(self) -> str:
        return (
            f"Case({self.keys} by {self.declared.time_column}, {self.declared.aggregations}, {self.rows}, {self.cuts})"
        )

    def _repr_pretty_(self, printer: Any, _: bool) -> None:
        printer.text(repr(self))

    @property
    def declared(self) -> Any:
        return self.table.aggregates

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(each.name for each in self.declared.key)


trailing = st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=3, unique=True).map(lambda lengths: days(*lengths))
lookback = st.sampled_from((1, 3, 365)).map(before_latest)
numbers, values, filters = st.sampled_from(NUMBERS), st.sampled_from(VALUES), st.sampled_from(FILTERS)


def of(
    kind: type[Aggregation], some: st.SearchStrategy[Expression], spans: st.SearchStrategy[Any]
) -> st.SearchStrategy[Aggregation]:
    return st.builds(
        lambda value, kept, span: kind(of=value.sql, type=value.type, where=kept.sql, windows=span),
        some,
        filters,
        spans,
    )


amounts = st.one_of(
    st.builds(lambda value, kept: Sum(of=value.sql, type=value.type, where=kept.sql), numbers, filters),
    st.builds(lambda kept: Count(where=kept.sql), filters),
    st.builds(lambda value, kept: Distinct(of=value.sql, type=value.type, where=kept.sql), values, filters),
)
aggregations = st.one_of(
    of(Sum, numbers, trailing),
    of(Count, values, st.one_of(trailing, lookback)),
    st.builds(lambda kept, span: Count(where=kept.sql, windows=span), filters, st.one_of(trailing, lookback)),
    of(Distinct, values, trailing),
    of(Distinct, values, trailing),
    of(Min, values, trailing),
    of(Max, values, trailing),
    of(Mean, numbers, trailing),
    of(Latest, st.one_of(st.just(ALWAYS), values), st.one_of(st.just(()), st.just(()), trailing)),
    of(First, st.one_of(st.just(ALWAYS), values), st.one_of(trailing, lookback)),
    st.builds(
        lambda kept, span, half: Decayed(where=kept.sql, windows=span, half_life=half),
        filters,
        lookback,
        st.sampled_from((1, 60)),
    ),
    st.builds(
        lambda part, whole, span, empty: Ratio(part=part, whole=whole, windows=span, empty=empty),
        amounts,
        amounts,
        trailing,
        st.sampled_from((0.0, None)),
    ),
)


def declare(key: str, time: str, *parts: Aggregation) -> Table:
    """A feature table; aggregations are named by their position."""
    named = tuple(replace(part, name=f"f{n}") for n, part in enumerate(parts))
    return feature_table(
        name="guests",
        doc="What guests did",
        owner="tests",
        key=KEYS[key],
        events=stays(time),
        aggregations=named,
        joined=DIMENSIONS,
    )


cents = st.sampled_from([None, *(Decimal(n) / 100 for n in (-250, -1, 0, 1, 125, 999))])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    day = draw(st.sampled_from(FIRST_DAYS))
    on = [day := day + gap * DAY for gap in draw(st.lists(st.sampled_from(GAPS), min_size=1, max_size=4))]
    instants = st.builds(lambda some, time: midnight(some) + time, st.sampled_from(on), st.sampled_from(TIMES))
    stay = st.fixed_dictionaries(
        {
            "guest": st.sampled_from(("", "ada", "Ä")),
            "room": st.sampled_from((-1, 2**40)),
            "hotel": st.sampled_from((None, 1, 2, 3)),
            "day": st.sampled_from((None, date(2017, 1, 1), date(1969, 12, 31))),
            "arrived_at": instants,
            "paid": cents,
            "nights": st.sampled_from((None, -1, 0, 1, 2, 3)),
            "channel": st.sampled_from((None, "web", "desk", "")),
        }
    )
    some = [
        {**row, "stay_id": n, "arrived_on": row["arrived_at"].date()}
        for n, row in enumerate(draw(st.lists(stay, max_size=10)))
    ]
    hotel = st.fixed_dictionaries(
        {
            "hotel_id": st.sampled_from((1, 2)),
            "listed_on": st.sampled_from((date(2017, 1, 1), date(2017, 1, 2))),
            "city": st.sampled_from((None, "Ulm", "Bern")),
            "fee": cents,
        }
    )
    tier = st.fixed_dictionaries(
        {
            "guest": st.sampled_from(("", "ada")),
            "since": instants,
            "line": st.sampled_from((1, 2)),
            "tier": st.sampled_from((None, "gold", "tin")),
        }
    )
    table = declare(
        draw(st.sampled_from(sorted(KEYS))),
        draw(st.sampled_from(("arrived_at", "arrived_at", "arrived_on"))),
        *draw(st.lists(aggregations, min_size=1, max_size=5)),
    )
    rows = {
        "silver.stays": tuple(some),
        "silver.hotels": tuple(
            draw(st.lists(hotel, max_size=4, unique_by=lambda row: (row["hotel_id"], row["listed_on"])))
        ),
        "silver.tiers": tuple(
            draw(st.lists(tier, max_size=5, unique_by=lambda row: (row["guest"], row["since"], row["line"])))
        ),
    }
    span = (on[-1] - on[0]).days + AFTER
    interesting = sorted({(each - on[0]).days + 1 + lag for each in on for lag in (0, *LENGTHS)})
    cut = st.tuples(st.one_of(st.sampled_from(interesting), st.integers(0, span)), st.booleans())
    return Case(table, rows, tuple(draw(st.lists(cut, max_size=4))))


def on_day(row: Row, day: date) -> Row:
    """The same event on another day."""
    return {**row, "arrived_at": row["arrived_at"] + (day - row["arrived_on"]), "arrived_on": day}


NOON = datetime(2016, 2, 28, 12, tzinfo=UTC)


def stay(number: int, after: int = 0, **other: Any) -> Row:
    at = NOON + after * DAY
    plain = {
        "guest": "ada",
        "room": 1,
        "hotel": 1,
        "day": date(2017, 1, 1),
        "paid": Decimal("1.25"),
        "nights": 1,
        "channel": "web",
    }
    return {"stay_id": number, "arrived_at": at, "arrived_on": at.date(), **plain, **other}


def case(
    table: Table,
    *some: Row,
    cuts: tuple[tuple[int, bool], ...] = (),
    hotels: tuple[Row, ...] = (),
    tiers: tuple[Row, ...] = (),
) -> Case:
    return Case(table, {"silver.stays": some, "silver.hotels": hotels, "silver.tiers": tiers}, cuts)


LONG_AGO = case(
    declare(
        "guest", "arrived_at", Latest(of="channel"), Latest(of="arrived_at", where="nights > 1"), Count(windows=days(2))
    ),
    stay(1, nights=3),
    stay(2, 30, channel=None),
    stay(3, 400, channel=None),
    cuts=((31, True), (401, True)),
)
"""What is newest of any age lies before all that the windows look back on."""
TIES = case(
    declare(
        "guest",
        "arrived_at",
        Latest(of="channel"),
        First(of="channel", windows=(*days(7), *before_latest(3))),
        Latest(of="paid", windows=days(1, 180)),
    ),
    *(
        stay(n, 7 * (n % 2), channel=channel, paid=paid)
        for n, (channel, paid) in enumerate(
            [("web", Decimal(-1)), ("desk", None), (None, Decimal(2)), ("a", Decimal(1))]
        )
    ),
    cuts=((1, True), (8, True)),
)
NOBODY = case(
    declare(
        "dimension", "arrived_at", Latest(), Distinct(of="guest", windows=days(1, 7)), Sum(of="paid", windows=days(2))
    ),
    stay(1),
    stay(2, hotel=None),
    stay(3, 1, hotel=2),
    stay(4, 2),
    hotels=({"hotel_id": 1, "listed_on": date(2017, 1, 1), "city": "Ulm", "fee": None},),
    cuts=((1, True), (2, True), (3, True)),
)
"""Events of which the dimension knows no key: they are nobody's."""
SEVERAL = case(
    declare(
        "date",
        "arrived_on",
        Distinct(of="guest", windows=days(1, 7)),
        Distinct(of="hotel", windows=days(2, 180)),
        Ratio(part=Distinct(of="channel", where="nights > 1"), whole=Count(), windows=days(7), empty=None),
        Min(of="paid", windows=days(180)),
        Mean(of="nights", windows=days(2)),
        Decayed(windows=before_latest(365), half_life=1),
    ),
    *(
        stay(n, gap, hotel=n % 3 or None, nights=n % 4, guest=str(n % 2))
        for n, gap in enumerate((0, 1, 6, 7, 8, 21, 22, 180, 181, 182))
    ),
    cuts=((7, True), (8, True), (181, True)),
)
LOOKING_BACK = case(
    declare(
        "guest and room",
        "arrived_at",
        Count(windows=before_latest(3)),
        Count(windows=before_latest(365)),
        First(of="paid", windows=before_latest(3)),
        First(windows=before_latest(365)),
        Decayed(windows=before_latest(3), half_life=60),
    ),
    *(
        stay(10 * gap + half, half * gap, room=gap, paid=Decimal(half))
        for gap in (1, 2, 3, 4, 363, 364, 365, 366, 729, 730)
        for half in (0, 1)
    ),
    cuts=((4, True), (365, True), (366, True)),
)
"""An event that is just remembered when the next comes, and just not, for a short memory beside a long one."""
RETURNS = case(
    declare(
        "date", "arrived_at", Distinct(of="guest", windows=days(2, 7, 180)), Distinct(of="hotel", windows=days(1, 7))
    ),
    *(
        stay(10 * gap + half, half * gap, guest=str(gap), hotel=gap)
        for gap in (1, 2, 3, 6, 7, 8, 179, 180, 181)
        for half in (0, 1)
    ),
    cuts=((7, True), (8, True), (181, True)),
)
"""Who comes back just before leaving a window, as it leaves, and just after: present all along, or counted again."""
CHANGING = case(
    declare(
        "guest",
        "arrived_at",
        Latest(of="tier"),
        Sum(of="fee", windows=days(2)),
        Count(where="tier = 'gold'", windows=days(1)),
        Distinct(of="city", windows=days(7)),
    ),
    *(stay(n, n) for n in range(4)),
    hotels=tuple(
        {"hotel_id": 1, "listed_on": date(2017, 1, day), "city": f"city {day}", "fee": Decimal(day)}
        for day in (2, 3, 1)
    ),
    tiers=tuple(
        {"guest": "ada", "since": since, "line": line, "tier": tier}
        for since, line, tier in (
            (NOON - timedelta(microseconds=1), 1, "tin"),
            (NOON, 1, "lead"),
            (NOON, 2, "gold"),
            (NOON + DAY + timedelta(microseconds=1), 1, "tin"),
            (NOON + 2 * DAY, 1, None),
            (NOON + 3 * DAY, 2, "gold"),
        )
    ),
    cuts=((1, True), (2, True), (3, True)),
)
"""The newest of several listings, and a tier that begins at the event's very instant, and one just after it."""
LARGE = case(
    declare(
        "guest",
        "arrived_at",
        Sum(of="paid + fee", windows=days(1)),
        Ratio(part=Sum(of="paid + fee"), whole=Sum(of="paid"), windows=days(7)),
    ),
    stay(1, paid=Decimal("9999999999.99")),
    hotels=({"hotel_id": 1, "listed_on": date(2017, 1, 1), "city": "Ulm", "fee": Decimal("9999999999.99")},),
    cuts=((1, True),),
)
"""A sum of columns has more digits than each of them."""
NOTHING = case(declare("guest and room", "arrived_at", Latest(), Sum(of="paid", windows=days(1))))
COUNTED_ONLY = case(
    declare("guest", "arrived_at", Distinct(of="channel", windows=days(1))),
    stay(1),
    stay(2, 1, channel="desk"),
    cuts=((1, True),),
)
EXAMPLES = (NOTHING, COUNTED_ONLY, LONG_AGO, TIES, NOBODY, SEVERAL, LOOKING_BACK, RETURNS, CHANGING, LARGE)


# --- the oracle: the docstrings, sentence by sentence


def joined(each: Case) -> list[Row]:
    """The events with the columns that dimensions bring, their instant, and their key; those without a key speak about
    nobody.
    """
    hotels = {row["hotel_id"]: row for row in sorted(each.rows["silver.hotels"], key=lambda row: row["listed_on"])}
    found = []
    for row in each.rows["silver.stays"]:
        hotel = hotels.get(row["hotel"], {})
        at = midnight(row["arrived_on"]) if each.declared.time_column == "arrived_on" else row["arrived_at"]
        valid = [tier for tier in each.rows["silver.tiers"] if tier["guest"] == row["guest"] and tier["since"] <= at]
        tier = max(valid, key=lambda tier: (tier["since"], tier["line"]), default={})
        whole = {**row, "city": hotel.get("city"), "fee": hotel.get("fee"), "tier": tier.get("tier"), "at": at}
        found.append({**whole, "key": tuple(whole[name] for name in each.keys)})
    return [row for row in found if None not in row["key"]]


def picked(part: Aggregation, rows: Sequence[Row], default: str) -> list[tuple[datetime, Any]]:
    """The instants and values of the rows that the filter keeps, without NULL."""
    value = PYTHON[part.of] if part.of else (lambda row: row[default])
    return [(row["at"], value(row)) for row in rows if PYTHON[part.where](row) and value(row) is not None]


def amount(part: Aggregation, rows: Sequence[Row]) -> Any:
    some = [value for _, value in picked(part, rows, "stay_id")]
    if isinstance(part, Sum):
        return sum(some)
    return len(set(some)) if isinstance(part, Distinct) else len(some)


def expected(each: Case, part: Aggregation, window: Window | Recent | None, known: Sequence[Row], t: datetime) -> Any:
    """A feature at t, of the key's events before t."""
    rows = known
    last = max(row["at"] for row in known).date()
    if isinstance(window, Window):
        rows = [row for row in known if t - window.length <= row["at"]]
    if isinstance(window, Recent):
        rows = [row for row in known if (last - row["at"].date()).days < window.days]
    if isinstance(part, Ratio):
        top, bottom = amount(part.part, rows), amount(part.whole, rows)
        return float(top) / float(bottom) if bottom else part.empty
    if isinstance(part, Decayed):
        ages = [(last - at.date()).days for at, _ in picked(part, rows, "stay_id")]
        return sum(math.floor(2**20 * 2 ** (-age / part.half_life) + 0.5) for age in ages)
    if isinstance(part, (Sum, Count, Distinct)):
        return amount(part, rows)
    some = picked(part, rows, each.declared.time_column)
    if not some:
        return None
    if isinstance(part, Mean):
        return float(sum(value for _, value in some)) / len(some)
    if isinstance(part, (Latest, First)):
        return (max if isinstance(part, Latest) else min)(some)[1]
    return (max if isinstance(part, Max) else min)(value for _, value in some)


# --- the engine


def frames(each: Case, rows: Sequence[Row] | None = None) -> dict[str, DataFrame]:
    tables = {"silver.stays": each.declared.events, "silver.hotels": HOTELS, "silver.tiers": TIERS}
    return {
        name: frame(table, each.rows[name] if rows is None or name != "silver.stays" else rows)
        for name, table in tables.items()
    }


def frame(table: Table, rows: Sequence[Row]) -> DataFrame:
    if not rows:
        return engine.empty(", ".join(f"{each.name} {each.type.spark}" for each in table.columns))
    return engine.session().createDataFrame(arrow(table, rows))


def arrow(table: Table, rows: Sequence[Row]) -> pa.Table:
    return pa.Table.from_pylist([*rows], schema=pa.schema([field.with_nullable(True) for field in arrow_schema(table)]))


def features(each: Case, midnights: Sequence[Interval], rows: Sequence[Row] | None = None) -> DataFrame:
    return aggregate.features(each.table, midnights, frames(each, rows))


def by_key(each: Case, found: DataFrame) -> dict[Key, dict[datetime, Row]]:
    """Key -> midnight -> the features. A key and midnight that comes twice is an error."""
    result: dict[Key, dict[datetime, Row]] = {}
    for row in found.toArrow().to_pylist():
        rows = result.setdefault(tuple(row[name] for name in each.keys), {})
        at = row["event_timestamp"].astimezone(UTC)
        assert at not in rows, f"two rows of {row} at {at}"
        rows[at] = {name: value for name, value in row.items() if name not in (*each.keys, "event_timestamp")}
    return result


def whole(each: Case) -> Interval:
    on = [row["arrived_on"] for row in each.rows["silver.stays"]] or [date(2017, 1, 1)]
    return Interval(min(on), max(on) + (AFTER + 1) * DAY)


def singles(each: Case) -> list[date]:
    span = whole(each)
    return sorted(
        {span.start + offset * DAY for offset, alone in each.cuts if alone and span.start + offset * DAY in span}
    )[: windows.FEW_MIDNIGHTS]


def runs(each: Case) -> list[tuple[Interval, ...]]:
    """The midnights cut into three runs: those kept single, and the pieces between them by turns."""
    span, alone = whole(each), singles(each)
    edges = {
        span.start,
        span.end,
        *alone,
        *(day + DAY for day in alone),
        *(span.start + offset * DAY for offset, _ in each.cuts),
    }
    pieces = [
        Interval(low, high) for low, high in pairwise(sorted(day for day in edges if day in span or day == span.end))
    ]
    between = [piece for piece in pieces if piece.start not in alone]
    return [
        run
        for run in (merged(Interval(day, day + DAY) for day in alone), merged(between[::2]), merged(between[1::2]))
        if run
    ]


def read_for(each: Case, run: Sequence[Interval]) -> list[Row]:
    """The events that staging reads for these midnights."""
    history = merged(windows.history_for(span, each.declared.reach) for span in run)
    return [row for row in each.rows["silver.stays"] if any(row["arrived_on"] in span for span in history)]


def midnights_of(span: Interval) -> list[datetime]:
    return [midnight(span.start + n * DAY) for n in range(span.days)]


def assert_right(each: Case, found: Mapping[Key, Mapping[datetime, Row]]) -> None:
    """At every midnight the newest row says what the oracle says, and there are rows only where a window's content
    changes.
    """
    rows = joined(each)
    assert set(found) == {row["key"] for row in rows}
    for key, there in found.items():
        own = [row for row in rows if row["key"] == key]
        moves = {midnight(row["at"].date() + (1 + w) * DAY) for row in own for w in (0, *each.declared.trailing)}
        assert set(there) == {t for t in moves if t.date() in whole(each)}
        newest = None
        for t in midnights_of(whole(each)):
            newest = there.get(t, newest)
            known = [row for row in own if row["at"] < t]
            if not known:
                assert newest is None
                continue
            for part, window, feature in each.declared.features():
                assert newest is not None
                wanted, got = expected(each, part, window, known, t), newest[feature.name]
                got = got.astimezone(UTC) if isinstance(got, datetime) else got
                assert got == wanted, f"{part} over {window} of {key} at {t}: {got!r}, not {wanted!r}"


def with_examples(test: Any) -> Any:
    return reduce(lambda decorated, each: example(each=each)(decorated), EXAMPLES, test)


@pytest.mark.parametrize("embedded", [True, False], ids=["arrow", "sql"])
@settings(hostile, max_examples=15 * EFFORT)
@given(each=cases())
@with_examples
def test_every_midnight_is_right(embedded: bool, each: Case) -> None:
    """By Arrow, and by SQL as engines apart do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "is_embedded", lambda: embedded)
        assert_right(each, by_key(each, features(each, [whole(each)])))


@settings(hostile, max_examples=8 * EFFORT)
@given(each=cases())
@with_examples
def test_runs_make_what_one_run_makes(each: Case) -> None:
    """A few midnights are computed from the definition and many from what enters and leaves, each from the events that
    staging reads for them.
    """
    parts = [features(each, run, read_for(each, run)) for run in runs(each)]
    assert by_key(each, reduce(DataFrame.unionAll, parts)) == by_key(each, features(each, [whole(each)]))


@settings(hostile, max_examples=8 * EFFORT)
@given(each=cases(), which=st.integers(0, 9))
@example(each=LONG_AGO, which=0)
def test_an_event_changes_no_other_midnights_than_it_says(each: Case, which: int) -> None:
    some = each.rows["silver.stays"]
    if not some:
        return
    gone = some[which % len(some)]
    day = gone["arrived_on"]
    concerned = windows.midnights_changed_by(Interval(day, day + DAY), each.declared.reach)
    before = by_key(each, features(each, [whole(each)], [row for row in some if row is not gone]))
    after = by_key(each, features(each, [whole(each)]))
    for key in {*before, *after}:
        old, new = before.get(key, {}), after.get(key, {})
        differ = {t for t in {*old, *new} if old.get(t) != new.get(t)}
        assert all(t.date() in concerned for t in differ), (
            f"{key}: {sorted(differ)} changed, {concerned} was to be computed anew"
        )


def test_an_event_without_a_time_is_in_no_window() -> None:
    """Its contract lets it pass; it must not move the newest instant of the keys beside it."""
    many = [stay(n, n % 9, guest=f"guest {n}") for n in range(3 * windows.BUCKETS)]
    timed = case(
        declare("guest", "arrived_at", Latest(), Count(windows=days(2)), Distinct(of="room", windows=days(2))), *many
    )
    optional = tuple(replace(each, required=False) for each in timed.declared.events.columns)
    loose = replace(
        timed,
        table=replace(
            timed.table, aggregates=replace(timed.declared, events=replace(timed.declared.events, columns=optional))
        ),
    )
    lost = [{**row, "stay_id": 100 + n, "arrived_at": None} for n, row in enumerate(many)]
    for run in ([whole(timed)], [Interval(NOON.date() + DAY, NOON.date() + 2 * DAY)]):
        assert by_key(loose, features(loose, run, [*many, *lost])) == by_key(timed, features(timed, run))


def test_both_ways_have_the_same_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    events = engine.session().createDataFrame(
        [("k", NOON, 1, 1)], "key string, _at timestamp, paid bigint, high bigint"
    )
    measures = Measures(sums={"paid": (2,)}, extremes={"high": Extreme(True, (2,))}, trailing=(2,))
    year = Interval(date(NOON.year, 1, 1), date(NOON.year + 1, 1, 1))
    columns = []
    for embedded in (True, False):
        monkeypatch.setattr(engine, "is_embedded", lambda embedded=embedded: embedded)
        columns.append(sorted(windows.contents(events, [year], ["key"], measures).columns))
    assert columns[0] == columns[1]


@pytest.mark.parametrize("embedded", [True, False], ids=["arrow", "sql"])
@pytest.mark.parametrize("absent", ["guest", "arrived_at"])
def test_that_a_column_is_required_is_not_trusted(monkeypatch: pytest.MonkeyPatch, embedded: bool, absent: str) -> None:
    """Rows that no audit has seen are in no window either, without a key or a time."""
    monkeypatch.setattr(engine, "is_embedded", lambda: embedded)
    some = [stay(n, n % 9, guest=f"guest {n % 3}") for n in range(9)]
    strict = case(declare("guest", "arrived_at", Latest(), Count(windows=days(2))), *some)
    assert strict.declared.columns()[absent].required
    lost = [{**row, "stay_id": 100 + n, absent: None} for n, row in enumerate(some)]
    for run in ([whole(strict)], [Interval(NOON.date() + DAY, NOON.date() + 2 * DAY)]):
        assert by_key(strict, features(strict, run, [*some, *lost])) == by_key(strict, features(strict, run))


@settings(hostile, max_examples=40 * EFFORT)
@given(each=cases())
@with_examples
def test_the_count_of_millrace_verify_agrees(each: Case) -> None:
    """DuckDB and the loop are independent of each other, and of the engine."""
    rows = joined(each)
    asked = [(key, t) for key in sorted({row["key"] for row in rows}) for t in midnights_of(whole(each))[::7]]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, table in {
            "silver.stays": each.declared.events,
            "silver.hotels": HOTELS,
            "silver.tiers": TIERS,
        }.items():
            connection.register(name, arrow(table, each.rows[name]))
        events = brute_force.events_of(connection, each.declared, {name: f'"{name}"' for name in each.rows})
        counted = brute_force.counted(connection, each.declared, events, asked)
    for key, t in asked:
        known = [row for row in rows if row["key"] == key and row["at"] < t]
        assert ((key, t) in counted) == bool(known)
        for part, window, feature in each.declared.features() if known else ():
            wanted, got = expected(each, part, window, known, t), counted[key, t][feature.name]
            got = got.astimezone(UTC) if isinstance(got, datetime) else got
            assert got == wanted, f"{part} over {window} of {key} at {t}: {got!r}, not {wanted!r}"

"""Each gold transform on small hostile sets of purchases, compared with the catalogue's sentences at every midnight.

The oracle is a plain loop over the purchases before t; the transforms under test are called as staging calls them, with
the history that `windows.history_for` names, so that what is proven of the whole is proven of every way to cut it into
runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import reduce
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame

from contracts.interval import DAY, Interval, merged, midnight
from contracts.model import Table
from etl import engine
from etl.gold import aggregate, windows
from grocery.contracts.gold.customer_activity import customer_activity
from grocery.contracts.gold.customer_product import customer_product
from grocery.contracts.gold.product_popularity import product_popularity
from grocery.transforms.gold.product_popularity import events as with_promoted

EFFORT = int(os.environ.get("MILLRACE_TEST_EFFORT") or 1)
"""Multiplies how many shops are tried: 10 for a night."""
hostile = settings(
    max_examples=40 * EFFORT,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
hostile_twice = settings(hostile, max_examples=20 * EFFORT)
"""For properties whose example computes the features two to four times."""

IDS = (-33, -16, -1, 0, 1, 16, 17, 32, 2**40 + 16)
"""Most of them fall into one bucket; % of a negative id is negative."""
FIRST_DAYS = (date(2016, 2, 25), date(2000, 2, 28), date(2017, 12, 30), date(1969, 12, 20), date(2100, 2, 27))
"""Leap years, one that is none, a year's end, and the epoch."""
GAPS = (0, 1, 2, 6, 7, 8, 27, 28, 29, 30, 31, 89, 90, 91, 92, 200, 364, 365, 366)
TIMES = (timedelta(0), timedelta(microseconds=1), timedelta(hours=12), DAY - timedelta(microseconds=1))
AFTER = 100
"""Days after the last purchase for which every midnight is compared."""
MONEY = pa.decimal128(12, 2)
TRANSACTIONS = pa.schema(
    [
        *((name, pa.int64()) for name in ("basket_id", "product_id", "customer_id", "store_id", "week", "quantity")),
        ("transaction_at", pa.timestamp("us", tz="UTC")),
        *((name, MONEY) for name in ("sales_value", "retail_disc", "coupon_disc", "coupon_match_disc")),
    ]
)
PROMOTIONS = pa.schema(
    [
        *((name, pa.int64()) for name in ("product_id", "store_id", "week")),
        *((name, pa.string()) for name in ("display_location", "mailer_location")),
    ]
)
Row = dict[str, Any]


@dataclass(frozen=True)
class Line:
    """A row of silver.transactions."""

    basket_id: int
    product_id: int
    customer_id: int
    store_id: int
    week: int
    quantity: int
    transaction_at: datetime
    sales_value: Decimal
    retail_disc: Decimal
    coupon_disc: Decimal
    coupon_match_disc: Decimal

    @property
    def discount(self) -> Decimal:
        return self.retail_disc + self.coupon_disc + self.coupon_match_disc

    @property
    def day(self) -> date:
        return self.transaction_at.date()


@dataclass(frozen=True)
class Promotion:
    """A row of silver.promotions."""

    product_id: int
    store_id: int
    week: int
    display_location: str
    mailer_location: str


@dataclass(frozen=True)
class Shop:
    """What was bought and promoted, and where the year is cut into runs: offsets in days, each kept as a single
    midnight or not.
    """

    lines: tuple[Line, ...]
    promotions: tuple[Promotion, ...]
    cuts: tuple[tuple[int, bool], ...]


cents = st.integers(0, 300).map(lambda n: Decimal(n) / 100)
discounts = st.one_of(st.just(Decimal("0.00")), cents)


@st.composite
def shops(draw: st.DrawFn) -> Shop:
    """Few ids and few days, so that keys, baskets and days meet; gaps of a window's length, one more and one less."""
    day = draw(st.sampled_from(FIRST_DAYS))
    days = [day := day + gap * DAY for gap in draw(st.lists(st.sampled_from(GAPS), min_size=1, max_size=6))]
    ids = draw(st.lists(st.sampled_from(IDS), min_size=1, max_size=3, unique=True))
    line = st.builds(
        Line,
        basket_id=st.integers(1, 5),
        product_id=st.sampled_from(ids),
        customer_id=st.sampled_from(ids),
        store_id=st.sampled_from((10, 20)),
        week=st.sampled_from((1, 2)),
        quantity=st.integers(0, 3),
        transaction_at=st.builds(lambda on, time: midnight(on) + time, st.sampled_from(days), st.sampled_from(TIMES)),
        sales_value=cents,
        retail_disc=discounts,
        coupon_disc=discounts,
        coupon_match_disc=discounts,
    )
    lines = draw(st.lists(line, max_size=16, unique_by=lambda made: (made.basket_id, made.product_id)))
    places = st.sampled_from(("0", "0", "5", "A"))
    promotion = st.builds(
        Promotion,
        product_id=st.sampled_from(ids),
        store_id=st.sampled_from((10, 20)),
        week=st.sampled_from((1, 2)),
        display_location=places,
        mailer_location=places,
    )
    promotions = draw(st.lists(promotion, max_size=6, unique=True))
    span = (days[-1] - days[0]).days + AFTER
    interesting = sorted({(day - days[0]).days + 1 + lag for day in days for lag in (0, 7, 28, 30, 90)})
    cut = st.tuples(st.one_of(st.sampled_from(interesting), st.integers(0, span)), st.booleans())
    return Shop(tuple(lines), tuple(promotions), tuple(draw(st.lists(cut, max_size=4))))


def _line(basket: int, at: datetime, **other: Any) -> Line:
    zero = Decimal("0.00")
    plain = {"product_id": 1, "customer_id": 1, "store_id": 10, "week": 1, "quantity": 1}
    money = {"sales_value": Decimal("1.25"), "retail_disc": zero, "coupon_disc": zero, "coupon_match_disc": zero}
    return Line(basket, transaction_at=at, **{**plain, **money, **other})


LEAP = datetime(2016, 2, 28, tzinfo=UTC)
NOTHING = Shop((), (), ())
SPANNING = Shop(
    (_line(1, LEAP + DAY - timedelta(seconds=1)), _line(1, LEAP + DAY, product_id=2)), (), ((0, True), (8, True))
)
"""One basket, paid before and after a midnight: it counts once, and leaves when its later day does."""
EXACTLY = Shop(
    tuple(_line(n, LEAP + n * 90 * DAY) for n in range(3)), (Promotion(1, 10, 1, "0", "A"),), ((91, True), (182, True))
)
"""One purchase enters at the midnight at which another leaves."""
RETURNS = Shop(
    tuple(
        _line(1000 * half + n, LEAP + half * gap * DAY, product_id=n, customer_id=n, sales_value=Decimal(n))
        for n, gap in enumerate((6, 7, 8, 27, 28, 29), 1)
        for half in (0, 1)
    ),
    (),
    ((7, True), (8, True), (9, True)),
)
"""A buyer who comes back just before it leaves a window, as it leaves, and just after: present all along, or counted
anew.
"""
LONG_BASKETS = Shop(
    tuple(
        _line(n, LEAP + half * gap * DAY, product_id=half, customer_id=n)
        for n, gap in enumerate((6, 7, 8, 29, 30, 31, 89, 90, 91), 1)
        for half in (0, 1)
    ),
    (),
    ((30, True), (31, True), (32, True)),
)
"""The same for a basket, paid in two halves."""
REMEMBERED = Shop(
    tuple(
        _line(10 * n + half, LEAP + half * gap * DAY, product_id=n)
        for n, gap in enumerate((1, 60, 363, 364, 365, 366, 730), 1)
        for half in (0, 1)
    ),
    (),
    ((365, True), (366, True)),
)
"""A purchase that is just remembered when the next one comes, and one that just is not; single midnights and long
runs.
"""
FREE = Shop((_line(1, LEAP, quantity=0, sales_value=Decimal("0.00")),), (Promotion(1, 10, 1, "5", "0"),), ())


# --- the oracle: the catalogue, sentence by sentence


def _within(lines: Sequence[Line], t: datetime, days: int) -> list[Line]:
    """The window of w days at midnight t: [t - w days, t)."""
    return [line for line in lines if t - days * DAY <= line.transaction_at < t]


def _sum(lines: Sequence[Line], field: str) -> Any:
    return sum((getattr(line, field) for line in lines), Decimal("0.00") if field in ("sales_value", "discount") else 0)


def _share(part: Decimal | int, whole: Decimal | int) -> float:
    return float(part) / float(whole) if whole else 0.0


def activity(lines: Sequence[Line], t: datetime, _: Shop) -> Row:
    month = _within(lines, t, 30)
    row: Row = {
        "discount_share_30d": _share(_sum(month, "discount"), _sum(month, "sales_value") + _sum(month, "discount"))
    }
    for w in (7, 30, 90):
        window = _within(lines, t, w)
        row |= {
            f"spend_{w}d": _sum(window, "sales_value"),
            f"items_{w}d": _sum(window, "quantity"),
            f"baskets_{w}d": len({line.basket_id for line in window}),
        }
    return row | {"last_basket_at": max(line.transaction_at for line in lines if line.transaction_at < t)}


def popularity(lines: Sequence[Line], t: datetime, shop: Shop) -> Row:
    shown = {
        (row.product_id, row.store_id, row.week)
        for row in shop.promotions
        if row.display_location != "0" or row.mailer_location != "0"
    }
    month = _within(lines, t, 28)
    promoted = [line for line in month if (line.product_id, line.store_id, line.week) in shown]
    row: Row = {"promoted_share_28d": _share(_sum(promoted, "quantity"), _sum(month, "quantity"))}
    for w in (7, 28):
        window = _within(lines, t, w)
        row |= {
            f"units_{w}d": _sum(window, "quantity"),
            f"buyers_{w}d": len({line.customer_id for line in window}),
            f"revenue_{w}d": _sum(window, "sales_value"),
        }
    return row


def pair(lines: Sequence[Line], t: datetime, _: Shop) -> Row:
    baskets = {line.basket_id for line in _within(lines, t, 90)}
    known = [line for line in lines if line.transaction_at < t]
    last = max(line.transaction_at for line in known)
    remembered = [line for line in known if (last.date() - line.day).days < 365]
    weight = sum(round(2**20 * 2 ** (-(last.date() - line.day).days / 60)) for line in remembered)
    began = min(line.transaction_at for line in remembered)
    memory = {"memory_purchases": len(remembered), "memory_began_at": began, "memory_weight": weight}
    return {"purchases_90d": len(baskets), "last_purchased_at": last, **memory}


@dataclass(frozen=True)
class View:
    """A transform, its keys and windows as the catalogue has them, and the oracle of one row."""

    table: Table
    keys: tuple[str, ...]
    windows: tuple[int, ...]
    row: Callable[[Sequence[Line], datetime, Shop], Row]

    def key_of(self, item: Line | Row) -> tuple[int, ...]:
        return tuple(item[key] if isinstance(item, dict) else getattr(item, key) for key in self.keys)


VIEWS = (
    View(customer_activity, ("customer_id",), (7, 30, 90), activity),
    View(product_popularity, ("product_id",), (7, 28), popularity),
    View(customer_product, ("customer_id", "product_id"), (90,), pair),
)


# --- the transform


def features(view: View, shop: Shop, midnights: Sequence[Interval], lines: Sequence[Line] | None = None) -> DataFrame:
    inputs = {
        "silver.transactions": _frame(shop.lines if lines is None else lines, TRANSACTIONS),
        "silver.promotions": _frame(shop.promotions, PROMOTIONS),
    }
    return aggregate.features(view.table, midnights, inputs, with_promoted)


def _frame(rows: Sequence[Line | Promotion], schema: pa.Schema) -> DataFrame:
    if not rows:
        kinds = {pa.string(): "string", pa.int64(): "bigint", MONEY: "decimal(12,2)"}
        return engine.empty(", ".join(f"{field.name} {kinds.get(field.type, 'timestamp')}" for field in schema))
    return engine.session().createDataFrame(pa.Table.from_pylist([asdict(row) for row in rows], schema=schema))


def by_key(view: View, frame: DataFrame) -> dict[tuple[int, ...], dict[datetime, Row]]:
    """Key -> midnight -> the other columns. A key and midnight that comes twice is an error."""
    found: dict[tuple[int, ...], dict[datetime, Row]] = {}
    for row in frame.toArrow().to_pylist():
        rows = found.setdefault(view.key_of(row), {})
        at = row["event_timestamp"].astimezone(UTC)
        assert at not in rows, f"two rows of {view.key_of(row)} at {at}"
        rows[at] = {name: value for name, value in row.items() if name not in (*view.keys, "event_timestamp")}
    return found


def whole(shop: Shop) -> Interval:
    """Every midnight from that of the first purchase's day to AFTER days after the last."""
    days = [line.day for line in shop.lines] or [date(2017, 1, 1)]
    return Interval(min(days), max(days) + (AFTER + 1) * DAY)


def runs(shop: Shop) -> list[tuple[Interval, ...]]:
    """The midnights cut into three runs: those kept single, and the pieces between them by turns."""
    midnights = whole(shop)
    single = {
        midnights.start + offset * DAY
        for offset, alone in shop.cuts
        if alone and midnights.start + offset * DAY in midnights
    }
    edges = {midnights.start + offset * DAY for offset, _ in shop.cuts} | single | {day + DAY for day in single}
    edges = sorted({edge for edge in edges if edge in midnights} | {midnights.start, midnights.end})
    pieces = [Interval(low, high) for low, high in pairwise(edges)]
    between = [piece for piece in pieces if piece.start not in single]
    return [
        span
        for span in (merged(Interval(day, day + DAY) for day in single), merged(between[::2]), merged(between[1::2]))
        if span
    ]


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.table.name)
class TestAView:
    @hostile
    @given(shop=shops())
    @example(shop=NOTHING)
    @example(shop=SPANNING)
    @example(shop=EXACTLY)
    @example(shop=RETURNS)
    @example(shop=LONG_BASKETS)
    @example(shop=REMEMBERED)
    @example(shop=FREE)
    def test_is_right_at_every_midnight(self, view: View, shop: Shop) -> None:
        found = by_key(view, features(view, shop, [whole(shop)]))
        assert set(found) == {view.key_of(line) for line in shop.lines}
        for key, rows in found.items():
            lines = [line for line in shop.lines if view.key_of(line) == key]
            assert set(rows) == _moves(view, lines, whole(shop))
            newest = None
            for t in _midnights(whole(shop)):
                newest = rows.get(t, newest)
                expected = view.row(lines, t, shop) if any(line.transaction_at < t for line in lines) else None
                assert newest == expected, f"{key} at {t}"

    @hostile_twice
    @given(shop=shops())
    @example(shop=NOTHING)
    @example(shop=SPANNING)
    @example(shop=EXACTLY)
    @example(shop=RETURNS)
    @example(shop=LONG_BASKETS)
    @example(shop=REMEMBERED)
    def test_is_the_same_however_it_is_cut_into_runs(self, view: View, shop: Shop) -> None:
        parts = [features(view, shop, run, _known(view, shop, run)) for run in runs(shop)]
        assert by_key(view, reduce(DataFrame.unionAll, parts)) == by_key(view, features(view, shop, [whole(shop)]))

    @hostile_twice
    @given(shop=shops(), which=st.integers(0, 15))
    def test_changes_at_no_other_midnights_than_it_says(self, view: View, shop: Shop, which: int) -> None:
        """Without one purchase, rows differ only within `midnights_changed_by` its day: that is what an increment
        computes anew.
        """
        if not shop.lines:
            return
        gone = shop.lines[which % len(shop.lines)]
        rest = [line for line in shop.lines if line is not gone]
        concerned = windows.midnights_changed_by(Interval(gone.day, gone.day + DAY), _reach(view))
        before, after = (by_key(view, features(view, shop, [whole(shop)], lines)) for lines in (rest, shop.lines))
        for key in {*before, *after}:
            old, new = before.get(key, {}), after.get(key, {})
            differ = {t for t in {*old, *new} if old.get(t) != new.get(t)}
            assert all(t.date() in concerned for t in differ), (
                f"{key}: {sorted(differ)} changed, {concerned} was to be computed anew"
            )


def _moves(view: View, lines: Sequence[Line], midnights: Interval) -> set[datetime]:
    """Where a purchase enters the windows or leaves one."""
    days = {line.day + (1 + w) * DAY for line in lines for w in (0, *view.windows)}
    return {midnight(day) for day in days if day in midnights}


def _reach(view: View) -> int:
    assert view.table.aggregates
    return view.table.aggregates.reach


def _midnights(days: Interval) -> list[datetime]:
    return [midnight(days.start + n * DAY) for n in range(days.days)]


def _known(view: View, shop: Shop, run: Sequence[Interval]) -> list[Line]:
    """The purchases that staging reads for these midnights."""
    history = merged(windows.history_for(span, _reach(view)) for span in run)
    return [line for line in shop.lines if any(line.day in days for days in history)]

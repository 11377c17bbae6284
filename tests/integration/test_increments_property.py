"""A feature table that is kept up with its inputs, change by change, is the table that is made of them at once.

Events of a day come, change and go, dimensions are rewritten, the horizon moves on: after each, staging plans what that
concerns, reads what these midnights need, and replaces them. Declarations and rows are those of
`test_aggregations_property`, on real Delta tables.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from contracts import catalog
from contracts.aggregations import Count, Latest, Sum, before_latest, days
from contracts.interval import DAY, Interval
from contracts.model import Load, Table
from etl import planning, stage, table_reader
from etl.gold import aggregate
from lake import delta, publishing
from lake import settings as places
from lake.delta import CommitMetadata
from tests.conftest import set_home
from tests.integration import test_aggregations_property as declarations
from tests.integration.test_aggregations_property import HOTELS, TIERS, Case, Key, Row, arrow, case, declare, stay

EFFORT = int(os.environ.get("MILLRACE_TEST_EFFORT") or 1)
kept_up = settings(
    max_examples=8 * EFFORT,
    deadline=None,
    derandomize=bool(os.environ.get("CI")),
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)


@dataclass(frozen=True)
class Change:
    """What an input holds from now on: all of a dimension, or the events of one day; and how many days the horizon
    moves on.
    """

    name: str
    rows: tuple[Row, ...]
    day: date | None = None
    further: int = 0


@st.composite
def stories(draw: st.DrawFn) -> tuple[Case, tuple[Change, ...]]:
    """A first state, and changes towards other states of the same kind."""
    first = draw(declarations.cases())
    changes = []
    for _ in range(draw(st.integers(1, 4))):
        other, further = draw(declarations.cases()), draw(st.sampled_from((0, 0, 1, 2, 30)))
        name = draw(st.sampled_from(("silver.stays", "silver.stays", "silver.hotels", "silver.tiers")))
        if name != "silver.stays":
            changes.append(Change(name, other.rows[name], further=further))
            continue
        known = sorted({row["arrived_on"] for row in (*first.rows[name], *other.rows[name])} or {date(2016, 2, 25)})
        day = draw(st.sampled_from(known))
        moved = [declarations.on_day(row, day) for row in other.rows[name][: draw(st.integers(0, 3))]]
        changes.append(Change(name, tuple({**row, "stay_id": 100 + n} for n, row in enumerate(moved)), day, further))
    return first, tuple(changes)


class Shop:
    """The inputs in a lake, and what the feature table holds after each run."""

    def __init__(self, table: Table, horizon: date) -> None:
        self.table, self.horizon = table, horizon
        self.known = {each.qualified: each for each in (table, table.aggregates.events, HOTELS, TIERS)}
        self.rows: dict[tuple[Key, date], Row] = {}

    def write(self, name: str, rows: Sequence[Row], day: date | None = None) -> None:
        contract = self.known[name]
        path = places.table_path(name) / "_stage" / "rows.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(arrow(contract, rows), path)
        base = delta.version_of(name)
        changed_days = (Interval(day, day + DAY),) if day else ()
        whole = contract.load == Load.SNAPSHOT and base is not None
        publishing.publish(
            contract,
            [path] if rows else [],
            CommitMetadata("run", changed_days=changed_days),
            base=base,
            replace=changed_days,
            whole=whole,
        )

    def run(self) -> None:
        """Plan, compute what is planned, and replace it, as a run of the pipeline does."""
        planned = planning.plan(self.table, Interval(self.horizon - DAY, self.horizon))
        found = stage._features(planned).toArrow().to_pylist() if planned.days else []
        self.rows = (
            {}
            if planned.whole
            else {at: row for at, row in self.rows.items() if not any(at[1] in span for span in planned.days)}
        )
        assert all(any(row["event_timestamp"].date() in span for span in planned.days) for row in found)
        self.rows |= self.keyed(found)
        state = CommitMetadata("run", planned.inputs, planned.days, planned.horizon, "code", ids=planned.ids)
        publishing.publish(self.table, [], state, base=planned.base)

    def at_once(self) -> dict[tuple[Key, date], Row]:
        frames = {name: table_reader.read(name, delta.version_of(name) or 0) for name in self.table.inputs}
        everything = Interval(date(1960, 1, 1), self.horizon + DAY)
        return self.keyed(aggregate.features(self.table, [everything], frames).toArrow().to_pylist())

    def keyed(self, rows: Sequence[Row]) -> dict[tuple[Key, date], Row]:
        keys = [each.name for each in self.table.aggregates.key]
        return {(tuple(row[name] for name in keys), row["event_timestamp"].date()): row for row in rows}


MOVING_AWAY = (
    case(
        declare(
            "dimension", "arrived_at", Latest(), Sum(of="paid", windows=days(1, 7)), Count(windows=before_latest(3))
        ),
        stay(1),
        stay(2, 5, hotel=2),
        hotels=(
            {"hotel_id": 1, "listed_on": date(2017, 1, 1), "city": "Ulm", "fee": None},
            {"hotel_id": 2, "listed_on": date(2017, 1, 1), "city": "Bern", "fee": None},
        ),
    ),
    (
        Change("silver.hotels", ({"hotel_id": 1, "listed_on": date(2017, 1, 1), "city": "Bern", "fee": None},)),
        Change("silver.stays", (), date(2016, 2, 28)),
    ),
)
"""A change of a dimension moves an event from one key to another, and another event to none."""
LONG_AGO = (
    declarations.LONG_AGO,
    (
        Change("silver.stays", (), declarations.NOON.date(), 1),
        Change("silver.stays", (stay(1, nights=2, channel="desk"),), declarations.NOON.date(), 1),
        Change("silver.stays", (stay(9, 410, channel=None),), declarations.NOON.date() + 410 * DAY, 30),
    ),
)
"""What is newest of any age goes, comes back, and is still known at an event long after."""


@kept_up
@given(story=stories())
@example(story=MOVING_AWAY)
@example(story=LONG_AGO)
def test_change_by_change_is_at_once(story: tuple[Case, tuple[Change, ...]]) -> None:
    first, changes = story
    with tempfile.TemporaryDirectory() as home, pytest.MonkeyPatch.context() as patch:
        set_home(Path(home), patch)
        shop = Shop(first.table, declarations.whole(first).end)
        patch.setattr(catalog, "table", shop.known.__getitem__)
        patch.setattr(planning, "code_of", lambda _: "code")
        for name, rows in first.rows.items():
            shop.write(name, rows)
        shop.run()
        for change in changes:
            shop.write(change.name, change.rows, change.day)
            shop.horizon += change.further * DAY
            shop.run()
            assert shop.rows == shop.at_once()

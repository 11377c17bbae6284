"""What a declaration of features derives, and what it refuses: each sentence once, with its remedy."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from contracts.aggregations import (
    Aggregates,
    Aggregation,
    AsOf,
    Count,
    Decayed,
    Dimension,
    Distinct,
    First,
    Latest,
    MappedInTime,
    Max,
    Mean,
    Min,
    Ratio,
    Sum,
    before_latest,
    days,
    feature_table,
    hours,
    minutes,
    problems,
)
from contracts.model import BOOLEAN, DATE, DOUBLE, LONG, MONEY, STRING, TIMESTAMP, Column, ContractError, Layer, Load, Table, decimal

GUEST = Column("guest", STRING, "Who stays", required=True)
ROOM = Column("room", LONG, "Where", required=True)
STAYS = Table(
    layer=Layer.SILVER,
    name="stays",
    doc="Nights in the mill",
    grain="one row per stay",
    owner="miller",
    freshness=timedelta(days=1),
    key=("stay_id",),
    time_column="arrived_at",
    columns=(
        Column("stay_id", LONG, "Stay", required=True),
        GUEST,
        ROOM,
        Column("arrived_at", TIMESTAMP, "When the guest came", required=True),
        Column("arrived_on", DATE, "The day of it", required=True),
        Column("paid", MONEY, "What was paid", required=True, minimum=0, maximum=900, unit="USD"),
        Column("refund", MONEY, "What was paid back", unit="USD"),
        Column("nights", LONG, "How long", minimum=1, unit="nights"),
        Column("weight", DOUBLE, "Of the luggage"),
        Column("channel", STRING, "Where it was booked"),
        Column("is_member", BOOLEAN, "Whether the guest is a member"),
    ),
)
TIERS = Table(
    layer=Layer.SILVER,
    name="tiers",
    doc="Tiers of guests",
    grain="one row per guest and day",
    owner="miller",
    freshness=timedelta(days=1),
    load=Load.SNAPSHOT,
    key=("guest_id", "since"),
    columns=(
        Column("guest_id", STRING, "Guest", required=True),
        Column("number", LONG, "Guest, as a number"),
        Column("since", DATE, "First day", required=True),
        Column("tier", STRING, "Tier", required=True),
        Column("channel", STRING, "Of the tier"),
        Column("bonus", MONEY, "Of the tier", required=True, minimum=0, unit="USD"),
    ),
)
TIER = Dimension(TIERS, {"guest": "guest_id"}, ("tier", "bonus"))
SPENT = Sum("spent", "paid", windows=days(7))


def declare(*parts: Aggregation, **other: Any) -> Table:
    return feature_table(**{"name": "guests", "doc": "Guests", "owner": "miller", "key": (GUEST,), "events": STAYS, "aggregations": parts, **other})


def found(*parts: Aggregation, **other: Any) -> list[str]:
    return [*problems(Aggregates(**{"events": STAYS, "key": (GUEST,), "aggregations": parts, **other}))]


def feature(part: Aggregation, **other: Any) -> Column:
    [column] = [column for _, _, column in Aggregates(STAYS, (GUEST,), (part,), **other).features()]
    return column


class TestReach:
    def test_is_that_of_the_longest_window_and_of_what_looks_back_from_its_last_event(self) -> None:
        looks_back = Count("before", windows=before_latest(30))
        assert Aggregates(STAYS, (GUEST,), (SPENT, Count("n", windows=days(2, 90)))).reach == 90
        assert Aggregates(STAYS, (GUEST,), (SPENT, looks_back)).reach == 37
        assert Aggregates(STAYS, (GUEST,), (Latest("last"),)).reach == 0

    @pytest.mark.parametrize("part", [Latest("last", "channel"), Latest("last", where="nights > 1"), Latest("last", "paid - 1", type=MONEY)])
    def test_has_no_end_where_the_newest_event_need_not_have_the_newest_value(self, part: Latest) -> None:
        assert Aggregates(STAYS, (GUEST,), (SPENT, part)).reach is None
        assert Aggregates(STAYS, (GUEST,), (SPENT, replace(part, windows=days(7)))).reach == 7

    @pytest.mark.parametrize("part", [Latest("last", "paid"), Latest("last", "arrived_at")])
    def test_has_one_where_each_event_has_a_value(self, part: Latest) -> None:
        assert Aggregates(STAYS, (GUEST,), (SPENT, part)).reach == 7

    def test_has_none_for_a_dimension_that_may_lack_the_row(self) -> None:
        assert Aggregates(STAYS, (GUEST,), (Latest("last", "tier"),), (TIER,)).reach is None


class TestTypes:
    def test_a_sum_of_columns_has_the_digits_that_it_may_need(self) -> None:
        assert feature(replace(SPENT, of="paid")).type == decimal(18, 2)
        assert feature(replace(SPENT, of="paid + refund")).type == decimal(19, 2)
        assert feature(replace(SPENT, of=" + ".join(["paid"] * 10))).type == decimal(19, 2)
        assert feature(replace(SPENT, of=" + ".join(["paid"] * 11))).type == decimal(20, 2)
        assert feature(replace(SPENT, of="paid", type=decimal(38, 2))).type == decimal(38, 2)

"""Which views have a tail, and when another tail begins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from contracts import catalog
from contracts.aggregations import At, Sum, days, feature_table
from contracts.model import DOUBLE, LONG, STRING, Column, Load, Rule, Table
from features.streaming import tails
from features.streaming.tails import Tail
from tests.projects import ARCADE

PROJECT = ARCADE


@pytest.fixture
def tail() -> Tail:
    [tail] = tails.all_tails()
    return tail


def test_views_of_instants_over_a_topic_have_a_tail(tail: Tail) -> None:
    assert (tail.view, tail.bronze.name, tail.silver.name) == ("player_now", "plays", "plays")
    assert [*tails.obstacles()] == []
    assert tails.of(catalog.table("gold.player_rounds")) is None


def _with(table: Table, *columns: Column) -> Table:
    return replace(table, columns=(*table.columns, *columns))


def test_an_optional_column_for_something_else_begins_no_new_tail(tail: Tail) -> None:
    added = Column("helmet", STRING, "Helmet")
    same = [replace(tail, bronze=_with(tail.bronze, added)), replace(tail, silver=_with(tail.silver, added))]
    assert [other.name for other in same] == [tail.name] * 2


def test_what_decides_events_begins_a_new_tail(tail: Tail) -> None:
    bronze, silver = tail.bronze, tail.silver
    stake = [replace(column, type=LONG) if column.name == "stake" else column for column in bronze.columns]
    seconds = [replace(column, maximum=9) if column.name == "seconds" else column for column in silver.columns]
    others = [
        replace(tail, bronze=replace(bronze, columns=tuple(stake))),
        replace(tail, silver=replace(silver, columns=tuple(seconds))),
        replace(tail, silver=replace(silver, key=("round", "player"))),
        replace(tail, bronze=_with(bronze, Column("limit", DOUBLE, "Limit", maximum=3.0))),
        replace(tail, bronze=replace(bronze, rules=(Rule("short", "seconds < 9", "it is long"),))),
    ]
    assert len({tail.name, *(other.name for other in others)}) == 6


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"load": Load.SNAPSHOT}, "is a state and not events"),
        ({"topic": None}, "has no topic"),
        ({"rules": (Rule("r", "upper(game) = 'GO'", "not go"),)}, "the rule r of bronze.plays may not mean the same"),
    ],
)
def test_other_views_say_why_they_have_none(
    tail: Tail, changed: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in changed.items():
        monkeypatch.setitem(tail.bronze.__dict__, name, value)
    assert reason in tails.obstacle(tail.gold)


@pytest.mark.parametrize("of", ["CAST(stake AS BIGINT)", "seconds * seconds"])
def test_expressions_that_engines_compute_differently_have_no_tail(tail: Tail, of: str) -> None:
    total = Sum("total", of, type=LONG, windows=days(1), minimum=None)
    table = feature_table(
        name="totals",
        doc="T",
        owner="o",
        key=tail.declared.key,
        events=tail.silver,
        at=At.INSTANTS,
        aggregations=(total,),
    )
    assert "the aggregation total of gold.totals may not mean the same" in tails.obstacle(table)

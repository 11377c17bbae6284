"""What a declaration says of types and of the newest row of a dimension, on a few rows: at one midnight, and among
many.
"""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from contracts.aggregations import Count, Dimension, Distinct, Latest, Max, Sum, days, feature_table
from contracts.interval import Interval
from contracts.model import LONG, STRING
from etl import engine
from etl.gold import aggregate
from tests.declared import BIDS, RANKS, column

DAY = date(2031, 5, 2)
FEW, MANY = Interval(DAY, DAY + timedelta(days=1)), Interval(DAY, DAY + timedelta(days=9))


def at(day: int, hour: int = 12) -> datetime:
    return datetime(2031, 5, day, hour, tzinfo=UTC)


def features_at(midnights: Interval, *aggregations: Any, joined: tuple[Any, ...] = ()) -> dict[str, Any]:
    """The row of the first midnight."""
    table = feature_table(
        name="bidders",
        doc="bidders",
        owner="tests",
        key=(column("bidder", STRING),),
        events=BIDS,
        joined=joined,
        aggregations=aggregations,
    )
    bids = [
        {"bid": n, "bidder": "ada", "offer": offer, "made_at": at(1, n)} for n, offer in enumerate(("9", "10", "09"), 1)
    ]
    ranks = [
        {"change": "z", "bidder": "ada", "rank": "old", "changed_at": at(1)},
        {"change": "a", "bidder": "ada", "rank": "new", "changed_at": at(3)},
    ]
    session = engine.session()
    inputs = {
        "silver.bids": session.createDataFrame(pa.Table.from_pylist(bids)),
        "silver.ranks": session.createDataFrame(pa.Table.from_pylist(ranks)),
    }
    rows = aggregate.features(table, [midnights], inputs).toArrow().to_pylist()
    [row] = [row for row in rows if row["event_timestamp"].date() == DAY]
    return row


@pytest.mark.parametrize("midnights", [FEW, MANY])
def test_a_value_has_the_type_that_is_declared(midnights: Interval) -> None:
    """As text 9 is more than 10, and 09 is not 9."""
    row = features_at(
        midnights,
        Max("top", "offer", type=LONG, windows=days(7)),
        Distinct("offers", "offer", type=LONG, windows=days(7)),
        Latest("last", "offer"),
    )
    assert (row["top_7d"], row["offers_7d"], row["last"]) == (10, 2, "09")


@pytest.mark.parametrize("midnights", [FEW, MANY])
def test_the_newest_row_of_a_dimension_is_the_latest_in_time(midnights: Interval) -> None:
    """Not the one with the largest key: keys may be random."""
    ranks = Dimension(RANKS, on=("bidder",), take=("rank",))
    assert (
        features_at(midnights, Latest("rank_now", "rank"), Max("top", "bid", windows=days(7)), joined=(ranks,))[
            "rank_now"
        ]
        == "new"
    )


@pytest.mark.parametrize("midnights", [FEW, MANY])
def test_a_sum_beyond_bigint_fails_instead_of_wrapping_around(midnights: Interval) -> None:
    largest = str(2**63 - 1)
    assert (
        features_at(midnights, Sum("one", largest, where="bid = 1", type=LONG, windows=days(7)))["one_7d"] == 2**63 - 1
    )
    with pytest.raises(Exception, match=r"(?i)out of range|overflow"):
        features_at(midnights, Sum("three", largest, type=LONG, windows=days(7)))


@pytest.mark.parametrize("midnights", [FEW, MANY])
@pytest.mark.parametrize("text", ["it's", "a\\b", "'", "\\", "''\\n", "plain", "", "-- no comment", '"'])
def test_text_in_an_expression_is_what_the_standard_says(midnights: Interval, text: str) -> None:
    """DuckDB, which `millrace verify` counts with, agrees."""
    literal = "'" + text.replace("'", "''") + "'"
    where = f"concat(offer, {literal}) = concat('9', {literal}) AND length({literal}) = {len(text)}"
    assert duckdb.sql(f"SELECT {where} FROM (SELECT '9' AS offer)").fetchall() == [(True,)]
    assert features_at(midnights, Count("same", where=where, windows=days(7)))["same_7d"] == 1

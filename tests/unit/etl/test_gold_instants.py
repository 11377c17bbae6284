"""The rows of a table of instants: what each event gives to each aggregation."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest

from contracts.aggregations import AsOf, At, Count, Dimension, Distinct, Latest, Ratio, Sum, feature_table, hours
from contracts.model import STRING, ContractError, Pii
from etl import engine
from etl.gold import instants
from tests.declared import BIDS, RANKS, column


def at(day: int, hour: int = 12) -> datetime:
    return datetime(2031, 5, day, hour, tzinfo=UTC)


def declared(*aggregations: Any, as_of: AsOf = AsOf.NEWEST) -> Any:
    valid_from = "changed_at" if as_of == AsOf.EVENT else None
    return feature_table(
        name="bidders",
        doc="bidders",
        owner="tests",
        key=(column("bidder", STRING),),
        events=BIDS,
        joined=(Dimension(RANKS, ("bidder",), ("rank",), as_of, valid_from),),
        aggregations=aggregations,
        at=At.INSTANTS,
    )


@pytest.mark.parametrize(("as_of", "ranks"), [(AsOf.NEWEST, ["new", "new", "new"]), (AsOf.EVENT, [None, "old", "new"])])
def test_each_event_has_its_measures_with_filters_and_dimensions(as_of: AsOf, ranks: list[str | None]) -> None:
    table = declared(
        Count("bids", windows=hours(1)),
        Count("new_bids", where="rank = 'new'", windows=hours(1)),
        Sum("old_prices", "price", where="rank = 'old'", windows=hours(1)),
        Ratio("share", part=Sum(of="price", where="rank = 'new'"), whole=Sum(of="price"), windows=hours(1)),
        Latest("newest_rank", "rank"),
        Latest("newest_new_at", where="rank = 'new'"),
        as_of=as_of,
    )
    bids = [
        {"bid": 1, "bidder": "ada", "price": 5, "made_at": at(1)},
        {"bid": 2, "bidder": "ada", "price": 7, "made_at": at(2)},
        {"bid": 3, "bidder": "ada", "price": None, "made_at": at(4)},
        {"bid": 4, "bidder": None, "price": 1, "made_at": at(4)},
    ]
    changes = [
        {"change": "a", "bidder": "ada", "rank": "old", "changed_at": at(2, 1)},
        {"change": "b", "bidder": "ada", "rank": "new", "changed_at": at(3)},
    ]
    inputs = {
        "silver.bids": engine.session().createDataFrame(pa.Table.from_pylist(bids)),
        "silver.ranks": engine.session().createDataFrame(pa.Table.from_pylist(changes)),
    }
    rows = sorted(
        instants.rows(table, table.aggregates, inputs, None).toArrow().to_pylist(), key=lambda row: row["bid"]
    )
    assert rows == [
        {
            "bidder": "ada",
            "bid": bid["bid"],
            "event_timestamp": bid["made_at"],
            "new_bids": rank == "new",
            "old_prices": bid["price"] if rank == "old" else None,
            "share_part": bid["price"] if rank == "new" else None,
            "share_whole": bid["price"],
            "newest_rank": rank,
            "newest_new_at": rank == "new",
        }
        for bid, rank in zip(bids, ranks, strict=False)
    ]


def test_a_column_that_holds_a_persons_name_says_so() -> None:
    [names] = [c for c in declared(Distinct("names", "bidder", windows=hours(1))).columns if c.name == "names"]
    assert names.pii == Pii.PSEUDONYM


@pytest.mark.parametrize(
    ("aggregations", "message"),
    [
        ((Count("bid", where="price > 1", windows=hours(1)),), "bid is a key of the table or of its events, and an"),
        (
            (Sum("spent", "price", windows=hours(1)), Sum("spent", "price", windows=hours(2))),
            "two aggregations are called spent, and a table of instants has a column of each. Rename one",
        ),
    ],
)
def test_names_that_would_be_one_column_are_refused(aggregations: Any, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        declared(*aggregations)

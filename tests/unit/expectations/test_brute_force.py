"""A feature table is counted anew from its declaration; whatever differs is told. That the count is right, a property
test shows.
"""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from deltalake import CommitProperties, DeltaTable, write_deltalake

from contracts.aggregations import AsOf, Count, Dimension, Latest, MappedInTime, Sum, days, feature_table
from contracts.model import DATE, LONG, MONEY, STRING, TIMESTAMP, Column, Table
from expectations.brute_force import NO_ROW, Difference, VerifyError, verify
from lake import settings
from lake.delta import METADATA_KEY, CommitMetadata
from tests.declared import column, silver

pytestmark = pytest.mark.usefixtures("home")
Row = dict[str, Any]
FIRST, HORIZON = date(2017, 3, 1), date(2017, 12, 1)
TYPES = {
    LONG: pa.int64(),
    STRING: pa.string(),
    DATE: pa.date32(),
    TIMESTAMP: pa.timestamp("us", tz="UTC"),
    MONEY: pa.decimal128(12, 2),
}


GUEST, ROOM, DAY = column("guest", STRING), column("room", LONG), column("arrived_on", DATE)
STAYS = silver(
    "stays",
    ("stay_id",),
    column("stay_id", LONG),
    GUEST,
    ROOM,
    DAY,
    column("arrived_at", TIMESTAMP),
    column("paid", MONEY),
    time_column="arrived_at",
)
TIERS = silver("tiers", ("guest", "since"), GUEST, column("since", DATE), column("tier", STRING))
OFFERS = silver("offers", ("arrived_on",), DAY, column("percent", LONG))
AGGREGATIONS = (Sum("spent", "paid", windows=days(7)), Latest("last_at"))


def table(*key: Column, **other: Any) -> Table:
    return feature_table(
        **{
            "name": "guests",
            "doc": "Guests",
            "owner": "tests",
            "key": key or (GUEST,),
            "events": STAYS,
            "aggregations": AGGREGATIONS,
            **other,
        }
    )


def stay(number: int, guest: str, day: int, paid: int = 1, room: int = 1) -> Row:
    at = datetime(2017, 3, day, 23, 59, 59, tzinfo=UTC)
    return {
        "stay_id": number,
        "guest": guest,
        "room": room,
        "arrived_on": at.date(),
        "arrived_at": at,
        "paid": Decimal(paid),
    }


EVENTS = (stay(1, "ada", 1), stay(2, "bob", 3, 2, room=2), stay(3, "ada", 4, 5))


def write(contract: Table, rows: list[Row], horizon: date | None = None) -> int:
    fields = [(each.name, TYPES.get(each.type, pa.decimal128(18, 2))) for each in contract.columns]
    recorded = (
        CommitProperties(custom_metadata={METADATA_KEY: CommitMetadata("run", horizon=horizon).to_json()})
        if horizon
        else None
    )
    path = str(settings.table_path(contract.qualified))
    write_deltalake(
        path, pa.Table.from_pylist(rows, schema=pa.schema(fields)), mode="overwrite", commit_properties=recorded
    )
    return DeltaTable(path).version()


def rows_of(contract: Table, events: tuple[Row, ...] = EVENTS) -> list[Row]:
    """What the table should hold, for the aggregations of AGGREGATIONS alone."""
    keys = [each.name for each in contract.aggregates.key]
    result = []
    for key in sorted({tuple(row[name] for name in keys) for row in events}):
        own = [row for row in events if tuple(row[name] for name in keys) == key]
        for at in sorted({midnight(row["arrived_on"] + timedelta(days=1 + gone)) for row in own for gone in (0, 7)}):
            known = [row for row in own if row["arrived_at"] < at]
            spent = sum((row["paid"] for row in known if row["arrived_at"] >= at - timedelta(days=7)), Decimal(0))
            result.append(
                {
                    **dict(zip(keys, key, strict=True)),
                    "event_timestamp": at,
                    "spent_7d": spent,
                    "last_at": max(row["arrived_at"] for row in known),
                }
            )
    return result


def midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def lake(contract: Table, gold: list[Row] | None = None, **inputs: Any) -> dict[str, int]:
    versions = {"silver.stays": write(STAYS, inputs.get("stays", [*EVENTS]))}
    return versions | {contract.qualified: write(contract, rows_of(contract) if gold is None else gold, HORIZON)}


@pytest.mark.parametrize(
    "key", [(GUEST,), (ROOM,), (DAY,), (GUEST, ROOM, DAY)], ids=lambda key: " ".join(each.name for each in key)
)
def test_a_right_table_has_no_differences_whatever_its_key(key: tuple[Column, ...]) -> None:
    result = verify(table(*key), lake(table(*key)), 10, seed=1)
    assert result.differences == ()
    assert result.keys == len({tuple(row[each.name] for each in key) for row in EVENTS})
    assert result.compared > 4 * result.keys


def test_a_wrong_value_is_reported_with_key_instant_and_what_it_should_be() -> None:
    rows = rows_of(table())
    wrong = [
        row | {"spent_7d": Decimal("9.00")}
        if (row["guest"], row["event_timestamp"]) == ("bob", midnight(date(2017, 3, 11)))
        else row
        for row in rows
    ]
    result = verify(table(), lake(table(), wrong), 10, seed=1)
    assert (
        Difference(("bob",), midnight(date(2017, 3, 11)), "spent_7d", Decimal(0), Decimal("9.00")) in result.differences
    )
    assert {(each.key, each.feature) for each in result.differences} == {(("bob",), "spent_7d")}


def test_a_key_that_never_decays_is_seen_on_idle_days() -> None:
    """Rows where a purchase enters and none where it leaves: the error that a comparison on days with events misses."""
    entered = [row for row in rows_of(table()) if row["event_timestamp"] <= midnight(date(2017, 3, 5))]
    result = verify(table(), lake(table(), entered), 10, seed=1)
    assert any(each.at > midnight(date(2017, 4, 1)) and each.expected == 0 for each in result.differences)
    assert all(each.at > midnight(date(2017, 3, 7)) for each in result.differences)


def test_rows_that_are_missing_or_too_many_are_reported() -> None:
    missing = [row for row in rows_of(table()) if row["guest"] != "bob"]
    result = verify(table(), lake(table(), missing), 10, seed=1)
    assert {(each.key, each.found) for each in result.differences} == {(("bob",), NO_ROW)}
    early = [row | {"event_timestamp": row["event_timestamp"] - timedelta(days=1)} for row in rows_of(table())]
    result = verify(table(), lake(table(), early), 10, seed=1)
    assert {each.key for each in result.differences if each.expected == NO_ROW} == {("ada",), ("bob",)}


def test_a_lost_event_is_seen_although_the_table_fits_what_it_was_made_from() -> None:
    result = verify(table(), lake(table(), rows_of(table(), EVENTS[:2])), 10, seed=1)
    assert {(each.key, each.feature) for each in result.differences} >= {(("ada",), "spent_7d"), (("ada",), "last_at")}


def test_pinned_versions_are_read_and_not_the_newest() -> None:
    versions = lake(table())
    lake(table(), gold=[], stays=[])
    assert verify(table(), versions, 10, seed=1).differences == ()


def test_nothing_is_asked_beyond_the_horizon() -> None:
    """A row of after it is no promise: the midnights between would be missing."""
    versions = lake(table())
    result = verify(table(), versions, 10, seed=1, until=date(2017, 3, 4))
    assert (result.differences, result.instants) == ((), 4)


def test_the_seed_decides_the_sample() -> None:
    versions = lake(table())
    assert verify(table(), versions, 1, seed=7) == verify(table(), versions, 1, seed=7)
    assert verify(table(), versions, 1, seed=7).keys == 1


def test_no_events_are_nothing_to_compare() -> None:
    result = verify(table(), lake(table(), [], stays=[]), 10, seed=1)
    assert (result.keys, result.compared, result.differences) == (0, 0, ())


class TestWhatIsJoined:
    DIMENSION = table(
        joined=(Dimension(TIERS, ("guest",), ("tier",), AsOf.EVENT, "since"),),
        aggregations=(Count("golden", where="tier = 'gold'", windows=days(7)),),
    )
    PREPARED = table(
        joined=(MappedInTime(OFFERS, ("arrived_on",)),),
        prepared=(Column("percent", LONG, "percent"),),
        aggregations=(Sum("percents", "percent", windows=days(7)),),
    )

    def test_a_dimension_is_joined_as_declared(self) -> None:
        versions = {"silver.stays": write(STAYS, [*EVENTS])}
        versions["silver.tiers"] = write(TIERS, [{"guest": "ada", "since": date(2017, 3, 2), "tier": "gold"}])
        at = [(1, 0), (4, 1), (8, 1), (11, 0)]
        gold = [
            {"guest": "ada", "event_timestamp": midnight(date(2017, 3, day + 1)), "golden_7d": count}
            for day, count in at
        ]
        gold += [
            {"guest": "bob", "event_timestamp": midnight(date(2017, 3, day + 1)), "golden_7d": 0} for day in (3, 10)
        ]
        versions["gold.guests"] = write(self.DIMENSION, gold, HORIZON)
        assert verify(self.DIMENSION, versions, 10, seed=1).differences == ()

    @pytest.fixture
    def versions(self) -> dict[str, int]:
        versions = {
            "silver.stays": write(STAYS, [*EVENTS]),
            "silver.offers": write(OFFERS, [{"arrived_on": date(2017, 3, 3), "percent": 5}]),
        }
        at = [("ada", 1, 0), ("ada", 4, 0), ("ada", 8, 0), ("ada", 11, 0), ("bob", 3, 5), ("bob", 10, 0)]
        gold = [
            {"guest": guest, "event_timestamp": midnight(date(2017, 3, day + 1)), "percents_7d": percent}
            for guest, day, percent in at
        ]
        return versions | {"gold.guests": write(self.PREPARED, gold, HORIZON)}

    def test_what_a_transform_prepares_is_said_in_sql(self, versions: dict[str, int]) -> None:
        def prepare(connection: duckdb.DuckDBPyConnection, events: str) -> duckdb.DuckDBPyRelation:
            return connection.sql(f"FROM {events} LEFT JOIN silver.offers USING (arrived_on)")

        assert verify(self.PREPARED, versions, 10, seed=1, prepared=prepare).differences == ()

    @pytest.mark.parametrize("kind", ["relation", "arrow"])
    def test_or_given_as_rows(self, versions: dict[str, int], kind: str) -> None:
        rows = pa.Table.from_pylist([row | {"percent": 5 if row["guest"] == "bob" else None} for row in EVENTS])
        assert (
            verify(
                self.PREPARED, versions, 10, seed=1, prepared=rows if kind == "arrow" else duckdb.from_arrow(rows)
            ).differences
            == ()
        )

    def test_or_missed(self, versions: dict[str, int]) -> None:
        with pytest.raises(VerifyError, match=r"a transform prepares the events of this table. Pass `prepared`"):
            verify(self.PREPARED, versions, 10, seed=1)


def test_what_cannot_be_verified_is_said() -> None:
    versions = lake(table())
    with pytest.raises(VerifyError, match=r"^silver\.stays declares no aggregations"):
        verify(STAYS, versions, 10, seed=1)
    with pytest.raises(VerifyError, match=r"^there is no version of gold\.guests"):
        verify(table(), {"silver.stays": 0}, 10, seed=1)
    with pytest.raises(VerifyError, match=r"^gold\.guests has no version 99"):
        verify(table(), versions | {"gold.guests": 99}, 10, seed=1)

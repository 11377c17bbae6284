"""Which midnights of a feature table a change of its other inputs concerns, on real small Delta tables of no shop.

What a plan names must be enough: rows computed from the old inputs and from the new ones differ at no other midnight.
"""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts import catalog
from contracts.aggregations import AsOf, Dimension, Latest, MappedInTime, Sum, days, feature_table
from contracts.interval import Interval
from contracts.model import DATE, LONG, MONEY, STRING, TIMESTAMP, Column, Load, Table
from etl import planning, table_reader
from etl.gold import aggregate, dependencies
from lake import delta, publishing, settings
from lake.delta import CommitMetadata
from tests.declared import column, silver
from tests.unit.etl.visits import of

pytestmark = pytest.mark.usefixtures("home")
Row = dict[str, Any]
LAST = date(2017, 7, 1)


GUEST = column("guest", STRING)
STAYS = silver(
    "stays",
    ("stay_id",),
    column("stay_id", LONG),
    GUEST,
    Column("hotel", LONG, "hotel"),
    column("arrived_at", TIMESTAMP),
    column("season", LONG),
    time_column="arrived_at",
)
HOTELS = silver(
    "hotels",
    ("hotel_id", "listed_on"),
    column("hotel_id", LONG),
    column("listed_on", DATE),
    Column("fee", MONEY, "fee"),
    Column("phone", STRING, "phone"),
    load=Load.SNAPSHOT,
)
TIERS = silver(
    "tiers", ("guest", "since"), GUEST, column("since", DATE), Column("tier", STRING, "tier"), time_column="since"
)
OFFERS = silver(
    "offers",
    ("season", "offered_on"),
    column("season", LONG),
    column("offered_on", DATE),
    column("percent", LONG),
    time_column="offered_on",
)
GUESTS = feature_table(
    name="guests",
    doc="Guests",
    owner="tests",
    key=(GUEST,),
    events=STAYS,
    joined=(
        Dimension(HOTELS, {"hotel": "hotel_id"}, ("fee",)),
        Dimension(TIERS, ("guest",), ("tier",), AsOf.EVENT, "since"),
        MappedInTime(OFFERS, ("season",)),
    ),
    prepared=(Column("percent", LONG, "percent"),),
    aggregations=(
        Sum("fees", "fee", windows=days(2, 7)),
        Sum("golden", "CASE WHEN tier = 'gold' THEN 1 END", type=LONG, windows=days(7)),
        Sum("percents", "percent", windows=days(7)),
    ),
)
FOREVER = feature_table(
    name="memories",
    doc="Guests",
    owner="tests",
    key=(GUEST,),
    events=STAYS,
    joined=(Dimension(HOTELS, {"hotel": "hotel_id"}, ("fee",)),),
    aggregations=(Latest("last_fee", "fee"), Sum("fees", "fee", windows=days(2))),
)
TABLES = {table.qualified: table for table in (STAYS, HOTELS, TIERS, OFFERS, GUESTS, FOREVER)}


def prepare(stays: Any, offers: Any) -> Any:
    """As a transform does: an event gets the largest percentage of its season."""
    return stays.join(
        offers.groupBy("season").agg({"percent": "max"}).withColumnRenamed("max(percent)", "percent"),
        ["season"],
        "left",
    )


@pytest.fixture(autouse=True)
def project(monkeypatch: pytest.MonkeyPatch, home: Any) -> None:
    monkeypatch.setattr(catalog, "table", TABLES.__getitem__)
    monkeypatch.setattr(planning, "code_of", lambda _: "code")
    write(
        STAYS,
        *(
            stay(n, guest, hotel, day, n)
            for n, (guest, hotel, day) in enumerate((("ada", 1, 1), ("bob", 2, 10), ("ada", 3, 20), ("cid", None, 30)))
        ),
    )
    write(HOTELS, *HOTEL_ROWS)
    write(TIERS, *TIER_ROWS)
    write(OFFERS, *OFFER_ROWS)
    for table in (GUESTS, FOREVER):
        carry_out(plan(table))


def stay(number: int, guest: str, hotel: int | None, day: int, season: int) -> Row:
    return {
        "stay_id": number,
        "guest": guest,
        "hotel": hotel,
        "arrived_at": datetime(2017, 3, day, 12, tzinfo=UTC),
        "season": season,
    }


def hotel(number: int, fee: int | None, phone: str = "1", listed: int = 1) -> Row:
    return {"hotel_id": number, "listed_on": date(2017, 1, listed), "fee": fee, "phone": phone}


def tier(guest: str, day: int, name: str) -> Row:
    return {"guest": guest, "since": date(2017, 3, day), "tier": name}


def offer(season: int, day: int, percent: int) -> Row:
    return {"season": season, "offered_on": date(2017, 3, day), "percent": percent}


HOTEL_ROWS = (hotel(1, 10), hotel(2, 20), hotel(3, 30))
TIER_ROWS = (tier("ada", 1, "gold"), tier("bob", 5, "tin"))
OFFER_ROWS = (offer(0, 1, 5), offer(1, 2, 6), offer(9, 3, 7))
ADA, BOB, LATER, CID = (of(f"2017-03-{day:02}", f"2017-03-{day + 1:02}") for day in (1, 10, 20, 30))
"""The days of the stays."""


def write(table: Table, *rows: Row, replace: Sequence[Interval] = ()) -> int:
    """Publish the rows in place of these days, or of all that there is."""
    root = settings.table_path(table.qualified) / "_stage"
    root.mkdir(parents=True, exist_ok=True)
    path = root / "rows.parquet"
    pq.write_table(pa.Table.from_pylist([*rows], schema=publishing.nullable_schema(table)), path)
    base, whole = delta.version_of(table.qualified), not replace
    changed_days = tuple(replace) or ((of("2017-03-01", "2017-04-01"),) if table.time_column else ())
    return publishing.publish(
        table,
        [path] if rows else [],
        CommitMetadata("run", changed_days=changed_days),
        base=base,
        replace=replace,
        whole=whole and base is not None,
    )


def plan(table: Table) -> planning.Plan:
    return planning.plan(table, Interval(date(2017, 3, 1), LAST))


def carry_out(planned: planning.Plan) -> None:
    state = CommitMetadata("run", planned.inputs, planned.days, planned.horizon, "code", ids=planned.ids)
    publishing.publish(planned.table, [], state, base=planned.base)


def midnights(span: Interval, reach: int = 7) -> Interval:
    """Those at which an event of this day is in a window, or was at the one before."""
    return Interval(span.start + timedelta(days=1), span.end + timedelta(days=reach + 1))


def rows(table: Table, versions: dict[str, int]) -> set[tuple]:
    """All rows of the table, of these versions of its inputs."""
    inputs = {name: table_reader.read(name, version) for name, version in versions.items()}
    result = aggregate.features(table, [of("2017-02-01", str(LAST))], inputs, prepare).toArrow().to_pylist()
    return {tuple(row.values()) for row in result}


def assert_planned(*spans: Interval, table: Table = GUESTS) -> None:
    """The plan names these midnights and no other, and rows differ at no other."""
    last = delta.last_commit(delta.open_table(table.qualified))
    planned = plan(table)
    assert last is not None
    assert (planned.whole, planned.days) == (False, spans)
    differ = {row[1].date() for row in rows(table, last.inputs) ^ rows(table, planned.inputs)}
    assert all(any(day in span for span in spans) for day in differ)
    assert bool(differ) == bool(spans)


def test_nothing_changed() -> None:
    assert plan(GUESTS).nothing_to_do


class TestADimension:
    def test_of_which_a_row_changed_concerns_the_events_of_its_key(self) -> None:
        write(HOTELS, hotel(1, 10), hotel(2, 21), hotel(3, 30))
        assert_planned(midnights(BOB))

    def test_of_which_a_row_was_added_concerns_them_where_it_is_the_newest(self) -> None:
        write(HOTELS, *HOTEL_ROWS, hotel(3, 31, listed=2))
        assert_planned(midnights(LATER))

    def test_of_which_another_row_became_the_newest_with_the_same_values(self) -> None:
        write(HOTELS, *HOTEL_ROWS, hotel(3, 31, listed=2))
        carry_out(plan(GUESTS))
        write(HOTELS, hotel(1, 10), hotel(2, 20), hotel(3, 31), hotel(3, 30, listed=2))
        assert_planned(midnights(LATER))

    def test_of_which_a_row_was_removed(self) -> None:
        write(HOTELS, hotel(1, 10), hotel(2, 20))
        assert_planned(midnights(LATER))

    def test_whose_values_became_null_and_were_before(self) -> None:
        write(HOTELS, hotel(1, None), hotel(2, 20), hotel(3, 30))
        assert_planned(midnights(ADA))
        carry_out(plan(GUESTS))
        write(HOTELS, hotel(1, 10), hotel(2, 20), hotel(3, 30))
        assert_planned(midnights(ADA))

    def test_in_a_column_that_is_not_taken_is_nothing_to_do(self) -> None:
        write(HOTELS, *(dict(row, phone="2") for row in HOTEL_ROWS))
        assert plan(GUESTS).nothing_to_do

    def test_that_was_written_again_as_it_was_is_nothing_to_do(self) -> None:
        write(HOTELS, *reversed(HOTEL_ROWS))
        assert plan(GUESTS).nothing_to_do

    def test_of_a_key_without_events_is_nothing_to_do(self) -> None:
        write(HOTELS, *HOTEL_ROWS, hotel(4, 40))
        assert plan(GUESTS).nothing_to_do

    def test_as_of_the_event_concerns_all_events_of_the_key(self) -> None:
        write(TIERS, tier("ada", 1, "gold"), tier("ada", 15, "tin"), tier("bob", 5, "tin"))
        assert_planned(midnights(ADA), midnights(LATER))

    def test_as_of_the_event_whose_row_changed_on_its_day_alone(self) -> None:
        write(TIERS, tier("bob", 5, "gold"), replace=[of("2017-03-05", "2017-03-06")])
        assert_planned(midnights(BOB))

    def test_as_of_the_event_whose_row_was_removed(self) -> None:
        write(TIERS, replace=[of("2017-03-01", "2017-03-02")])
        assert_planned(midnights(ADA), midnights(LATER))

    def test_together_with_new_events_and_another_dimension(self) -> None:
        write(HOTELS, hotel(1, 11), hotel(2, 20), hotel(3, 30))
        write(TIERS, tier("bob", 5, "gold"), replace=[of("2017-03-05", "2017-03-06")])
        write(STAYS, stay(7, "cid", 1, 30, 9), replace=[CID])
        assert_planned(midnights(ADA), midnights(BOB), midnights(CID))

    def test_of_a_newest_value_of_any_age_concerns_every_later_midnight(self) -> None:
        write(HOTELS, hotel(1, 10), hotel(2, 21), hotel(3, 30))
        assert_planned(Interval(date(2017, 3, 11), LAST + timedelta(days=1)), table=FOREVER)

    def test_whose_older_files_were_vacuumed_concerns_everything(self) -> None:
        old = {
            settings.table_path("silver.hotels") / file["path"]
            for file in delta.data_files(delta.open_table("silver.hotels"))
        }
        write(HOTELS, hotel(1, 10), hotel(2, 21), hotel(3, 30))
        for path in old:
            path.unlink()
        planned = plan(GUESTS)
        assert (planned.whole, planned.days) == (True, (of("2017-03-02", "2017-07-02"),))

    def test_that_another_wrote_to_concerns_everything(self) -> None:
        delta.open_to_write("silver.hotels").delete("hotel_id = 1")
        assert plan(GUESTS).whole

    def test_that_was_only_tidied_is_nothing_to_do(self) -> None:
        write(TIERS, tier("ada", 1, "gold"), replace=[of("2017-03-01", "2017-03-02")])
        carry_out(plan(GUESTS))
        from lake.commits.delta_rs import DeltaRs

        DeltaRs().optimize(TIERS)
        assert plan(GUESTS).nothing_to_do


class TestATableMappedInTime:
    def test_of_which_a_row_changed_concerns_the_events_with_its_values(self) -> None:
        write(OFFERS, offer(1, 2, 60), replace=[of("2017-03-02", "2017-03-03")])
        assert_planned(midnights(BOB))

    def test_of_which_a_row_was_removed(self) -> None:
        write(OFFERS, replace=[of("2017-03-02", "2017-03-03")])
        assert_planned(midnights(BOB))

    def test_of_which_a_row_was_added(self) -> None:
        write(OFFERS, offer(2, 8, 1), replace=[of("2017-03-08", "2017-03-09")])
        assert_planned(midnights(LATER))

    def test_of_values_that_no_event_has_is_nothing_to_do(self) -> None:
        write(OFFERS, offer(9, 3, 8), replace=[of("2017-03-03", "2017-03-04")])
        assert plan(GUESTS).nothing_to_do

    def test_whose_older_files_were_vacuumed_concerns_everything(self) -> None:
        old = {
            settings.table_path("silver.offers") / file["path"]
            for file in delta.data_files(delta.open_table("silver.offers"))
        }
        write(OFFERS, offer(1, 2, 60), replace=[of("2017-03-02", "2017-03-03")])
        for path in old:
            path.unlink()
        assert plan(GUESTS).whole


class TestWhatMidnightsNeed:
    def test_is_the_events_that_windows_look_back_on_and_the_mapped_rows_in_their_range(self) -> None:
        versions = {name: delta.version_of(name) or 0 for name in GUESTS.inputs}
        result = dependencies.history(GUESTS, [of("2017-03-18", "2017-03-19")], versions)
        assert {row["stay_id"] for row in result["silver.stays"].collect()} == {1}
        assert {row["season"] for row in result["silver.offers"].collect()} == {1}
        assert result["silver.hotels"].count() == 3

    def test_is_no_mapped_row_where_no_event_is(self) -> None:
        versions = {name: delta.version_of(name) or 0 for name in GUESTS.inputs}
        assert dependencies.history(GUESTS, [of("2017-02-01", "2017-02-02")], versions)["silver.offers"].count() == 0

    def test_is_the_whole_past_for_a_newest_value_of_any_age(self) -> None:
        versions = {name: delta.version_of(name) or 0 for name in FOREVER.inputs}
        result = dependencies.history(FOREVER, [of("2017-06-18", "2017-06-19")], versions)
        assert result["silver.stays"].count() == 4

"""What a declaration of features derives, and what it refuses: each sentence once, with its remedy."""

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
from contracts.model import (
    BOOLEAN,
    DATE,
    DOUBLE,
    LONG,
    MONEY,
    STRING,
    TIMESTAMP,
    Column,
    ContractError,
    Layer,
    Load,
    Severity,
    Table,
    decimal,
)

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
    return feature_table(
        **{
            "name": "guests",
            "doc": "Guests",
            "owner": "miller",
            "key": (GUEST,),
            "events": STAYS,
            "aggregations": parts,
            **other,
        }
    )


def declaration_problems(*parts: Aggregation, **other: Any) -> list[str]:
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

    @pytest.mark.parametrize(
        "part", [Latest("last", "channel"), Latest("last", where="nights > 1"), Latest("last", "paid - 1", type=MONEY)]
    )
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

    @pytest.mark.parametrize(
        ("part", "kind"),
        [
            (Count("n", windows=days(7)), LONG),
            (Distinct("n", "channel", windows=days(7)), LONG),
            (Decayed("n", windows=before_latest(7), half_life=1), LONG),
            (Sum("n", "nights", windows=days(7)), LONG),
            (Sum("n", "nights * 2", type=LONG, windows=days(7)), LONG),
            (Mean("n", "paid", windows=days(7)), DOUBLE),
            (Ratio("n", part=Sum(of="paid"), whole=Count(), windows=days(7)), DOUBLE),
            (Min("n", "paid", windows=days(7)), MONEY),
            (Max("n", "weight", windows=days(7)), DOUBLE),
            (Max("n", "is_member", windows=days(7)), BOOLEAN),
            (Latest("n"), TIMESTAMP),
            (Latest("n", "channel"), STRING),
            (First("n", "arrived_on", windows=before_latest(7)), DATE),
        ],
    )
    def test_of_each_aggregation(self, part: Aggregation, kind: Any) -> None:
        assert feature(part).type == kind

    def test_the_newest_event_of_a_stream_of_dates_is_a_date(self) -> None:
        assert declare(Latest("last"), events=replace(STAYS, time_column="arrived_on")).column("last").type == DATE


class TestTheTable:
    def test_has_a_column_per_aggregation_and_window_after_key_and_midnight(self) -> None:
        table = declare(
            replace(SPENT, windows=days(30, 7)),
            Count("stays", windows=(*days(7), *before_latest(365))),
            Latest("last_at"),
        )
        assert table.column_names == (
            "guest",
            "event_timestamp",
            "spent_30d",
            "spent_7d",
            "stays_7d",
            "stays",
            "last_at",
        )
        assert (table.key, table.time_column, table.inputs) == (
            ("guest", "event_timestamp"),
            "event_timestamp",
            ("silver.stays",),
        )

    def test_names_each_input_once(self) -> None:
        twice = (TIER, Dimension(TIERS, {"room": "number"}, ("since",)))
        assert declare(SPENT, joined=twice).inputs == ("silver.stays", "silver.tiers")

    def test_a_window_may_stand_alone(self) -> None:
        assert (
            "items_180d" not in declare(replace(SPENT, windows=days(180)), Count("items", windows=days(7))).column_names
        )

    def test_says_what_a_feature_means_in_its_own_words_or_in_derived_ones(self) -> None:
        assert feature(SPENT).doc == "Sum of paid in the last 7 days"
        assert feature(replace(SPENT, doc="Revenue", where="nights > 1")).doc == "Revenue in the last 7 days"
        assert (
            feature(Count("n", where="nights > 1", windows=days(1))).doc == "Events where nights > 1 in the last 1 day"
        )
        assert feature(Latest("n")).doc == "Newest arrived_at before event_timestamp, of any age"
        assert (
            feature(First("n", windows=before_latest(3))).doc
            == "Oldest arrived_at in the 3 days that end with the day of the newest event"
        )

    def test_windows_of_hours_and_minutes_may_make_whole_days(self) -> None:
        assert declare(replace(SPENT, windows=(*hours(24), *minutes(2880)))).column_names[2:] == (
            "spent_24h",
            "spent_2880m",
        )


class TestBounds:
    def test_sums_and_counts_of_what_is_never_negative_are_never_negative(self) -> None:
        assert [
            feature(part).minimum for part in (SPENT, replace(SPENT, of="paid + paid"), Count("n", windows=days(7)))
        ] == [0, 0, 0]
        assert feature(replace(SPENT, of="bonus"), joined=(TIER,)).minimum == 0

    @pytest.mark.parametrize("of", ["refund", "paid + refund", "paid - paid", "-paid", "abs(paid)"])
    def test_any_other_sum_has_none(self, of: str) -> None:
        assert feature(replace(SPENT, of=of, type=MONEY)).minimum is None

    def test_a_value_keeps_those_of_its_column(self) -> None:
        for part in (
            Min("n", "paid", windows=days(7)),
            Max("n", "paid", windows=days(7)),
            Latest("n", "paid"),
            First("n", "paid", windows=days(7)),
        ):
            column = feature(part)
            assert (column.minimum, column.maximum, column.unit) == (0, 900, "USD")
        assert (feature(SPENT).maximum, feature(SPENT).unit) == (None, "USD")
        assert feature(Distinct("n", "paid", windows=days(7))).unit is None

    def test_declared_ones_win(self) -> None:
        column = feature(replace(SPENT, minimum=-5, maximum=5, unit="EUR"))
        assert (column.minimum, column.maximum, column.unit) == (-5, 5, "EUR")

    @pytest.mark.parametrize(
        "part",
        [
            SPENT,
            Ratio("n", part=Count(), whole=Count(), windows=days(7)),
            Latest("n"),
            Latest("n", "paid"),
            First("n", windows=before_latest(7)),
            Decayed("n", windows=before_latest(7), half_life=1),
        ],
    )
    def test_what_always_has_a_value_is_required(self, part: Aggregation) -> None:
        assert feature(part).required

    @pytest.mark.parametrize(
        "part",
        [
            Ratio("n", part=Count(), whole=Count(), windows=days(7), empty=None),
            Latest("n", "channel"),
            Latest("n", where="nights > 1"),
            Latest("n", windows=days(7)),
            Latest("n", "tier"),
            First("n", windows=days(7)),
            First("n", "channel", windows=before_latest(7)),
            Min("n", "paid", windows=days(7)),
            Max("n", "paid", windows=days(7)),
            Mean("n", "paid", windows=days(7)),
        ],
    )
    def test_what_may_have_none_is_not(self, part: Aggregation) -> None:
        assert not feature(part, joined=(TIER,)).required

    def test_weights_are_rounded_half_up_as_engines_do(self) -> None:
        weights = Decayed("n", windows=before_latest(30), half_life=1).weights(23)
        assert (weights[0], weights[20], weights[21], weights[22]) == (2**20, 1, 1, 0)


class TestRules:
    def test_windows_nest_where_nothing_is_negative(self) -> None:
        parts = (
            replace(SPENT, windows=days(30, 7, 90)),
            Sum("back", "refund", windows=days(7, 30)),
            Distinct("rooms", "room", windows=days(1, 2)),
            Count("stays", windows=(*days(7), *before_latest(30))),
            Mean("mean", "paid", windows=days(7, 30)),
        )
        rules = {rule.name: rule.sql for rule in declare(*parts).rules}
        assert rules["windows_nest"] == "spent_7d <= spent_30d AND spent_30d <= spent_90d AND rooms_1d <= rooms_2d"

    def test_what_is_newest_or_oldest_is_past(self) -> None:
        parts = (
            Latest("last"),
            First("first", "arrived_at", windows=days(7)),
            Latest("channel", "channel"),
            Latest("day", "arrived_on"),
        )
        assert {rule.name for rule in declare(*parts).rules} == {"at_midnight", "last_is_past", "first_7d_is_past"}


NOTHING_BY = replace(TIER, on=())
REFUSED: dict[str, tuple[tuple[Aggregation, ...], dict[str, Any], str]] = {
    "no time": (
        (SPENT,),
        {"events": replace(STAYS, time_column=None)},
        "silver.stays has no time_column that says when an event happened. Declare one there, a timestamp or a date",
    ),
    "no instant": (
        (SPENT,),
        {"events": replace(STAYS, time_column="nights")},
        "silver.stays has no time_column that says when an event happened. Declare one there",
    ),
    "no key": (
        (SPENT,),
        {"key": ()},
        "a feature table needs a key: the columns of the events whose values it speaks about",
    ),
    "a key that is no column": (
        (SPENT,),
        {"key": (replace(GUEST, name="gast"),)},
        "the key gast is not a column of silver.stays; it has stay_id, guest, room",
    ),
    "a key of two types": (
        (SPENT,),
        {"key": (replace(GUEST, type=LONG),)},
        "the key guest is bigint, and string in silver.stays. Declare one type",
    ),
    "a key that is none": (
        (SPENT,),
        {"key": (STAYS.column("weight"),)},
        "the key weight is double, and a key is bigint, string or date. Make it one of them in silver",
    ),
    "a dimension by nothing": (
        (SPENT,),
        {"joined": (NOTHING_BY,)},
        "silver.tiers is joined by nothing. Name the columns that its rows and the events share",
    ),
    "a mapping by nothing": (
        (SPENT,),
        {"joined": (MappedInTime(TIERS, ()),)},
        "silver.tiers is joined by nothing. Name the columns",
    ),
    "as of an event without a date": (
        (SPENT,),
        {"joined": (replace(TIER, as_of=AsOf.EVENT),)},
        (
            "silver.tiers is joined as of the event: name the column since when a row is valid in `valid_from` for"
            " AsOf.EVENT, and only then"
        ),
    ),
    "newest with a date": (
        (SPENT,),
        {"joined": (replace(TIER, valid_from="since"),)},
        "silver.tiers is joined as of the newest: name the column",
    ),
    "a date that is none": (
        (SPENT,),
        {"joined": (replace(TIER, as_of=AsOf.EVENT, valid_from="tier"),)},
        "silver.tiers: valid_from=tier is string, and says since when a row is valid. Name a timestamp or a date",
    ),
    "a column that events have": (
        (SPENT,),
        {"joined": (replace(TIER, take=("channel",)),)},
        "silver.tiers adds channel, which silver.stays also has. Rename it in silver",
    ),
    "a column that another brings": (
        (SPENT,),
        {"joined": (TIER, Dimension(TIERS, {"room": "number"}, ("tier",)))},
        "silver.tiers adds tier, which silver.tiers also has. Rename it in silver",
    ),
    "joined by no column": (
        (SPENT,),
        {"joined": (replace(TIER, on={"gast": "guest_id"}),)},
        "silver.tiers is joined by gast, which is not a column of silver.stays",
    ),
    "joined to no column": (
        (SPENT,),
        {"joined": (replace(TIER, on=("guest",)),)},
        "silver.tiers has no column guest; it has guest_id, number, since",
    ),
    "no such column to take": (
        (SPENT,),
        {"joined": (replace(TIER, take=("rank",)),)},
        "silver.tiers has no column rank; it has guest_id",
    ),
    "joined by two types": (
        (SPENT,),
        {"joined": (replace(TIER, on={"guest": "number"}),)},
        (
            "silver.tiers is joined by number, which is bigint, and guest of silver.stays is string. Make them one type"
            " in silver"
        ),
    ),
    "a prepared column that is there": (
        (SPENT,),
        {"prepared": (Column("tier", STRING, "Tier"),), "joined": (TIER,)},
        "the transform adds tier, which silver.tiers also has. Rename the prepared column",
    ),
    "two features of a name": (
        (SPENT, replace(SPENT, of="refund")),
        {},
        "two features are called spent_7d. Rename one of the aggregations",
    ),
    "a window twice": (
        (replace(SPENT, windows=days(7, 7)),),
        {},
        "two features are called spent_7d. Rename one of the aggregations",
    ),
    "no name": (
        (replace(SPENT, name="Spent"),),
        {},
        "Sum('Spent'): a name is lower case letters, digits and underscores, such as spend",
    ),
    "no windows": ((replace(SPENT, windows=()),), {}, "spent: declare its windows, such as windows=days(7, 30)"),
    "a sum before the newest": (
        (replace(SPENT, windows=before_latest(7)),),
        {},
        "spent: before_latest is for Count, First and Decayed",
    ),
    "hours": (
        (replace(SPENT, windows=hours(36)),),
        {},
        "spent: a window of 36 hours needs values between midnights. Give whole days, or the table at=At.INSTANTS",
    ),
    "decay over a window": (
        (Decayed("n", windows=days(7), half_life=1),),
        {},
        "n: Decayed counts back from the newest event. Give windows=before_latest(365)",
    ),
    "two memories": (
        (Count("n", windows=(*before_latest(7), *before_latest(8))),),
        {},
        "n: one before_latest gives one feature of this name. Declare another aggregation for the other",
    ),
    "no half-life": (
        (Decayed("n", windows=before_latest(7)),),
        {},
        "n: give half_life, the days after which an event counts half",
    ),
    "a ratio of maxima": (
        (Ratio("n", part=Max(of="paid"), whole=Count(), windows=days(7)),),
        {},
        "n: a ratio is of a Sum, Count or Distinct, not of a Max",
    ),
    "a ratio with a window in it": (
        (Ratio("n", part=Count(windows=days(1)), windows=days(7)),),
        {},
        "n: the parts of a ratio have its windows, and no name: Sum(of=...), Count(where=...)",
    ),
    "a ratio with a filter": (
        (Ratio("n", where="nights > 1", windows=days(7)),),
        {},
        "n: a ratio has no `of`, `where` or `type` of its own. Give them to its part and its whole",
    ),
    "a sum of nothing": ((replace(SPENT, of=""),), {}, "spent: name a column of the events in `of`"),
    "a sum of an unknown column": (
        (replace(SPENT, of="payed"),),
        {},
        (
            "spent: declare the type of 'payed' in `type`, such as type=MONEY. It is derived only where columns"
            " of one type are added up"
        ),
    ),
    "a sum of two types": (
        (replace(SPENT, of="paid + nights"),),
        {},
        "spent: declare the type of 'paid + nights' in `type`, such as type=MONEY",
    ),
    "a sum of doubles": (
        (replace(SPENT, of="weight"),),
        {},
        (
            "spent: a sum of double depends on the order of its terms, so training and serving would differ. Make the"
            " column a decimal or a bigint in silver, or give `type`"
        ),
    ),
    "a mean of doubles": (
        (Mean("n", "weight", windows=days(7)),),
        {},
        "n: a sum of double depends on the order of its terms",
    ),
}


@pytest.mark.parametrize("why", REFUSED)
def test_a_declaration_is_refused_with_its_remedy(why: str) -> None:
    parts, other, sentence = REFUSED[why]
    assert any(message.startswith(sentence) for message in declaration_problems(*parts, **other)), declaration_problems(
        *parts, **other
    )
    with pytest.raises(ContractError, match=r"^gold\.guests: "):
        declare(*parts, **other)


def test_a_right_declaration_has_no_problems() -> None:
    everything = (
        SPENT,
        Count("n", where="tier = 'gold'", windows=days(1)),
        Ratio("share", part=Sum(of="bonus"), whole=Sum(of="paid"), windows=days(180)),
        Latest("last"),
        Latest("last_tier", "tier"),
    )
    assert (
        declaration_problems(
            *everything, joined=(TIER, MappedInTime(STAYS, ("room",))), prepared=(Column("shown", LONG, "Shown"),)
        )
        == []
    )


@pytest.mark.parametrize("make", [days, hours, minutes])
def test_a_window_that_holds_nothing_is_refused(make: Any) -> None:
    for counts in ((), (0,), (7, -1)):
        with pytest.raises(ContractError, match=r"hold nothing\. Give 1 or more"):
            make(*counts)
    with pytest.raises(ContractError, match=r"a window of 0 days holds nothing\. Give 1 or more"):
        before_latest(0)


# --- inputs that would go stale, and bounds that nobody promised


def _silver(**other: Any) -> Table:
    columns = (
        Column("id", LONG, "id", required=True),
        Column("who", STRING, "who", required=True),
        Column("at", TIMESTAMP, "at", required=True),
        Column("amount", MONEY, "amount", required=True, minimum=0, severity=Severity.WARNING),
    )
    return Table(
        Layer.SILVER,
        "moves",
        "moves",
        "one row per move",
        "tests",
        timedelta(days=1),
        columns,
        **{"key": ("id",), "time_column": "at", **other},
    )


def _features(events: Table, **other: Any) -> Table:
    return feature_table(
        name="movers",
        doc="movers",
        owner="tests",
        key=(events.column("who"),),
        events=events,
        aggregations=(Sum("moved", "amount", windows=days(7, 30)),),
        **other,
    )


def test_events_that_are_replaced_whole_are_refused() -> None:
    """Their commits name no days, so gold would never follow."""
    with pytest.raises(
        ContractError,
        match=(
            r"silver\.moves is a SNAPSHOT, which is replaced whole, and events add up\. Let it load EVENTS, or join it"
            r" as a Dimension"
        ),
    ):
        _features(_silver(load=Load.SNAPSHOT))


def test_a_dimension_without_a_key_is_refused() -> None:
    with pytest.raises(ContractError, match=r"silver\.moves has no key, so an event could meet several of its rows"):
        _features(_silver(), joined=(Dimension(_silver(key=()), on=("who",), take=("amount",)),))


def test_a_bound_that_only_warns_is_no_bound_of_a_sum() -> None:
    """Else a row that silver let through would send right features to quarantine."""
    table = _features(_silver())
    assert (table.column("moved_7d").minimum, [rule.name for rule in table.rules]) == (None, ["at_midnight"])

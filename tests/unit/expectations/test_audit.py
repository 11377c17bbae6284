"""Great Expectations' verdict on hostile rows is that of a count by hand, and each row goes where its own broken checks
send it.
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from contracts.model import (
    DATE,
    DOUBLE,
    LONG,
    STRING,
    TIMESTAMP,
    Column,
    DecimalType,
    Layer,
    Reference,
    Rule,
    Severity,
    Table,
)
from contracts.report import CheckResult
from etl import engine
from expectations.audit import Audit, AuditError, audit
from expectations.suite import Facts
from lake.publishing import arrow_type
from tests import cinema

Row = dict[str, Any]
FEW_BATCHES = settings(
    max_examples=4, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=[*HealthCheck]
)
MIDNIGHT = datetime(2017, 3, 2, tzinfo=UTC)

# One contract of each layer, between them with every kind of check. A reference is critical nowhere in the cinema, and
# no table has a rule over two dates or a reference of two columns, so the test makes some.
TICKETS = cinema.table("bronze.tickets")
SHOWCASES = replace(
    cinema.table("silver.showcases"),
    references=(Reference(("movie_id",), "silver.movies", ("movie_id",), Severity.CRITICAL),),
)
ACTIVITY = cinema.table("gold.guest_activity")
GUEST_ID = cinema.table("silver.guests").column("guest_id")
CAMPAIGN_ID = Column("campaign_id", LONG, "Campaign", required=True, minimum=1)
TYPES = ("Type A", "Type B")
CAMPAIGNS = Table(
    layer=Layer.SILVER,
    name="campaigns",
    doc="Guests addressed by a campaign, and when it ran",
    grain="one row per campaign and guest",
    owner="marketing",
    freshness=timedelta(days=400),
    key=("campaign_id", "guest_id"),
    columns=(
        CAMPAIGN_ID,
        GUEST_ID,
        Column("campaign_type", STRING, "Type of campaign", allowed=TYPES, severity=Severity.WARNING),
        Column("start_date", DATE, "First day"),
        Column("end_date", DATE, "Last day"),
    ),
    rules=(
        Rule("ends_after_start", "start_date <= end_date", "the campaign ends before it starts"),
        Rule("described", "campaign_type IS NOT NULL", "the campaign has no description", Severity.WARNING),
    ),
)
VOUCHERS = Table(
    layer=Layer.SILVER,
    name="vouchers",
    doc="Vouchers handed in",
    grain="one row per guest, voucher, campaign and day",
    owner="marketing",
    freshness=timedelta(days=1),
    key=("guest_id", "voucher_id", "campaign_id", "used_date"),
    columns=(
        GUEST_ID,
        Column("voucher_id", LONG, "Voucher", required=True, minimum=1),
        CAMPAIGN_ID,
        Column("used_date", DATE, "Day on which it was used", required=True),
    ),
    references=(
        Reference(("voucher_id", "campaign_id"), "silver.offers", ("voucher_id", "campaign_id")),
        Reference(("campaign_id", "guest_id"), "silver.campaigns", ("campaign_id", "guest_id")),
    ),
)
KNOWN: dict[str, list[Row]] = {
    "movie_id_in_silver_movies": [{"movie_id": n} for n in (1, 2, 2)],
    "voucher_id_campaign_id_in_silver_offers": [
        {"voucher_id": 100, "campaign_id": 1},
        {"voucher_id": 200, "campaign_id": 2},
    ],
    "campaign_id_guest_id_in_silver_campaigns": [{"campaign_id": 1, "guest_id": 7}],
}


# --- by hand


RULES: dict[str, tuple[tuple[str, ...], Callable[[Row], bool]]] = {
    "not_after_landing": (
        ("sold_time", "_landed_date"),
        lambda row: row["sold_time"].date() <= row["_landed_date"],
    ),
    "ends_after_start": (("start_date", "end_date"), lambda row: row["start_date"] <= row["end_date"]),
    "described": ((), lambda row: row["campaign_type"] is not None),
    "at_midnight": (("event_timestamp",), lambda row: row["event_timestamp"].time() == datetime.min.time()),
    "last_booked_at_is_past": (
        ("last_booked_at", "event_timestamp"),
        lambda row: row["last_booked_at"] < row["event_timestamp"],
    ),
}


def _nests(row: Row) -> bool:
    """SQL's AND: false if any part is false, whatever else is NULL."""
    pairs = [
        (f"{name}_{low}d", f"{name}_{high}d")
        for name in ("bookings", "paid", "seats")
        for low, high in ((7, 30), (30, 90))
    ]
    return not any(row[low] is not None and row[high] is not None and row[low] > row[high] for low, high in pairs)


def keeps_rule(row: Row, name: str) -> bool:
    if name == "windows_nest":
        return _nests(row)
    needed, kept = RULES[name]
    return any(row[column] is None for column in needed) or kept(row)


def broken_by(table: Table, row: Row) -> dict[str, tuple[str, str]]:
    """Name of each check that the row breaks -> severity and reason."""
    results: dict[str, tuple[str, str]] = {}
    for column in table.columns:
        value, name = row[column.name], column.name
        if column.required and value is None:
            unfit = f", or does not fit {column.type.spark}" if column.type.spark.startswith("decimal") else ""
            results[f"{name}_present"] = ("critical", f"{name} is missing{unfit}")
        if value is None:
            continue
        low = -math.inf if column.minimum is None else column.minimum
        high = math.inf if column.maximum is None else column.maximum
        if (column.minimum is not None or column.maximum is not None) and not low <= value <= high:
            result = (
                f"is not between {low} and {high}"
                if math.inf not in (-low, high)
                else f"is below {low}"
                if high == math.inf
                else f"is above {high}"
            )
            results[f"{name}_range"] = (column.severity, f"{name} {result}")
        if column.allowed and value not in column.allowed:
            results[f"{name}_allowed"] = (column.severity, f"{name} is not one of {', '.join(column.allowed)}")
        if column.pattern and not re.fullmatch(column.pattern, value):
            results[f"{name}_pattern"] = (column.severity, f"{name} does not look like {column.pattern}")
    results |= {rule.name: (rule.severity, rule.reason) for rule in table.rules if not keeps_rule(row, rule.name)}
    for reference in table.references:
        known = [tuple(other[name] for name in reference.to_columns) for other in KNOWN[reference.name]]
        mine = tuple(row[name] for name in reference.columns)
        if None not in mine and mine not in known:
            results[reference.name] = (reference.severity, f"{', '.join(reference.columns)} is not in {reference.to}")
    return results


# --- hostile rows

EDGES: dict[Any, list[Any]] = {
    LONG: [-1, 0, 1, 2, 3, 7, 100, 200, -(2**63), 2**63 - 1],
    DOUBLE: [-0.0, 0.0, 0.5, 1.0, 1.0000000000000002, -5e-324, math.nan, math.inf, -math.inf],
    STRING: ["", "0", "A", "a", "Z", "AA", "A\n", "Type A", "Type A ", "type a", "Ä", "'", "0\x00"],
    DATE: [date(2017, 2, 28), date(2017, 3, 1), date(1970, 1, 1)],
    TIMESTAMP: [
        MIDNIGHT,
        MIDNIGHT - timedelta(microseconds=1),
        MIDNIGHT + timedelta(microseconds=1),
        datetime(1969, 12, 31, tzinfo=UTC),
    ],
}


def cell(column: Column) -> st.SearchStrategy[Any]:
    edges = (
        [Decimal("-0.01"), Decimal("0.00"), Decimal("0.01"), Decimal("9999999.99")]
        if isinstance(column.type, DecimalType)
        else EDGES[column.type]
    )
    return st.sampled_from([*edges, *column.allowed]) | st.none()


def valid(table: Table) -> Row:
    """A row that keeps every promise, in which a few cells are then made hostile."""
    known = {LONG: 1, DOUBLE: 0.5, STRING: "A", DATE: date(2017, 3, 1), TIMESTAMP: MIDNIGHT - timedelta(days=1)}
    row = {
        column.name: (
            column.allowed[0]
            if column.allowed
            else Decimal("1.00")
            if isinstance(column.type, DecimalType)
            else known[column.type]
        )
        for column in table.columns
    }
    overrides = {"event_timestamp": MIDNIGHT, "voucher_id": 100, "guest_id": 7}
    return row | {name: value for name, value in overrides.items() if name in row}


def hostile(table: Table) -> st.SearchStrategy[list[Row]]:
    change = st.one_of([st.tuples(st.just(column.name), cell(column)) for column in table.columns])
    row = st.lists(change, max_size=3).map(lambda changes: valid(table) | dict(changes))
    return st.lists(
        row | st.fixed_dictionaries({column.name: cell(column) for column in table.columns}), min_size=25, max_size=40
    )


def frame(schema: pa.Schema, rows: list[Row]) -> Any:
    return engine.session().createDataFrame(pa.Table.from_pylist(rows, schema=schema))


def judged(table: Table, rows: list[Row], keys: int | None = None) -> Audit:
    schema = pa.schema([(column.name, arrow_type(column.type)) for column in table.columns])
    references = {}
    for reference in table.references:
        references[reference.name] = frame(
            pa.schema([(name, pa.int64()) for name in reference.to_columns]), KNOWN[reference.name]
        )
    return audit(table, frame(schema, rows), references, Facts(keys, len(rows)))


def counted(rows: list[Row]) -> Counter:
    """Rows as they print, so that NaN is itself and -0.0 is not 0.0."""
    return Counter(
        repr(
            sorted(
                (name, value.astimezone(UTC) if isinstance(value, datetime) else value) for name, value in row.items()
            )
        )
        for row in rows
    )


def test_a_valid_row_of_each_contract_breaks_nothing() -> None:
    for table in (TICKETS, SHOWCASES, CAMPAIGNS, VOUCHERS, ACTIVITY):
        verdict = judged(table, [valid(table)], keys=1)
        assert [check.check for check in verdict.checks if not check.success] == []
        assert (verdict.good, verdict.bad, verdict.bad_rows) == (None, None, 0)


@pytest.mark.parametrize(
    "table", [TICKETS, SHOWCASES, CAMPAIGNS, VOUCHERS, ACTIVITY], ids=lambda table: table.qualified
)
def test_verdict_counts_and_reasons_are_those_of_a_count_by_hand(table: Table) -> None:
    @FEW_BATCHES
    @given(hostile(table))
    def check(rows: list[Row]) -> None:
        verdict = judged(table, rows)
        by_hand = [broken_by(table, row) for row in rows]
        failed = Counter(name for broken in by_hand for name in broken)
        row_level = [check for check in verdict.checks if check.check in verdict.row_level]
        assert {check.check: check.failed for check in row_level if not check.success} == failed
        assert {check.check for check in row_level} == {
            *(check.name for check in table.checks()),
            *(reference.name for reference in table.references),
        }
        assert {check.check: (check.severity, check.reason) for check in row_level if not check.success} == {
            n: message for broken in by_hand for n, message in broken.items()
        }
        _split_is_right(verdict, rows, by_hand)

    check()


def _split_is_right(verdict: Audit, rows: list[Row], by_hand: list[dict[str, tuple[str, str]]]) -> None:
    reasons = [[reason for severity, reason in broken.values() if severity == "critical"] for broken in by_hand]
    assert verdict.bad_rows == sum(1 for broken in reasons if broken)
    if not verdict.bad_rows:
        assert verdict.good is verdict.bad is None
        return
    good, bad = verdict.good.toArrow().to_pylist(), verdict.bad.toArrow().to_pylist()
    assert counted(good) == counted([row for row, why in zip(rows, reasons, strict=True) if not why])
    result = [row | {"reasons": sorted(row["reasons"])} for row in bad]
    assert counted(result) == counted(
        [row | {"reasons": sorted(why)} for row, why in zip(rows, reasons, strict=True) if why]
    )


# --- each kind of check, one case


@pytest.mark.parametrize(
    ("table", "change", "check"),
    [
        (TICKETS, {"seats": None}, "seats_present"),
        (ACTIVITY, {"seats_7d": -1}, "seats_7d_range"),
        (ACTIVITY, {"saved_share_30d": 1.0000000000000002}, "saved_share_30d_range"),
        (ACTIVITY, {"saved_share_30d": math.nan}, "saved_share_30d_range"),
        (SHOWCASES, {"poster_slot": "AA"}, "poster_slot_pattern"),
        (ACTIVITY, {"bookings_7d": 9}, "windows_nest"),
        (ACTIVITY, {"event_timestamp": MIDNIGHT + timedelta(microseconds=1)}, "at_midnight"),
        (SHOWCASES, {"movie_id": 3}, "movie_id_in_silver_movies"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_row_that_breaks_a_critical_check_is_split_off(table: Table, change: Row, check: str) -> None:
    verdict = judged(table, [valid(table), valid(table) | change])
    assert [(check.check, check.failed) for check in verdict.checks if not check.success] == [(check, 1)]
    assert (verdict.bad_rows, verdict.good.count()) == (1, 1)


@pytest.mark.parametrize(
    ("table", "change", "check"),
    [
        (CAMPAIGNS, {"campaign_type": "Type D"}, "campaign_type_allowed"),
        (CAMPAIGNS, {"campaign_type": None}, "described"),
        (VOUCHERS, {"campaign_id": 2}, "voucher_id_campaign_id_in_silver_offers"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_warning_is_counted_and_never_quarantines(table: Table, change: Row, check: str) -> None:
    verdict = judged(table, [valid(table), valid(table) | change])
    assert (check, Severity.WARNING, False, 1) in [
        (check.check, check.severity, check.success, check.failed) for check in verdict.checks
    ]
    assert (verdict.good, verdict.bad, verdict.bad_rows) == (None, None, 0)
    verdict.stop_if_critical(2)


def test_a_reference_with_a_null_in_it_refers_to_nothing_and_breaks_nothing() -> None:
    verdict = judged(
        VOUCHERS,
        [
            valid(VOUCHERS) | {"voucher_id": None},
            valid(VOUCHERS) | {"voucher_id": None, "campaign_id": 99, "guest_id": None},
        ],
    )
    assert [check.check for check in verdict.checks if not check.success] == ["guest_id_present", "voucher_id_present"]


def test_a_rule_over_a_null_is_kept() -> None:
    verdict = judged(CAMPAIGNS, [valid(CAMPAIGNS) | {"start_date": None}, valid(CAMPAIGNS) | {"end_date": None}])
    assert [check.check for check in verdict.checks if not check.success] == []


def test_a_row_is_not_doubled_by_a_table_that_lists_its_reference_twice() -> None:
    verdict = judged(SHOWCASES, [valid(SHOWCASES) | {"movie_id": 2}, valid(SHOWCASES) | {"movie_id": None}])
    assert (verdict.good.count(), verdict.bad.count()) == (1, 1)


def test_a_row_that_breaks_several_checks_carries_every_critical_reason_and_no_warning() -> None:
    row = valid(CAMPAIGNS) | {
        "campaign_id": 0,
        "guest_id": None,
        "campaign_type": "Type D",
        "start_date": date(2017, 3, 2),
    }
    assert judged(CAMPAIGNS, [row]).bad.toArrow().to_pylist() == [
        row | {"reasons": ["campaign_id is below 1", "guest_id is missing", "the campaign ends before it starts"]}
    ]


# --- the table as a whole


def test_a_doubled_key_stops_the_table() -> None:
    verdict = judged(CAMPAIGNS, [valid(CAMPAIGNS)] * 3, keys=1)
    (check,) = [check for check in verdict.checks if not check.success]
    assert (check.check, check.reason) == ("key_unique", "campaign_id, guest_id is not unique")
    with pytest.raises(
        AuditError, match=r"^silver\.campaigns: campaign_id, guest_id is not unique\. Nothing was published\."
    ):
        verdict.stop_if_critical(3)


def test_no_row_left_although_rows_came_in_stops_the_table() -> None:
    nothing = engine.empty(", ".join(f"{column.name} {column.type.spark}" for column in CAMPAIGNS.columns))
    with pytest.raises(AuditError, match=r"^silver\.campaigns: no row is left although rows came in\. Nothing"):
        audit(CAMPAIGNS, nothing, {}, Facts(0, 5)).stop_if_critical(0)
    audit(CAMPAIGNS, nothing, {}, Facts(0, 0)).stop_if_critical(0)


def test_another_set_of_columns_stops_the_table() -> None:
    schema = pa.schema(
        [(column.name, arrow_type(column.type)) for column in CAMPAIGNS.columns] + [("colour", pa.string())]
    )
    with pytest.raises(AuditError, match=r"^silver\.campaigns: the columns are not those of the contract"):
        audit(CAMPAIGNS, frame(schema, [valid(CAMPAIGNS)]), {}, Facts(1, 1)).stop_if_critical(1)


def test_a_check_that_cannot_be_run_is_reported_not_passed() -> None:
    column = replace(CAMPAIGNS.column("campaign_type"), allowed=(), pattern="[")
    typo = replace(CAMPAIGNS, columns=(CAMPAIGNS.column("campaign_id"), column), key=(), rules=())
    with pytest.raises(AuditError, match=r"^silver\.campaigns: the check campaign_type_pattern could not be run: .+"):
        audit(
            typo,
            frame(
                pa.schema([("campaign_id", pa.int64()), ("campaign_type", pa.string())]),
                [{"campaign_id": 1, "campaign_type": "5"}],
            ),
            {},
            Facts(1, 1),
        )


# --- too many bad rows

BELOW = CheckResult("campaign_id_range", "campaign_id", Severity.CRITICAL, False, "campaign_id is below 1", 11)


def with_bad(bad: int) -> Audit:
    """A verdict of so many bad rows; at most 5 % may be."""
    return Audit(CAMPAIGNS, (replace(BELOW, failed=bad),), None, bad_rows=bad, row_level=frozenset({BELOW.check}))


@pytest.mark.parametrize(("rows", "bad", "rejected"), [(219, 11, 0), (209, 1, 10), (11, 11, 0), (0, 0, 11)])
def test_too_many_bad_rows_stop_the_table(rows: int, bad: int, rejected: int) -> None:
    with pytest.raises(
        AuditError,
        match=(
            r"^silver\.campaigns: 11 of .* rows \(.*%\) must go to quarantine .* and at most 5% may\. Nothing was"
            r" published\."
        ),
    ):
        with_bad(bad).stop_if_critical(rows, rejected)


@pytest.mark.parametrize(
    ("rows", "bad", "rejected"), [(10, 10, 0), (1, 1, 0), (0, 0, 10), (5, 5, 5), (220, 11, 0), (209, 0, 11), (0, 0, 0)]
)
def test_few_bad_rows_or_a_small_share_of_them_go_on(rows: int, bad: int, rejected: int) -> None:
    with_bad(bad).stop_if_critical(rows, rejected)


def test_what_stops_a_table_is_reported_with_counts_and_remedy() -> None:
    with pytest.raises(AuditError) as caught:
        with_bad(1500).stop_if_critical(2000, 23)
    assert (
        str(caught.value)
        == "silver.campaigns: 1,523 of 2,023 rows (75.3%) must go to quarantine (campaign_id is below 1: 1,500, a cell"
        " does not fit its column: 23), and at most 5% may. Nothing was published. Correct the landed files, or raise"
        " max_quarantine_share in contracts/silver/campaigns.py"
    )


def test_the_share_that_may_be_bad_is_the_contracts() -> None:
    for bad in (11, 1):
        strict = replace(with_bad(bad), table=replace(CAMPAIGNS, max_quarantine_share=0.0))
        with pytest.raises(AuditError, match=r"at most 0% may.*correct what computes them"):
            strict.stop_if_critical(10**6)
    replace(with_bad(11), table=replace(CAMPAIGNS, max_quarantine_share=1.0)).stop_if_critical(11)


# --- suites


@pytest.mark.parametrize("table", [*cinema.tables(), CAMPAIGNS, VOUCHERS], ids=lambda table: table.qualified)
def test_a_suite_has_an_expectation_for_every_promise_and_none_besides(table: Table) -> None:
    from expectations.suite import expectations_of

    names = [name for _, name in expectations_of(table, Facts(1, 1))]
    promised = [
        *(check.name for check in table.checks()),
        *(reference.name for reference in table.references),
        "columns",
        "row_count",
        *(["key_unique"] * bool(table.key)),
    ]
    assert names == promised
    severities = {check.name: str(check.severity) for check in (*table.checks(), *table.references)}
    assert {
        name: str(getattr(expectation.severity, "value", expectation.severity))
        for expectation, name in expectations_of(table, Facts(1, 1))
        if name in severities
    } == severities


def test_a_rule_is_never_forgotten_by_hand() -> None:
    assert {rule.name for table in (TICKETS, CAMPAIGNS, ACTIVITY) for rule in table.rules} == {*RULES, "windows_nest"}

"""A report survives JSON as it is, and an account that does not add up is refused."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.model import Severity
from contracts.report import AccountError, CheckResult, RowAccount, TableReport

KEPT = CheckResult("seats_present", "seats", Severity.CRITICAL, True, "seats is missing", 0)
WARNED = CheckResult("seats_positive", None, Severity.WARNING, False, "seats is 0", 8869)
WHOLE = CheckResult("row_count", None, Severity.CRITICAL, True, "no row is left although rows came in")
FULL = TableReport(
    table="silver.tickets",
    status="published",
    version=7,
    account=RowAccount(10, 7, 2, 1),
    seconds={"stage": 0.25, "audit": 0.5, "publish": 0.125},
    checks=(KEPT, WARNED, WHOLE),
    inputs={"bronze.tickets": 3},
    files=("tickets/2017-03-01/a.parquet", "tickets/2017-03-01/ü'b.csv"),
    quarantine_version=4,
    columns={"seats": {"nulls": 0}},
    total_rows=2**40,
    total_bytes=0,
)


@pytest.mark.parametrize(
    "report", [FULL, TableReport("bronze.coupons", "unchanged", 0, RowAccount(0, 0, 0, 0))], ids=["full", "bare"]
)
def test_a_report_comes_back_from_json_as_it_was(report: TableReport) -> None:
    back = TableReport.from_dict(json.loads(json.dumps(report.to_dict())))
    assert back == report
    assert all(isinstance(check.severity, Severity) for check in back.checks)


def test_a_report_is_plain_json_without_tuples() -> None:
    plain = FULL.to_dict()
    assert plain == json.loads(json.dumps(plain))
    assert plain["account"] == {"rows_in": 10, "published": 7, "quarantined": 2, "duplicates": 1}


def test_warnings_are_the_checks_that_failed() -> None:
    assert FULL.warnings == (WARNED,)


def test_an_account_that_does_not_add_up_says_both_sums() -> None:
    with pytest.raises(AccountError) as caught:
        RowAccount(1469307, 1469300, 2, 1).verify("silver.tickets")
    assert str(caught.value) == (
        "silver.tickets: 1,469,307 rows in, but 1,469,300 to publish + 2 quarantined + 1 duplicates = 1,469,303."
        " Nothing was published. This is a defect in the table's transform: please report it"
    )


unhurried = settings(deadline=None)
COUNTS = st.integers(0, 10**9)


@unhurried
@given(COUNTS, COUNTS, COUNTS, st.sampled_from([-1, 0, 1]))
def test_an_account_is_right_only_if_no_row_is_lost_or_invented(
    published: int, quarantined: int, duplicates: int, off: int
) -> None:
    account = RowAccount(published + quarantined + duplicates + off, published, quarantined, duplicates)
    if off:
        with pytest.raises(AccountError):
            account.verify("silver.tickets")
    else:
        account.verify("silver.tickets")

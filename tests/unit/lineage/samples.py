"""A run of each kind, as its events look on paper: plain JSON."""

import json
from datetime import date

from openlineage.client.serde import Serde

from contracts import catalog
from contracts.interval import Interval
from contracts.model import Severity
from contracts.report import CheckResult, RowAccount, TableReport
from lineage import events
from lineage.events import Engine, Parent, Served

INTERVAL = Interval(date(2017, 1, 1), date(2017, 1, 8))
TASK_RUN = "0195f2d1-6c00-7000-8000-000000000001"
DAG_RUN = "0195f2d1-6c00-7000-8000-000000000002"
PARENT = Parent("airflow", "millrace.silver", TASK_RUN, "airflow", "millrace", DAG_RUN)
ENGINE = Engine("sail", "0.7.2")
CHECKS = (
    CheckResult("booking_id_present", "booking_id", Severity.CRITICAL, True, "booking_id is missing", 0),
    CheckResult("paid_range", "paid", Severity.CRITICAL, False, "paid is below 0", 3),
    CheckResult("seats_positive", None, Severity.WARNING, False, "seats is 0", 5),
    CheckResult("rows_expected", None, Severity.WARNING, True, "there are far fewer rows than usual"),
)
SILVER = TableReport(
    table="silver.tickets",
    status="published",
    version=4,
    account=RowAccount(rows_in=100, published=90, quarantined=3, duplicates=7),
    checks=CHECKS,
    inputs={"bronze.tickets": 2, "silver.movies": 1},
    quarantine_version=6,
    columns={"seats": {"nulls": 0, "min": 0, "max": 12, "type": "bigint"}},
    total_rows=990,
    total_bytes=12_345,
)
BRONZE = TableReport(
    table="bronze.tickets",
    status="published",
    version=0,
    account=RowAccount(100, 100, 0, 0),
    checks=CHECKS[:1],
    files=("tickets/2017-01-01/a.parquet", "tickets/2017-01-02/b.parquet"),
)
GOLD = TableReport("gold.guest_activity", "unchanged", 9, RowAccount(10, 10, 0, 0), inputs={"silver.tickets": 4})


def plain(*found):
    """What a consumer receives."""
    return [json.loads(Serde.to_json(event)) for event in found]


def failure(text="boom"):
    """An error with a traceback."""
    try:
        raise RuntimeError(text)
    except RuntimeError as error:
        return error


def of_table(report):
    """START, COMPLETE and FAIL of a table, and its audit."""
    step = events.table_step(catalog.table(report.table), INTERVAL, PARENT, ENGINE)
    failed = events.table_failed(step, failure(), report.inputs, report.checks)
    return plain(events.table_started(step), *events.table_completed(step, report), failed)


def of_view():
    """START, COMPLETE and FAIL of a feature view."""
    step = events.view_step(catalog.table("gold.guest_activity"), release=7, parent=PARENT, engine=ENGINE)
    parity = (CheckResult("parity", None, Severity.CRITICAL, True, "served values differ from the offline ones", 0),)
    served = Served("7-0195f2d1", 2469, parity)
    return plain(
        events.view_started(step, 9),
        events.view_completed(step, 9, served),
        events.view_failed(step, failure(), 9, parity),
    )


def every_kind():
    """Name -> event."""
    groups = {"bronze": of_table(BRONZE), "silver": of_table(SILVER), "gold": of_table(GOLD), "view": of_view()}
    return {
        f"{name} {number} {event['eventType']}": event
        for name, result in groups.items()
        for number, event in enumerate(result)
    }

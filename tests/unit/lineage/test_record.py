"""A recorded run leaves its events behind, however it ends."""

import pytest

from contracts import catalog
from lineage.record import Served, recorded, recorded_view
from tests import cinema, recorded_events
from tests.openlineage_schema import validate
from tests.unit.lineage import samples

TABLE = cinema.table("silver.tickets")


def _recorded_events():
    return [(event["job"]["name"].removeprefix("millrace."), event["eventType"]) for event in recorded_events.events()]


def test_a_run_that_ends_well():
    with recorded(TABLE, samples.INTERVAL, parent=samples.PARENT, engine=samples.ENGINE) as run:
        run.report = samples.SILVER

    assert _recorded_events() == [
        ("silver.tickets", "START"),
        ("silver.tickets", "COMPLETE"),
        ("silver.tickets.audit", "START"),
        ("silver.tickets.audit", "COMPLETE"),
    ]
    for event in recorded_events.events():
        validate(event)


def test_a_run_that_fails_passes_its_error_on():
    def torn(run):
        run.checks = samples.CHECKS
        raise ValueError("torn file")

    with (
        pytest.raises(ValueError, match="torn file"),
        recorded(TABLE, samples.INTERVAL, {"bronze.tickets": 2}) as run,
    ):
        torn(run)

    start, failed = recorded_events.last_run("silver.tickets")
    assert (start["eventType"], failed["eventType"]) == ("START", "FAIL")
    assert failed["inputs"][0]["facets"]["version"]["datasetVersion"] == "2"
    assert len(failed["run"]["facets"]["test"]["tests"]) == len(samples.CHECKS)
    validate(failed)


def test_a_run_without_report_still_completes():
    with recorded(TABLE):
        pass

    assert _recorded_events() == [("silver.tickets", "START"), ("silver.tickets", "COMPLETE")]


def test_a_view_that_goes_live():
    with recorded_view(catalog.table("gold.guest_activity"), 9, release=7) as run:
        run.served = Served("7", 2469)

    assert _recorded_events() == [("features.guest_activity", "START"), ("features.guest_activity", "COMPLETE")]
    assert (
        recorded_events.last_run("features.guest_activity")[1]["outputs"][0]["facets"]["version"]["datasetVersion"]
        == "7"
    )


def test_a_view_that_does_not():
    with pytest.raises(RuntimeError), recorded_view(catalog.table("gold.guest_activity"), 9):
        raise RuntimeError("3 mismatches")

    assert _recorded_events() == [("features.guest_activity", "START"), ("features.guest_activity", "FAIL")]


def test_the_last_run_is_the_newest():
    for report in (None, samples.SILVER):
        with recorded(TABLE) as run:
            run.report = report

    assert recorded_events.last_run("silver.tickets")[1]["outputs"][0]["facets"]["version"]["datasetVersion"] == "4"
    assert recorded_events.last_run("silver.nothing") == []

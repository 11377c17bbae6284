"""What the events of a run say."""

import pytest
from openlineage.client.event_v2 import set_producer
from openlineage.client.generated import base

from contracts import catalog
from lineage import events
from lineage.events import Parent
from tests.unit.lineage import samples


@pytest.fixture
def silver():
    return samples.of_table(samples.SILVER)


def test_one_run_starts_and_completes_and_its_audit_is_its_child(silver):
    start, complete, audit_start, audit, _ = silver

    assert [start["eventType"], complete["eventType"], audit_start["eventType"], audit["eventType"]] == [
        "START",
        "COMPLETE",
        "START",
        "COMPLETE",
    ]
    assert start["run"]["runId"] == complete["run"]["runId"] != audit["run"]["runId"]
    assert complete["job"]["name"] == "millrace.silver.tickets"
    assert audit["job"]["name"] == "millrace.silver.tickets.audit"
    assert audit["run"]["facets"]["parent"]["run"]["runId"] == start["run"]["runId"]
    assert audit["run"]["facets"]["parent"]["root"]["run"]["runId"] == samples.DAG_RUN


def test_the_run_says_where_it_belongs(silver):
    facets = silver[0]["run"]["facets"]

    assert facets["parent"]["run"]["runId"] == samples.TASK_RUN
    assert (facets["parent"]["job"]["namespace"], facets["parent"]["job"]["name"]) == ("airflow", "millrace.silver")
    assert facets["parent"]["root"]["job"]["name"] == "millrace"
    assert facets["nominalTime"]["nominalStartTime"] == "2017-01-01T00:00:00+00:00"
    assert facets["nominalTime"]["nominalEndTime"] == "2017-01-08T00:00:00+00:00"
    assert (facets["processing_engine"]["name"], facets["processing_engine"]["version"]) == ("sail", "0.7.2")


def test_inputs_carry_the_versions_that_were_read(silver, home):
    inputs = silver[1]["inputs"]

    assert [(dataset["namespace"], dataset["name"]) for dataset in inputs] == [
        ("file", f"{home}/lake/bronze/tickets"),
        ("file", f"{home}/lake/silver/movies"),
    ]
    assert [dataset["facets"]["version"]["datasetVersion"] for dataset in inputs] == ["2", "1"]
    assert "version" not in silver[0]["inputs"][0]["facets"]
    assert [field["name"] for field in inputs[0]["facets"]["schema"]["fields"]][:2] == ["card_id", "venue_id"]


def test_the_output_is_the_contract_and_the_account(silver, home):
    written, rejected = silver[1]["outputs"]
    contract = catalog.table("silver.tickets")

    assert written["name"] == f"{home}/lake/silver/tickets"
    fields = written["facets"]["schema"]["fields"]
    assert [field["name"] for field in fields] == list(contract.column_names)
    assert fields[7] == {
        "name": "paid",
        "type": "decimal(12,2)",
        "description": f"{contract.column('paid').doc} (USD)",
        "ordinal_position": 8,
    }
    assert written["facets"]["version"]["datasetVersion"] == "4"
    assert (written["facets"]["storage"]["storageLayer"], written["facets"]["storage"]["fileFormat"]) == (
        "delta",
        "parquet",
    )
    assert written["facets"]["symlinks"]["identifiers"] == [
        {"namespace": "millrace", "name": "silver.tickets", "type": "TABLE"}
    ]
    assert written["facets"]["ownership"]["owners"][0]["name"] == f"team:{contract.owner}"
    assert written["facets"]["tags"]["tags"] == [
        {"key": "pii", "value": "pseudonym", "source": "MILLRACE", "field": "guest_id"}
    ]
    assert (written["facets"]["dataQualityMetrics"]["rowCount"], written["facets"]["dataQualityMetrics"]["bytes"]) == (
        990,
        12_345,
    )
    assert written["outputFacets"]["outputStatistics"]["rowCount"] == 90
    account = written["outputFacets"]["millrace_rowAccount"]
    assert account["rowsIn"] == account["published"] + account["quarantined"] + account["duplicates"] == 100
    assert account["quarantineVersion"] == 6
    assert (rejected["name"], rejected["facets"]["version"]["datasetVersion"]) == (
        f"{home}/lake/quarantine/tickets",
        "6",
    )
    assert rejected["outputFacets"]["outputStatistics"]["rowCount"] == 3


def test_columns_come_from_the_inputs_and_go_to_the_served_view(silver, home):
    """Every source that an output names is an input of the same event."""
    view = samples.of_view()[1]
    gold = samples.of_table(samples.GOLD)[1]
    for event, column, source in (
        (silver[1], "paid", "paid"),
        (gold, "paid_7d", "paid"),
        (view, "paid_7d", "paid_7d"),
    ):
        fields = event["outputs"][0]["facets"]["columnLineage"]["fields"]
        assert fields[column]["inputFields"][0]["field"] == source
        datasets = {(item["namespace"], item["name"]) for item in event["inputs"]}
        named = {(origin["namespace"], origin["name"]) for field in fields.values() for origin in field["inputFields"]}
        assert named
        assert named <= datasets
    assert fields["paid_7d"]["inputFields"][0]["transformations"] == [{"type": "DIRECT", "subtype": "IDENTITY"}]


def test_checks_are_assertions_about_the_published_table(silver, home):
    (audited,) = silver[3]["inputs"]

    assert silver[3]["outputs"] == []
    assert (audited["name"], audited["facets"]["version"]["datasetVersion"]) == (
        f"{home}/lake/silver/tickets",
        "4",
    )
    first, second, third, _ = audited["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert first == {
        "assertion": "not_null",
        "name": "booking_id_present",
        "column": "booking_id",
        "success": True,
        "severity": "error",
        "description": "booking_id is missing",
        "expected": "0",
        "actual": "0",
        "content": "booking_id IS NOT NULL",
        "contentType": "sql",
    }
    assert (second["assertion"], second["success"], second["actual"]) == ("range", False, "3")
    assert (third["assertion"], third["severity"]) == ("seats_positive", "warn")
    assert "column" not in third
    metrics = audited["inputFacets"]["dataQualityMetrics"]
    assert metrics["rowCount"] == 93
    assert metrics["columnMetrics"] == {"seats": {"nullCount": 0, "min": 0, "max": 12}}


def test_a_failed_run_says_why_and_publishes_nothing(silver):
    failed = silver[4]

    assert failed["eventType"] == "FAIL"
    error = failed["run"]["facets"]["errorMessage"]
    assert error["message"] == "RuntimeError: boom"
    assert error["programmingLanguage"] == "PYTHON"
    assert "RuntimeError: boom" in error["stackTrace"]
    assert [test["status"] for test in failed["run"]["facets"]["test"]["tests"]] == ["pass", "fail", "fail", "pass"]
    assert "version" not in failed["outputs"][0]["facets"]
    assert failed["outputs"][0]["outputFacets"] == {}


def test_an_interrupted_run_is_aborted():
    step = events.table_step(catalog.table("silver.tickets"))

    assert samples.plain(events.table_failed(step, KeyboardInterrupt()))[0]["eventType"] == "ABORT"


def test_bronze_reads_landed_files_and_creates_its_table(home):
    _, complete, *_ = samples.of_table(samples.BRONZE)
    (landed,) = complete["inputs"]

    assert (landed["namespace"], landed["name"]) == ("file", f"{home}/landing/tickets")
    assert landed["inputFacets"]["subset"]["inputCondition"] == {
        "type": "location",
        "locations": list(samples.BRONZE.files),
    }
    assert (
        landed["inputFacets"]["inputStatistics"]["rowCount"],
        landed["inputFacets"]["inputStatistics"]["fileCount"],
    ) == (100, 2)
    assert landed["facets"]["datasetType"]["datasetType"] == "FILE"
    assert complete["outputs"][0]["facets"]["lifecycleStateChange"]["lifecycleStateChange"] == "CREATE"
    assert len(complete["outputs"]) == 1


def test_an_unchanged_table_has_no_statistics_of_writing():
    _, complete, _ = samples.of_table(samples.GOLD)
    (same,) = complete["outputs"]

    assert same["facets"]["version"]["datasetVersion"] == "9"
    assert set(same["outputFacets"]) == {"millrace_rowAccount"}
    assert same["outputFacets"]["millrace_rowAccount"]["status"] == "unchanged"


def test_a_view_is_made_from_a_gold_version_and_served_as_a_generation(home):
    start, complete, failed = samples.of_view()
    (served,) = complete["outputs"]

    assert {event["job"]["name"] for event in (start, complete, failed)} == {"millrace.features.guest_activity"}
    assert complete["inputs"][0]["name"] == f"{home}/lake/gold/guest_activity"
    assert complete["inputs"][0]["facets"]["version"]["datasetVersion"] == "9"
    assert (served["namespace"], served["name"]) == ("millrace", "online_store_guest_activity")
    assert served["facets"]["version"]["datasetVersion"] == "7-0195f2d1"
    assert served["outputFacets"]["outputStatistics"]["rowCount"] == 2469
    assert [field["name"] for field in served["facets"]["schema"]["fields"]] == list(
        catalog.table("gold.guest_activity").column_names
    )
    assert complete["run"]["facets"]["tags"]["tags"][0] == {"key": "release", "value": "7", "source": "MILLRACE"}
    assert complete["run"]["facets"]["test"]["tests"][0]["name"] == "parity"
    assert failed["eventType"] == "FAIL"


def test_every_facet_names_our_producer_although_airflow_has_set_its_own():
    before = base.PRODUCER
    set_producer("https://github.com/apache/airflow")
    try:
        result = samples.every_kind()
    finally:
        set_producer(before)

    def producers(node):
        if isinstance(node, dict):
            return {node[key] for key in ("_producer", "producer") if key in node}.union(
                *(producers(value) for value in node.values())
            )
        return set().union(*(producers(item) for item in node)) if isinstance(node, list) else set()

    assert producers(list(result.values())) == {"urn:millrace:lineage:1"}


def test_a_run_without_parent_is_the_root_of_its_children():
    step = events.table_step(catalog.table("silver.tickets"))

    assert step.as_parent == Parent(
        "millrace", "millrace.silver.tickets", step.run_id, "millrace", "millrace.silver.tickets", step.run_id
    )

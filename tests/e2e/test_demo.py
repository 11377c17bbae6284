"""The main job as a user runs it: over REST against a running Airflow, then read through the Feast SDK."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts import catalog
from contracts.model import Layer
from contracts.report import PUBLISHED, TableReport
from features import registry, training
from grocery.tests import oracle
from grocery.tests import year as computed
from lake import settings
from millrace import demo, reading
from millrace.services import ApiError, Services
from tests import openlineage_schema, patience
from tests.e2e.conftest import free_port
from tests.landing import rows, versions
from tests.projects import GROCERY

PROJECT = GROCERY

YEAR = {"start": "2017-01-01", "end": "2018-01-02"}


def trigger(
    airflow: Services, conf: dict[str, Any], dag: str = demo.DAG, seconds: float = 2 * patience.SECONDS
) -> demo.Run:
    """Trigger and wait for the end."""
    run = demo.Run.trigger(airflow, conf, dag)
    ended(run, seconds)
    return run


def ended(run: demo.Run, seconds: float = 2 * patience.SECONDS) -> str:
    """The state in which it ends."""
    deadline = time.monotonic() + seconds
    while (state := run.state()) not in ("success", "failed"):
        assert time.monotonic() < deadline, f"{run.id} is still {state} after {seconds} s"
        time.sleep(0.5)
    return state


@pytest.fixture(scope="module")
def year(airflow: Services, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What `make demo` prints for the whole year; the sample's own tests read what it computed."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "millrace.demo"],
        cwd=settings.CHECKOUT,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    computed.offer(settings.home(), tmp_path_factory)
    return done.stdout


@pytest.fixture(scope="module")
def year_run(airflow: Services, year: str) -> demo.Run:
    """The DAG run that the demo triggered."""
    (run,) = airflow.api("GET", "/api/v2/dags/millrace/dagRuns?limit=1")["dag_runs"]
    return demo.Run(airflow, run["dag_run_id"])


def test_the_demo_shows_accounts_release_features_and_where_to_look(year: str) -> None:
    for expected in (
        "1,469,307",
        "20,940,529",
        "rows/s",
        "Release 1",
        "spend_30d",
        "days_since_last_purchase",
        "Data Docs",
        "ndjson",
        "All of it worked",
    ):
        assert expected in year
    assert "\x1b" not in year, "piped output is plain"


def test_every_task_reports_an_exact_row_account(year_run: demo.Run) -> None:
    for table in catalog.tables():
        report = TableReport.from_dict(year_run.result(table.qualified))
        report.account.verify(report.table)
        assert report.account.rows_in > 0


def test_each_published_table_is_an_asset_event_with_version_and_rows(airflow: Services, year_run: demo.Run) -> None:
    events = airflow.api("GET", "/api/v2/assets/events?limit=100")["asset_events"]
    latest = {event["name"]: event["extra"] for event in events if event["source_run_id"] == year_run.id}
    assert set(latest) == {table.qualified for table in catalog.tables()}
    assert latest["silver.transactions"]["published"] == 1_469_307
    assert latest["gold.customer_activity"]["version"] == versions()["gold.customer_activity"]
    assert "quantity is 0: 8,869 rows" in latest["silver.transactions"]["warnings"]


def test_a_run_has_a_tab_with_its_tables_and_every_component_is_healthy(airflow: Services, year_run: demo.Run) -> None:
    assert "millrace" in {plugin["name"] for plugin in airflow.api("GET", "/api/v2/plugins")["plugins"]}
    with urllib.request.urlopen(f"{airflow.url}/millrace/run?dag=millrace&run={year_run.id}", timeout=30) as page:
        assert b"Published tables" in page.read()
    health = airflow.api("GET", "/api/v2/monitor/health")
    assert {name: state["status"] for name, state in health.items()} == dict.fromkeys(health, "healthy")


def test_warnings_are_logged_as_warnings(airflow: Services, year_run: demo.Run) -> None:
    log = airflow.api("GET", f"{year_run._path}/taskInstances/silver.transactions/logs/1")["content"]
    assert "silver.transactions: quantity is 0: 8,869 rows" in {
        line["event"] for line in log if line.get("level") == "warning"
    }


def test_features_read_through_the_sdk_in_a_fresh_process_equal_the_oracle(
    year: str, e2e_home: Path, tmp_path: Path
) -> None:
    script = """
import json, sys
from datetime import UTC, datetime
from feast import FeatureStore
store = FeatureStore(sys.argv[1])
customers = json.loads(sys.argv[2])
names = ["customer_activity:spend_30d", "customer_activity:items_90d", "customer_activity:baskets_7d"]
answer = store.get_online_features(names, [{"customer_id": customer} for customer in customers]).to_dict()
print(json.dumps(answer))
"""
    asked = oracle.sample("customer_activity", 40, seed=7)
    customers = [int(customer) for customer in dict.fromkeys(asked["customer_id"])]
    repo = str(settings.CHECKOUT / "features" / "feast_repo")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, repo, json.dumps(customers)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    pairs = pd.DataFrame({"customer_id": customers, "event_timestamp": pd.Timestamp("2018-01-02", tz="UTC")})
    expected = oracle.customer_activity(pairs).set_index("customer_id")
    for position, customer in enumerate(answer["customer_id"]):
        if customer not in expected.index:
            assert answer["spend_30d"][position] is None
            continue
        assert answer["spend_30d"][position] == float(expected.loc[customer, "spend_30d"])
        assert answer["items_90d"][position] == expected.loc[customer, "items_90d"]
        assert answer["baskets_7d"][position] == expected.loc[customer, "baskets_7d"]


def test_the_feature_server_says_what_the_sdk_says(airflow: Services, year_run: demo.Run) -> None:
    store = registry.open_store()
    rows = {
        "customer_id": [1, 2, 999_999],
        "product_id": [856942, 1082185, 1],
        "request_time": ["2018-01-02T06:00:00+00:00"] * 3,
    }
    asked = json.dumps({"feature_service": "recommendation_v1", "entities": rows}).encode()
    request = urllib.request.Request(
        f"{airflow.features_url}/get-online-features", asked, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        answer = json.load(response)
    told = dict(
        zip(answer["metadata"]["feature_names"], (vector["values"] for vector in answer["results"]), strict=True)
    )
    served = store.get_online_features(store.get_feature_service("recommendation_v1"), rows).to_dict()
    instants = ("last_basket_at", "last_purchased_at", "memory_began_at")
    assert {name: values for name, values in told.items() if name not in instants} == {
        name: values for name, values in served.items() if name not in instants
    }
    for name in instants:
        assert [value and datetime.fromtimestamp(value, UTC) for value in told[name]] == served[name]
    assert told["spend_30d"][0] > 0
    assert told["spend_30d"][2] is None


def test_what_is_served_was_compared_with_training_first(year_run: demo.Run) -> None:
    compared = year_run.result("serve.materialize")["consistency"]["features"]
    assert len(compared) == 44
    assert {(view["mismatched"], view["missing"], view["extra"]) for view in compared} == {(0, 0, 0)}
    assert min(view["compared"] for view in compared) > 500


def test_a_training_set_is_made_over_rest(airflow: Services, year_run: demo.Run) -> None:
    labels = "SELECT customer_id, event_timestamp FROM gold.customer_activity WHERE customer_id <= 5"
    run = trigger(airflow, {"name": "few", "labels": labels, "service": "customer_value_v1"}, "training_set")
    assert run.state() == "success", run.error()
    assert run.result("create")["rows"] == training.read("few").num_rows > 100
    assert {feature["future"] for feature in run.result("check_leaks")["features"]} == {0}
    again = trigger(airflow, {"name": "few", "labels": labels, "service": "customer_value_v1"}, "training_set")
    assert "there is a training set few already" in again.error()


@pytest.mark.slow
def test_the_recommender_is_trained_over_rest_and_answers(
    airflow: Services, year_run: demo.Run, e2e_home: Path
) -> None:
    run = trigger(airflow, {"weeks": 1, "held_back": 1}, "recommender")
    assert run.state() == "success", run.error()
    figures = run.result("train")["quality"]
    assert figures["model"]["recall"] > figures["popular"]["recall"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "millrace", "recommender", "ask", "1"],
        cwd=settings.CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"\s-?\d+\.\d{3}\b", done.stdout)) == 10, done.stdout
    scored = trigger(airflow, {}, "recommender_scores")
    assert scored.state() == "success", scored.error()
    report = scored.result("score")
    assert report["model"] == run.result("train")["name"]
    assert (
        report["account"]["published"]
        == report["account"]["rows_in"]
        == len(rows("scores.recommender", order="1"))
        > 20_000
    )
    events = airflow.api("GET", "/api/v2/assets/events?limit=100&order_by=-timestamp")["asset_events"]
    assert {event["name"]: event["extra"]["version"] for event in events if event["source_run_id"] == scored.id} == {
        "scores.recommender": report["version"]
    }
    assert trigger(airflow, {}, "recommender_scores").result("score")["status"] == "unchanged"
    jobs = {event["job"]["name"] for event in lineage(e2e_home) if event["eventType"] == "COMPLETE"}
    assert {"millrace.models.recommender", "millrace.scores.recommender"} <= jobs


def lineage(home: Path) -> list[dict[str, Any]]:
    """All OpenLineage events of the home."""
    files = sorted((home / "lineage").glob("*.ndjson"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


def test_lineage_of_our_tables_hangs_below_the_airflow_tasks_and_keeps_the_schema(
    year_run: demo.Run, e2e_home: Path
) -> None:
    events = lineage(e2e_home)
    for event in events:
        openlineage_schema.validate(event)
    ours = [event for event in events if event["job"]["namespace"] == "millrace"]
    theirs = {
        event["run"]["runId"]: event["job"]["name"] for event in events if event["job"]["namespace"] != "millrace"
    }
    jobs = {event["job"]["name"] for event in ours if event["eventType"] == "COMPLETE"}
    for table in catalog.tables():
        assert f"millrace.{table.qualified}" in jobs
    for view in (table.name for table in catalog.tables(Layer.GOLD)):
        assert f"millrace.features.{view}" in jobs
    top = [event for event in ours if event["job"]["name"] == "millrace.silver.transactions"]
    assert {theirs.get(event["run"]["facets"]["parent"]["run"]["runId"]) for event in top} == {
        "millrace.silver.transactions"
    }


@pytest.mark.slow
def test_two_more_runs_over_the_year_at_once_both_succeed_and_change_nothing(
    airflow: Services, year_run: demo.Run
) -> None:
    before = versions()
    runs = [demo.Run.trigger(airflow, YEAR) for _ in range(2)]
    assert [ended(run) for run in runs] == ["success", "success"]
    assert versions() == before
    assert {run.result(table.qualified)["status"] for run in runs for table in catalog.tables()} == {"unchanged"}


def test_runs_that_make_no_sense_fail_with_a_sentence_and_write_nothing(airflow: Services, year_run: demo.Run) -> None:
    before = versions()
    sentences = {
        "lies outside the data": {"start": "2030-01-01", "end": "2030-01-02"},
        "Did you mean start?": {"strat": "2017-01-01", "end": "2017-01-02"},
    }
    runs = {sentence: demo.Run.trigger(airflow, conf) for sentence, conf in sentences.items()}
    for sentence, run in runs.items():
        assert ended(run) == "failed"
        assert sentence in run.error()
    assert versions() == before


def test_a_malformed_date_is_refused_with_what_was_expected(airflow: Services, year_run: demo.Run) -> None:
    before = versions()
    with pytest.raises(ApiError, match="start"):
        trigger(airflow, {"start": "yesterday", "end": "2017-01-02"})
    assert versions() == before


@pytest.mark.slow
def test_airflows_own_backfill_runs_each_day_with_its_interval_and_picks_up_a_late_file(
    airflow: Services, year_run: demo.Run
) -> None:
    landed = settings.landing() / "transactions" / "2017-05-02" / "transactions.parquet"
    late = pq.read_table(landed).slice(0, 1)
    column = late.schema.get_field_index("basket_id")
    pq.write_table(late.set_column(column, "basket_id", pa.array([99_999_999_999])), landed.with_name("late.parquet"))
    before = versions()
    body = {
        "dag_id": "millrace",
        "from_date": "2017-05-01T00:00:00Z",
        "to_date": "2017-05-02T00:00:00Z",
        "max_active_runs": 1,
    }
    backfill = airflow.api(
        "POST", "/api/v2/backfills", {**body, "reprocess_behavior": "none", "dag_run_conf": {}, "run_backwards": False}
    )
    deadline = time.monotonic() + 2 * patience.SECONDS
    found: list[dict[str, Any]] = []
    while time.monotonic() < deadline:
        found = airflow.api("GET", "/api/v2/dags/millrace/dagRuns?run_type=backfill&limit=20")["dag_runs"]
        if len(found) == 2 and all(run["state"] in ("success", "failed") for run in found):
            break
        time.sleep(1)
    assert [run["state"] for run in found] == ["success", "success"], (backfill, found)
    runs = {
        run.result("check_interval")["start"]: run for run in (demo.Run(airflow, run["dag_run_id"]) for run in found)
    }
    published = {
        day: {table.qualified for table in catalog.tables() if run.result(table.qualified)["status"] == PUBLISHED}
        for day, run in runs.items()
    }
    changed = {
        "bronze.transactions",
        "silver.transactions",
        "gold.customer_activity",
        "gold.customer_product",
        "gold.customer_store",
        "gold.customer_velocity",
        "gold.product_popularity",
    }
    assert published == {"2017-05-01": set(), "2017-05-02": changed}
    assert {name for name, version in versions().items() if before.get(name) != version} == changed
    assert len(rows("silver.transactions", order="1", where="basket_id = 99999999999")) == 1


def test_no_run_is_scheduled_while_the_schedule_is_off(airflow: Services, year_run: demo.Run) -> None:
    assert airflow.api("GET", "/api/v2/dags/millrace/dagRuns?run_type=scheduled")["dag_runs"] == []


@pytest.mark.slow
def test_a_day_replayed_through_kafka_is_served_as_the_batch_computes_it(
    airflow: Services, year_run: demo.Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILLRACE_BROKER_PORT", str(free_port()))
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "millrace", "stream", "replay", "--speed", "8000"],
        cwd=settings.CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    for expected in ("Replay of 2018-01-02", "for demos", "purchases_24h", "lag: bronze.transactions"):
        assert expected in done.stdout
    values = re.search(r"Replay = batch: ([\d,]+) values of (\d+) views compared, 0 differ", done.stdout)
    assert values
    assert int(values[1].replace(",", "")) > 50_000
    assert "\x1b" not in done.stdout, "piped output is plain"
    asked = "SELECT count(*) FROM read_parquet(?) WHERE basket_id > 1000000000000"
    ((replayed,),) = reading.query("silver.transactions", asked)
    assert replayed == 4_106

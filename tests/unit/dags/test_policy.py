"""What every DAG here must be: cheap to parse, told how it is run; of the main one, that it has a task and an asset for
each table.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from contracts import catalog, project
from contracts.model import Table
from lake import settings
from lineage.naming import asset_uri
from tests import patience
from tests.projects import GROCERY

PROJECT = GROCERY
HEAVY = ("pyspark", "pysail", "great_expectations", "feast", "deltalake", "duckdb", "pandas", "pyarrow")
DAGS, OWN = settings.CHECKOUT / "dags", project.DEFAULT / "dags"
ROOT_PACKAGES = tomllib.loads((settings.CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"][
    "root_packages"
]
PARSE = f"""
import json, sys
sockets = []
sys.addaudithook(lambda event, arguments: sockets.append(event) if event.startswith("socket.") else None)
from dags.millrace_dag import dag
from dags import training_set_dag
from grocery.dags import recommender_dag, recommender_scores_dag
heavy = [name for name in {HEAVY} if name in sys.modules]
result = {{"heavy": heavy, "sockets": [*sockets], "end_date": str(dag.end_date)}}
assets = getattr(dag.timetable, "asset_condition", None)
watched = [watcher.name for asset in assets.objects for watcher in asset.watchers] if assets else []
result |= {{"timetable": type(dag.timetable).__name__, "watched": watched}}
if sys.argv[1] == "all":
    from airflow.dag_processing.dagbag import DagBag
    from airflow.utils.file import list_py_file_paths
    bag = DagBag(sys.argv[2])
    bag.collect_dags(sys.argv[3])
    result |= {{"dags": [*bag.dag_ids], "errors": bag.import_errors}}
    defining = {{dag.fileloc for dag in bag.dags.values()}}
    parsed = [str(path) for folder in sys.argv[2:] for path in list_py_file_paths(folder)]
    result |= {{"defining": [*defining], "parsed": parsed}}
print(json.dumps(result))
"""


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """What two fresh processes found, side by side: one as a user starts it, one that time and new data start."""
    plain = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("AIRFLOW") and name not in ("MILLRACE_SCHEDULE", "MILLRACE_EVENTS")
    }
    home = tmp_path_factory.mktemp("parsed")
    started = {}
    for name, more, what in (("off", {}, "all"), ("on", {"MILLRACE_SCHEDULE": "on", "MILLRACE_EVENTS": "on"}, "dag")):
        environment = {
            **plain,
            **more,
            "AIRFLOW_HOME": str(home / name),
            "MILLRACE_HOME": str(home),
            "PYTHONPATH": str(settings.CHECKOUT),
        }
        command = [sys.executable, "-W", "ignore", "-c", PARSE, what, str(DAGS), str(OWN)]
        started[name] = subprocess.Popen(
            command, env=environment, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    results: dict[str, Any] = {}

    def result(name: str) -> dict[str, Any]:
        if name not in results:
            out, err = started[name].communicate(timeout=patience.SECONDS)
            assert started[name].returncode == 0, err
            results[name] = json.loads(out.splitlines()[-1])
        return results[name] | {"home": home}

    yield result
    for process in started.values():
        process.kill()
        process.wait()


# --- parsing


def test_only_files_that_define_a_dag_are_parsed(parsed: Any) -> None:
    """Each of the others would be imported again every 30 s."""
    result = parsed("off")
    assert sorted(result["parsed"]) == sorted(result["defining"])
    assert len(result["parsed"]) == 4


@pytest.mark.parametrize("started", ["off", "on"])
def test_parsing_imports_nothing_heavy_and_opens_no_socket(parsed: Any, started: str) -> None:
    assert (parsed(started)["heavy"], parsed(started)["sockets"]) == ([], [])


def test_parsing_writes_nothing_of_ours(parsed: Any) -> None:
    home: Path = parsed("off")["home"]
    assert {path.name for path in home.iterdir()} <= {"off", "on"}


def test_the_folder_gives_these_dags_and_no_import_error(parsed: Any) -> None:
    assert (sorted(parsed("off")["dags"]), parsed("off")["errors"]) == (
        ["millrace", "recommender", "recommender_scores", "training_set"],
        {},
    )


@pytest.mark.parametrize("package", ROOT_PACKAGES)
def test_no_dag_file_shadows_a_package(package: str) -> None:
    """Airflow puts the DAG folder on `sys.path`; in front of it, at worst."""
    code = f"import sys; sys.path.insert(0, {str(DAGS)!r}); import {package}; print({package}.__file__)"
    completed = subprocess.run(
        [sys.executable, "-P", "-c", code],
        cwd=DAGS,
        env={**os.environ, "PYTHONPATH": str(settings.CHECKOUT)},
        capture_output=True,
        text=True,
    )
    assert completed.stdout.strip() == str(settings.CHECKOUT / package / "__init__.py"), completed.stderr


# --- schedule and params


def test_the_schedule_ends_with_the_sample_unless_it_is_switched_on(parsed: Any) -> None:
    assert parsed("off")["end_date"] == "2018-01-01 00:00:00+00:00"
    assert parsed("on")["end_date"] == "None"


def test_new_data_starts_runs_beside_the_schedule_once_it_is_switched_on(parsed: Any) -> None:
    assert (parsed("off")["timetable"], parsed("off")["watched"]) == ("CronDataIntervalTimetable", [])
    assert (parsed("on")["timetable"], parsed("on")["watched"]) == ("AssetOrTimeSchedule", ["arrivals"])


def test_the_documented_dag_of_a_project_is_started_by_the_assets_of_its_tables(airflow: None) -> None:
    text = (settings.CHECKOUT / "docs" / "projects.md").read_text()
    [code] = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "DAG(" in block]
    names: dict[str, Any] = {}
    exec(code, names)
    tables = re.findall(r'asset\("(.*?)"\)', code)
    assets = names["dag"].timetable.asset_condition.objects
    assert [(asset.name, asset.uri) for asset in assets] == [(table, asset_uri(table)) for table in tables]


def test_a_run_is_a_day_in_utc(dag: Any) -> None:
    from airflow.sdk import CronDataIntervalTimetable

    assert dag.timetable == CronDataIntervalTimetable("0 0 * * *", timezone="UTC")
    assert dag.start_date == datetime(2017, 1, 1, tzinfo=UTC)


def test_days_that_passed_are_not_caught_up_with_and_runs_do_not_overlap(dag: Any) -> None:
    assert (dag.catchup, dag.max_active_runs) == (False, 1)


@pytest.mark.parametrize("name", ["start", "end"])
def test_a_param_is_a_date_that_need_not_be_given(dag: Any, name: str) -> None:
    param = dag.params.get_param(name)
    assert param.value is None
    assert (param.schema["type"], param.schema["format"]) == (["null", "string"], "date")
    assert param.resolve("2017-01-31") == "2017-01-31"
    with pytest.raises(ValueError, match="date"):
        param.resolve("31/01/2017")


def test_there_are_no_other_params(dag: Any) -> None:
    assert [*dag.params] == ["start", "end"]


def test_the_page_of_the_dag_tells_how_it_is_triggered(dag: Any) -> None:
    for message in (
        "`start`",
        "`end`",
        "exclusive",
        "ISO dates",
        "MILLRACE_SCHEDULE",
        '{"start": "2017-01-01", "end": "2018-01-02"}',
    ):
        assert message in dag.doc_md


# --- tasks


def task(dag: Any, table: Table) -> Any:
    return dag.task_dict[table.qualified]


def test_every_table_has_exactly_one_task_and_no_other_task_has_an_asset(dag: Any) -> None:
    with_asset = sorted(task.task_id for task in dag.tasks if task.outlets)
    assert with_asset == sorted(table.qualified for table in catalog.tables())


@pytest.mark.parametrize("table", catalog._tables(project.load(GROCERY), None), ids=lambda table: table.qualified)
def test_a_table_is_one_asset_named_as_in_lineage(dag: Any, table: Table) -> None:
    (asset,) = task(dag, table).outlets
    assert (asset.name, asset.group, asset.uri) == (table.qualified, str(table.layer), asset_uri(table.qualified))


def test_no_two_tables_share_an_asset(dag: Any) -> None:
    assert len({task.outlets[0].uri for task in dag.tasks if task.outlets}) == len(catalog.tables())


@pytest.mark.parametrize("table", catalog._tables(project.load(GROCERY), None), ids=lambda table: table.qualified)
def test_a_table_waits_for_the_interval_its_inputs_and_what_it_refers_to(dag: Any, table: Table) -> None:
    assert task(dag, table).upstream_task_ids == {
        "check_interval",
        *table.inputs,
        *(reference.to for reference in table.references),
    }


def test_the_release_waits_for_silver_and_gold_and_serving_for_the_release(dag: Any) -> None:
    published = {table.qualified for layer in ("silver", "gold") for table in catalog.tables(layer)}
    assert published <= dag.task_dict["serve.release"].upstream_task_ids
    assert dag.task_dict["serve.materialize"].upstream_task_ids == {"serve.release"}


def test_the_audits_are_rendered_also_when_a_table_failed(dag: Any) -> None:
    docs = dag.task_dict["data_docs"]
    assert str(getattr(docs.trigger_rule, "value", docs.trigger_rule)) == "all_done"
    assert docs.upstream_task_ids == {table.qualified for table in catalog.tables()}


def test_every_task_has_an_owner_a_time_limit_and_a_page(dag: Any, training_dag: Any) -> None:
    for task in [*dag.tasks, *training_dag.tasks]:
        assert task.owner
        assert task.owner != "airflow", task.task_id
        assert task.execution_timeout, task.task_id
        assert task.doc_md, task.task_id


@pytest.mark.parametrize("table", catalog._tables(project.load(GROCERY), None), ids=lambda table: table.qualified)
def test_the_page_of_a_task_shows_the_contract(dag: Any, table: Table) -> None:
    page = task(dag, table).doc_md
    assert page.startswith(f"**{table.doc}**: {table.grain}. Owner: {table.owner}.")
    for column in table.columns:
        assert f"| `{column.name}` | {column.type.spark} | {column.doc} |" in page


# --- the DAG of training sets


def test_a_training_set_is_made_when_somebody_asks(training_dag: Any) -> None:
    from millrace import tasks

    assert training_dag.schedule is None
    assert (*training_dag.params,) == tasks.TRAINING_SET
    assert training_dag.task_dict["check_leaks"].upstream_task_ids == {"create"}
    for message in (
        "`name`",
        "`labels`",
        "`service`",
        "`release`",
        "`knowledge_time`",
        "`seed`",
        "`allow_beyond_horizon`",
        "docs/training.md",
    ):
        assert message in training_dag.doc_md


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("name", "churn_2017", "../x"),
        ("labels", "SELECT 1", ""),
        ("release", 3, 0),
        ("knowledge_time", True, "yes"),
        ("seed", 7, "x"),
        ("allow_beyond_horizon", True, 1),
    ],
)
def test_a_param_of_a_training_set_is_checked(training_dag: Any, name: str, good: Any, bad: Any) -> None:
    param = training_dag.params.get_param(name)
    assert param.resolve(good) == good
    with pytest.raises(ValueError, match=r"does not match|non-empty|too short|less than|is not of type"):
        param.resolve(bad)


# --- the DAG of the recommender


def test_a_recommender_is_trained_when_somebody_asks(recommender_dag: Any) -> None:

    from grocery.recommender import airflow_tasks

    assert recommender_dag.schedule is None
    assert (*recommender_dag.params,) == airflow_tasks.TRAIN
    assert recommender_dag.task_dict["train"].upstream_task_ids == {"prepare"}
    assert recommender_dag.task_dict["track"].upstream_task_ids == {"train"}


def test_scores_are_one_asset_named_as_in_lineage(scores_dag: Any) -> None:

    from grocery.recommender import airflow_tasks

    assert scores_dag.schedule is None
    assert (*scores_dag.params,) == airflow_tasks.SCORE
    (task,) = scores_dag.tasks
    (asset,) = task.outlets
    assert (asset.name, asset.group, asset.uri) == ("scores.recommender", "scores", asset_uri("scores.recommender"))
    assert "| `rank` | bigint |" in task.doc_md


def test_dags_on_demand_have_the_same_owner_and_limits(
    training_dag: Any, recommender_dag: Any, scores_dag: Any
) -> None:
    result = [
        {name: dag.default_args[name] for name in ("owner", "retries", "execution_timeout")}
        for dag in (training_dag, recommender_dag, scores_dag)
    ]
    assert result[0] == result[1] == result[2]
    assert [dag.fileloc.rpartition("/")[2] for dag in (recommender_dag, scores_dag)] == [
        "recommender_dag.py",
        "recommender_scores_dag.py",
    ]


@pytest.mark.parametrize(
    ("name", "good", "bad"), [("release", 3, 0), ("weeks", 4, 53), ("held_back", 1, 0), ("seed", 1, "x")]
)
def test_a_param_of_the_recommender_is_checked(recommender_dag: Any, name: str, good: Any, bad: Any) -> None:
    param = recommender_dag.params.get_param(name)
    assert param.resolve(good) == good
    with pytest.raises(ValueError, match=r"less than|greater than|is not of type"):
        param.resolve(bad)

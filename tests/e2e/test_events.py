"""New data starts runs on a real Airflow: files that are whole, and commits of a stream. An arcade, so small that a run
takes seconds.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest

from contracts import catalog
from etl.sources.messages import Message
from etl.sources.offsets import Start
from lake import settings
from lake.delta import STREAM_RUNS
from millrace import pipeline, services
from millrace.services import Services
from tests import patience
from tests.e2e.conftest import free_port, surroundings
from tests.integration.test_second_project import SCHEMAS, payment, play
from tests.landing import LandingZone, rows
from tests.projects import ARCADE

pytestmark = pytest.mark.slow
PROJECT = ARCADE
TODAY = datetime.now(UTC).date()
TOPIC = 7
QUIET_SECONDS = 6.0
"""Longer than it takes from a complete file to a run."""


class Zone(LandingZone):
    """The arcade's landing zone."""

    columns = SCHEMAS


def documented_dag(*tables: str) -> str:
    """The DAG of docs/projects.md, on these tables."""
    text = (settings.CHECKOUT / "docs" / "projects.md").read_text()
    [code] = [block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "DAG(" in block]
    for shown, table in zip(re.findall(r'asset\("(.*?)"\)', code), tables, strict=True):
        code = code.replace(shown, table)
    return str(code)


@pytest.fixture(scope="module")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Services whose main DAG new data starts."""
    own = tmp_path_factory.mktemp("dags")
    (own / "report_dag.py").write_text(documented_dag("gold.player_rounds", "gold.player_payments"))
    bundles = [
        {"name": name, "classpath": "airflow.dag_processing.bundles.local.LocalDagBundle", "kwargs": options}
        for name, options in {"dags-folder": {}, "own": {"path": str(own)}}.items()
    ]
    variables = {
        "AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST": json.dumps(bundles),
        # a triggerer that was killed is taken for dead after 30 s otherwise
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15",
        "AIRFLOW__TRIGGERER__JOB_HEARTBEAT_SEC": "1",
        "MILLRACE_HOME": str(tmp_path_factory.mktemp("events")),
        "MILLRACE_PROJECT": str(ARCADE),
        "MILLRACE_EVENTS": "on",
        "MILLRACE_PORT": str(free_port()),
        "MILLRACE_FEATURES_PORT": str(free_port()),
    }
    with surroundings(variables):
        try:
            yield services.up()
        finally:
            services.down()


@pytest.fixture
def zone(airflow: Services) -> Zone:
    return Zone(settings.landing())


class Runs:
    """The runs of a DAG since the test began, oldest first."""

    def __init__(self, airflow: Services, dag: str = "millrace") -> None:
        self._airflow, self._dag = airflow, dag
        self._before = {run["dag_run_id"] for run in self._all()}

    def _all(self) -> list[dict[str, Any]]:
        answer = self._airflow.api("GET", f"/api/v2/dags/{self._dag}/dagRuns?limit=100", patience=60)
        return sorted(answer["dag_runs"], key=lambda run: str(run["run_after"]))

    @property
    def new(self) -> list[dict[str, Any]]:
        return [run for run in self._all() if run["dag_run_id"] not in self._before]

    def ended(self, least: int = 1) -> list[str]:
        """The states of all new runs, once so many have ended and none is in work."""
        patience.until(
            lambda: len(runs := self.new) >= least and all(run["state"] in ("success", "failed") for run in runs),
            f"{least} runs have not ended",
            every=0.5,
        )
        return [run["state"] for run in self.new]


@pytest.fixture
def runs(airflow: Services) -> Runs:
    return Runs(airflow)


def rounds() -> set[str]:
    """Of the silver table."""
    return {row["round"] for row in rows("silver.plays")}


def stream(offset: int, *found: dict[str, Any]) -> None:
    """Commit messages to bronze as the lake writer does."""
    values = [json.dumps({**row, "ended_at": row["ended_at"].isoformat()}).encode() for row in found]
    batch = [Message(0, offset + number, value) for number, value in enumerate(values)]
    start = Start(offset or None, offset)
    pipeline.append_messages(catalog.table("bronze.plays"), batch, f"{STREAM_RUNS}test", TOPIC, {0: start})


def noon(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12)


def kill_triggerer() -> None:
    record = services._read_record()
    assert record
    triggerer = [process for process in services._processes(record) if process.cmdline()[:1] == ["millrace triggerer"]]
    assert triggerer
    for process in triggerer:
        process.kill()
    psutil.wait_procs(triggerer)


def test_files_start_runs_when_they_are_whole(airflow: Services, zone: Zone, runs: Runs) -> None:
    reports = Runs(airflow, "report")
    # half-written: lines are appended for twice as long as a file must not change
    path: Path = zone.path("payments", "2026-03-01", suffix=".csv")
    path.parent.mkdir(parents=True)
    with path.open("w") as file:
        file.write("number,player,paid_on,amount\n")
        for number in range(int(QUIET_SECONDS)):
            row = payment(1 + number, number % 3, date(2026, 3, 1))
            file.write(",".join(map(str, row.values())) + "\n")
            file.flush()
            time.sleep(1)
            assert runs.new == []
    assert runs.ended() == ["success"]
    assert reports.ended() == ["success"], "the DAG that two published tables start"
    assert len(rows("silver.payments")) == int(QUIET_SECONDS)

    # a burst, while the triggerer is dead and after: at most a run for what has landed by its start, and one more
    kill_triggerer()
    for number in range(20):
        day = date(2026, 3, 1) + timedelta(days=number % 4)
        played = play(number, number % 3, noon(day) - timedelta(days=30 * (number == 19)))
        zone.land("plays", pa.Table.from_pylist([played], SCHEMAS["plays"]), day, name=f"p{number}")
        time.sleep(0.1)
    expected = {f"r{number}" for number in range(20)}
    patience.until(lambda: rounds() == expected, "runs have not carried all files", every=0.5)
    assert set(runs.ended()) == {"success"}
    time.sleep(QUIET_SECONDS)
    assert len(runs.new) <= 3

    # a run that fails is not started again, and the next one carries what it could not
    before = len(runs.new)
    zone.path("plays", "2026-03-06", "bad").parent.mkdir()
    zone.path("plays", "2026-03-06", "bad").write_bytes(b"PAR1 cut short")
    assert runs.ended(before + 1)[before:] == ["failed"]
    time.sleep(QUIET_SECONDS)
    assert len(runs.new) == before + 1
    good = pa.Table.from_pylist([play(20, 1, noon(date(2026, 3, 6)))], SCHEMAS["plays"])
    zone.land("plays", good, "2026-03-06", "bad")
    assert runs.ended(before + 2)[before + 1 :] == ["success"]
    assert "r20" in rounds()


def test_commits_of_a_stream_start_runs_for_late_days_too(runs: Runs) -> None:
    late = TODAY - timedelta(days=40)
    stream(0, play(100, 0, noon(TODAY)))
    patience.until(lambda: runs.new, "no run was started")
    stream(1, play(101, 1, noon(late)))  # during the run, which may have read bronze already
    runs.ended()
    patience.until(lambda: {"r100", "r101"} <= rounds(), "no run carried on what came during a run")
    assert set(runs.ended()) == {"success"}
    served = {(row["player"], row["event_timestamp"].date()) for row in rows("gold.player_rounds")}
    players = [play(100, 0, noon(TODAY))["player"], play(101, 1, noon(late))["player"]]
    assert {(players[0], TODAY + timedelta(days=1)), (players[1], late + timedelta(days=1))} <= served
    time.sleep(QUIET_SECONDS)
    assert len(runs.new) <= 3

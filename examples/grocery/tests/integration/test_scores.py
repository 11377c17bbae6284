"""`scores.recommender` is staged, audited and published like any other table: nothing unaudited is seen, no row is lost
or doubled, and lineage leads to its sources.

The model and its rows are made up here, so that a case costs a commit; `test_recommender` scores the real year.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contracts import catalog
from contracts.model import Table
from contracts.report import PUBLISHED, UNCHANGED, AccountError, RowAccount
from expectations.audit import AuditError
from grocery.recommender import model as models
from grocery.recommender import scoring, steps
from grocery.recommender.model import Model
from lake import delta, publishing, release, settings
from lake.delta import CommitMetadata
from tests import openlineage_schema, recorded_events
from tests.landing import rows

NAME = "scores.recommender"
AT = datetime(2018, 1, 2, tzinfo=UTC)
GOOD = [
    {"customer_id": customer, "rank": rank, "product_id": 10 + rank, "score": 1.0 - rank / 2}
    for customer in (1, 2)
    for rank in (1, 2, 3)
]
Rows = list[dict[str, Any]]


class Trees:
    """A booster that is never asked."""

    def model_to_string(self) -> str:
        return "trees"


def scored(changed: Rows = GOOD) -> Callable[..., tuple[pa.Table, int]]:
    """What `scoring.scores` returns, with these ranks."""

    def scores(model: Model, found: release.Release) -> tuple[pa.Table, int]:
        common = {**scoring.part(model, found), "as_of": AT, "model": model.about["name"], "scored_at": AT}
        return pa.Table.from_pylist([{**row, **common} for row in changed]), len(GOOD)

    return scores


def score(changed: Rows = GOOD, number: int | None = None) -> steps.Scored:
    with patch.object(scoring, "scores", scored(changed)):
        return steps.score("tiny", number)


def publish(name: str, cells: dict[str, Any]) -> None:
    """A row of a table that scores refer to or are made from."""
    table: Table = catalog.table(name)
    path = settings.table_path(name) / "_stage" / "rows.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist([cells], schema=publishing.nullable_schema(table)), path)
    publishing.publish(table, [path], CommitMetadata("run"), base=delta.version_of(name))


@pytest.fixture
def lake(home: Path) -> Path:
    """A home with a model and two releases, of which the first is scored."""
    for product in (11, 12, 13):
        publish("silver.products", {"product_id": product})
    about = {"name": "tiny", "service": "recommendation_v1", "created_at": "2018-01-02T00:00:00+00:00"}
    models.keep(Model(Trees(), ("spend_30d",), {}, about))
    for version in (3, 4):
        release.write(dict.fromkeys(catalog.table(NAME).inputs, version), "2018-01-02")
    assert score(number=1).report.status == PUBLISHED
    return home


def published() -> Rows:
    return rows(NAME)


def test_a_scoring_is_published_once_and_accounted_for(lake: Path) -> None:
    done = score()
    assert (done.model, done.release, done.as_of) == ("tiny", 2, "2018-01-02")
    assert (done.report.status, done.report.account) == (PUBLISHED, RowAccount(6, 6, 0, 0))
    assert {check.check for check in done.report.checks} >= {
        "key_unique",
        "ranks_count_up",
        "scores_fall",
        "score_range",
        "products_differ",
    }
    assert all(check.success for check in done.report.checks)
    found = published()
    assert [
        (row["release"], row["customer_id"], row["rank"]) for row in sorted(found, key=lambda row: row["release"])
    ] == [(number, row["customer_id"], row["rank"]) for number in (1, 2) for row in GOOD]
    again = score()
    assert (again.report.status, again.report.version, again.report.account) == (
        UNCHANGED,
        done.report.version,
        done.report.account,
    )
    assert published() == found
    assert (settings.home() / "data_docs" / "results" / "scores" / f"{NAME}.json").exists(), "the audit has its page"


def test_a_release_that_was_made_again_under_its_number_is_scored_again(lake: Path) -> None:
    path = release.folder() / "1.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "created_at": "2030-01-01T00:00:00+00:00"}))
    assert score(number=1).report.status == PUBLISHED
    assert len(published()) == 2 * len(GOOD)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"rank": 4}, "a rank is missing or comes twice"),
        ({"rank": 1}, "is not unique"),
        ({"product_id": 11}, "a product comes twice"),
        ({"product_id": None}, "product_id is missing"),
        ({"score": float("nan")}, "score is not between"),
        ({"score": float("inf")}, "score is not between"),
        ({"score": float("-inf")}, "score is not between"),
        ({"score": 9.0}, "a score is higher than the one before it"),
        ({"customer_id": 0}, "customer_id is below 1"),
    ],
)
def test_a_failed_audit_leaves_the_table_as_it_was(lake: Path, changed: dict[str, Any], reason: str) -> None:
    before, version = published(), delta.version_of(NAME)
    with pytest.raises(AuditError, match=reason):
        score([*GOOD[:2], {**GOOD[2], **changed}, *GOOD[3:]])
    assert (published(), delta.version_of(NAME)) == (before, version)
    assert delta.version_of("quarantine.recommender") is None
    assert not [*settings.table_path(NAME).glob("_stage/*")]
    last = [event for event in recorded_events.events() if event["job"]["name"] == f"millrace.{NAME}"][-1]
    assert last["eventType"] == "FAIL"


def test_a_row_that_was_lost_on_the_way_stops_the_table(lake: Path) -> None:
    before = published()
    with pytest.raises(AccountError, match="6 rows in, but 5 to publish"):
        score(GOOD[:-1])
    assert published() == before


def test_lineage_leads_from_scores_to_the_model_and_to_the_tables_of_the_release(lake: Path) -> None:
    score()
    with patch("grocery.recommender.tracking.links", lambda _: [_Link()]):
        steps.record_model(models.about("tiny") | {"training_set": "learned", "held_back": "judged"})
    events = [*recorded_events.events()]
    for event in events:
        openlineage_schema.validate(event)
    scores, trained = (
        [event for event in events if event["job"]["name"] == name and event["eventType"] == "COMPLETE"][-1]
        for name in (f"millrace.{NAME}", "millrace.models.recommender")
    )
    (output,), (model,) = scores["outputs"], trained["outputs"]
    assert output["facets"]["version"]["datasetVersion"] == str(delta.version_of(NAME))
    assert output["outputFacets"]["millrace_rowAccount"]["published"] == 6
    versions = {source["name"]: source["facets"]["version"]["datasetVersion"] for source in scores["inputs"]}
    tables = {str(settings.table_path(name)): "4" for name in catalog.table(NAME).inputs}
    assert versions == {**tables, model["name"]: models.about("tiny")["digest"]}
    assert model["facets"]["version"]["datasetVersion"] == models.about("tiny")["digest"]
    assert {source["name"] for source in trained["inputs"]} == {
        str(settings.table_path(name)) for name in ("silver.transactions", "gold.customer_product")
    }


class _Link:
    release, tables = 2, {"silver.transactions": 4, "gold.customer_product": 4}


# --- kills

KILLED = re.compile(
    r"(open|rename|before \w+|after \w+|fsynced|rmtree)"
    r" (lake/scores/\w+/(_stage|_delta_log|part|$)|lake/scores/\w+$|data_docs/results/.*#$|lineage)"
)
"""The kill points: changes of the table, its stage and its log, the audit's result, the events. The others change
nothing: locks, links, and what stands before an fsync.
"""

SCRIPT = """
import json, os, signal, sys
from pathlib import Path
import deltalake, duckdb, great_expectations, lightgbm, pyarrow.dataset, pysail.spark, pyspark.sql.connect.session
import lake.commits.delta_rs, etl.quarantine, etl.stage
import expectations.audit, expectations.docs, features.lake_reader, lineage.record
from contracts import project
project.current()
from tests.chaos.kill_points import KillPoint, KillPointMonitor
from grocery.tests.integration.test_scores import score

def killed(home, point, record=None):
    if (child := os.fork()) == 0:
        os.setsid()
        os.environ["MILLRACE_HOME"] = home
        monitor = KillPointMonitor(Path(home), None, point)
        monitor.install()
        score()
        if record:
            Path(record).write_text(json.dumps(monitor.passed))
        os._exit(0)
    return os.waitpid(child, 0)[1] == signal.SIGKILL

if sys.argv[1] == "record":
    print(killed(sys.argv[2], None, sys.argv[3]))
else:
    for home, name, nth in json.loads(sys.argv[2]):
        print(killed(home, KillPoint(name, nth)))
"""


def script(*arguments: str) -> list[bool]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, *arguments],
        cwd=settings.CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(settings.CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [line == "True" for line in done.stdout.split()]


@pytest.mark.slow
def test_killed_at_any_write_a_rerun_ends_in_the_same_table(
    lake: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path_factory.mktemp("kills")
    shutil.copytree(lake, root / "control")
    assert script("record", str(root / "control"), str(root / "points.json")) == [False]
    passed = [tuple(point) for point in json.loads((root / "points.json").read_text())]
    points = [(name, nth) for name, nth in passed if KILLED.search(name)]
    for number, _ in enumerate(points):
        shutil.copytree(lake, root / str(number))
    assert all(script("kill", json.dumps([(str(root / str(number)), *point) for number, point in enumerate(points)])))
    monkeypatch.setenv("MILLRACE_HOME", str(root / "control"))
    expected, commits = published(), delta.version_of(NAME)
    assert len(expected) == 2 * len(GOOD)
    left = []
    for number, point in enumerate(points):
        monkeypatch.setenv("MILLRACE_HOME", str(root / str(number)))
        left.append(len(published()))
        assert score().report.account == RowAccount(6, 6, 0, 0), point
        assert (published(), delta.version_of(NAME)) == (expected, commits), point
    assert {*left} == {len(GOOD), 2 * len(GOOD)}, "kills fell before the commit and after it, and none in between shows"

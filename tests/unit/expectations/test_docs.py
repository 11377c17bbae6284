"""Data Docs: pages of the newest runs, and nothing of the older ones."""

import json
import os
import time
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from contracts import catalog
from etl import engine
from etl.publishing import arrow_type
from expectations import docs
from expectations.audit import Audit, audit
from expectations.suite import Facts

CAMPAIGNS = catalog.table("silver.campaigns")


@pytest.fixture(scope="module")
def verdict() -> Audit:
    """Two campaigns, one without its number."""
    schema = pa.schema([(column.name, arrow_type(column.type)) for column in CAMPAIGNS.columns])
    rows = [{"campaign_id": 1, "customer_id": 7, "campaign_type": "Type A"}, {"customer_id": 7, "campaign_type": "Type A"}]
    return audit(CAMPAIGNS, engine.session().createDataFrame(pa.Table.from_pylist(rows, schema=schema)), {}, Facts(2, 2))


def keep(verdict: Audit, number: int) -> str:
    """Keep a result that is so many seconds old; the name of its run."""
    run = f"manual__2017-03-{number:02}T00:00:00+00:00"
    path = docs.keep(verdict, run)
    os.utime(path.parent, (1_500_000_000 + number, 1_500_000_000 + number))
    return run


def pages(home: Path) -> set[str]:
    """The runs that have a page."""
    return {path.parts[-3] for path in (home / "data_docs" / "site" / "validations").rglob("*.html")}


def test_a_result_is_kept_under_its_run_and_table(home: Path, verdict: Audit) -> None:
    path = docs.keep(verdict, "manual__2017-03-01T00:00:00+00:00/../x")
    assert path == home / "data_docs" / "results" / "manual__2017-03-01T00-00-00-00-00-..-x" / "silver.campaigns.json"
    plain = json.loads(path.read_text())
    assert (plain["success"], plain["meta"]["table"]) == (False, "silver.campaigns")
    (missing,) = [one["result"] for one in plain["results"] if not one["success"]]
    assert (missing["unexpected_count"], missing["element_count"]) == (1, 2)


def test_the_pages_are_those_of_the_newest_runs(home: Path, verdict: Audit) -> None:
    runs = [keep(verdict, number) for number in (7, 1, 2, 3, 4, 5, 6)]
    assert docs.render() == docs.index() == home / "data_docs" / "site" / "index.html"
    assert "silver.campaigns" in docs.index().read_text()
    newest = {runs[0], *runs[3:]}
    assert len(newest) == docs.RUNS
    assert pages(home) == {run.replace(":", "-").replace("+", "-") if run not in pages(home) else run for run in newest}
    assert len([*(home / "data_docs" / "results").iterdir()]) == docs.RUNS


def test_a_new_run_takes_the_place_of_the_oldest(home: Path, verdict: Audit) -> None:
    for number in range(1, docs.RUNS + 1):
        keep(verdict, number)
    docs.render()
    before = pages(home)
    keep(verdict, 20)
    docs.render()
    assert len(before - pages(home)) == len(pages(home) - before) == 1
    assert "2017-03-20" in next(iter(pages(home) - before))
    assert "2017-03-01" in next(iter(before - pages(home)))


def test_a_run_after_the_clock_was_set_back_is_the_newest(home: Path, verdict: Audit) -> None:
    runs = [keep(verdict, number) for number in range(1, docs.RUNS + 1)]
    tomorrow = time.time() + 86_400
    for path in (home / "data_docs" / "results").iterdir():
        os.utime(path, (tomorrow, tomorrow))
    for table in ("silver.campaigns", "silver.coupons"):
        docs.keep(replace(verdict, table=catalog.table(table)), "after")
    docs.render()
    assert len(runs) == docs.RUNS
    assert len([*(home / "data_docs" / "results").iterdir()]) == docs.RUNS
    assert len([*(home / "data_docs" / "results" / "after").iterdir()]) == 2


def test_without_a_run_there_is_an_index_all_the_same(home: Path) -> None:
    assert docs.render().exists()

"""Data Docs: pages of the newest runs, and nothing of the older ones."""

import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pytest

from etl import engine
from expectations import docs
from expectations.audit import Audit, audit
from expectations.suite import Facts
from lake.publishing import arrow_type
from tests.unit.expectations.test_audit import CAMPAIGNS, VOUCHERS


@pytest.fixture(scope="module")
def verdict() -> Audit:
    """Two campaigns, one without its number."""
    schema = pa.schema([(column.name, arrow_type(column.type)) for column in CAMPAIGNS.columns])
    rows = [
        {"campaign_id": 1, "guest_id": 7, "campaign_type": "Type A"},
        {"guest_id": 7, "campaign_type": "Type A"},
    ]
    return audit(
        CAMPAIGNS, engine.session().createDataFrame(pa.Table.from_pylist(rows, schema=schema)), {}, Facts(2, 2)
    )


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
    (missing,) = [result["result"] for result in plain["results"] if not result["success"]]
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
    for table in (CAMPAIGNS, VOUCHERS):
        docs.keep(replace(verdict, table=table), "after")
    docs.render()
    assert len(runs) == docs.RUNS
    assert len([*(home / "data_docs" / "results").iterdir()]) == docs.RUNS
    assert len([*(home / "data_docs" / "results" / "after").iterdir()]) == 2


def test_without_a_run_there_is_an_index_all_the_same(home: Path) -> None:
    assert docs.render().exists()


def test_runs_that_end_at_the_same_time_render_one_after_the_other(home: Path, verdict: Audit) -> None:
    keep(verdict, 1)
    docs.render()  # what is imported once is no part of the race
    with ThreadPoolExecutor(4) as pool:
        done = [pool.submit(docs.render) for _ in range(4)]
        assert {future.result() for future in done} == {docs.index()}
    assert len(pages(home)) == 1
    assert {path.name for path in (home / "data_docs").iterdir()} == {"results", "results.lock", "render.lock", "site"}


def test_a_failure_leaves_the_former_pages(home: Path, verdict: Audit) -> None:
    keep(verdict, 1)
    docs.render()
    before = pages(home)
    keep(verdict, 2)
    (home / "data_docs" / "results" / "torn").mkdir()
    (home / "data_docs" / "results" / "torn" / "silver.campaigns.json").write_text("{")
    with pytest.raises(ValueError, match="Expecting property name"):
        docs.render()
    assert pages(home) == before


class Resources(HTMLParser):
    """What a browser loads for a page by itself, and where its links lead."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.loads: set[str] = set()
        self.links: set[str] = set()
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list) -> None:
        attributes = dict(attrs)
        target = attributes.get("src") or (attributes.get("href") if tag in ("link", "a") else None)
        if target:
            (self.links if tag == "a" else self.loads).add(target)


def test_no_page_needs_the_internet_and_no_link_is_dead(home: Path, verdict: Audit) -> None:
    keep(verdict, 1)
    site = docs.render().parent
    result = [*site.rglob("*.html")]
    assert len(result) == 3, "the index, a suite and its result"
    for page in result:
        resources = Resources(page)
        assert resources.loads, "a style at least"
        near = resources.loads | {
            link for link in resources.links if not urlsplit(link).scheme and not link.startswith("#")
        }
        assert not [target for target in resources.loads if urlsplit(target).scheme or target.startswith("//")]
        assert not [target for target in near if not (page.parent / unquote(urlsplit(target).path)).exists()]
    assert not [
        style
        for style in (*result, *site.rglob("*.css"))
        if "url('http" in style.read_text() or 'url("http' in style.read_text()
    ]


def test_the_index_says_which_checks_are_broken_and_leads_to_their_page(home: Path, verdict: Audit) -> None:
    run = keep(verdict, 1)
    index = docs.render()
    text = index.read_text()
    assert run in text
    (page,) = [link for link in Resources(index).links if link.startswith("validations/")]
    assert "campaign_id" in (index.parent / unquote(page)).read_text()
    broken = [check.reason for check in verdict.checks if not check.success]
    assert broken
    assert all(f"critical: {reason}" in text for reason in broken)
    assert "✘ failed" in text


def test_a_broken_warning_is_no_failure_on_the_index() -> None:
    checks = [{"reason": "seats is 0", "severity": "warning", "success": False, "failed": 8869}]
    result = docs.pages.Result(
        "run",
        "",
        "t",
        {"checks": checks},
        {"evaluated_expectations": 2, "unsuccessful_expectations": 1},
        Path("/s/p.html"),
    )
    row = docs.pages._row(Path("/s"), result)
    assert "⚠ 1 warning<" in row
    assert "warning: seats is 0: 8,869 rows" in row

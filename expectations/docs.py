"""Data Docs: keep each validation result, and render those of the newest runs as pages.

Rendering is quick but Great Expectations slows down badly past a thousand, so only RUNS runs stay.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contracts import settings
from expectations.audit import Audit, to_json

RUNS = 5


def folder() -> Path:
    """Where results and pages lie."""
    return settings.home() / "data_docs"


def index() -> Path:
    """The page to open."""
    return folder() / "site" / "index.html"


def keep(verdict: Audit, run_id: str) -> Path:
    """Write one table's result aside for the pages; nothing is rendered yet."""
    target = folder() / "results" / _safe(run_id) / f"{verdict.table.qualified}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_suffix(".tmp")
    unfinished.write_text(to_json(verdict, run_id))
    unfinished.rename(target)
    _make_newest(target.parent)
    return target


def _make_newest(run: Path) -> None:
    """Give the run's folder a later time than all others have: runs are ordered by it, and a clock may be set back."""
    others = []
    for other in run.parent.iterdir():
        with suppress(FileNotFoundError):  # another run may be rendering
            others += [other.stat().st_mtime_ns] if other != run else []
    if (newest := max(others, default=0)) >= run.stat().st_mtime_ns:
        os.utime(run, ns=(newest + 1_000_000, newest + 1_000_000))


def _safe(run_id: str) -> str:
    return "".join(one if one.isalnum() or one in "-_." else "-" for one in run_id)


def render() -> Path:
    """Render the results of the newest runs and forget the older ones. Returns the index page; readers see the old pages until the new ones are complete."""
    import great_expectations as gx

    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    for run in _newest_runs():
        for path in sorted(run.glob("*.json")):
            _add(context, path)
    fresh, site = folder() / ".site", folder() / "site"
    shutil.rmtree(fresh, ignore_errors=True)
    context.add_data_docs_site("pages", _site(fresh))
    context.build_data_docs(site_names=["pages"])
    shutil.rmtree(site, ignore_errors=True)
    fresh.rename(site)
    return index()


def _newest_runs() -> list[Path]:
    runs = sorted((folder() / "results").glob("*"), key=lambda run: run.stat().st_mtime)
    for old in runs[:-RUNS]:
        shutil.rmtree(old)
    return runs[-RUNS:]


def _site(target: Path) -> Any:
    return {
        "class_name": "SiteBuilder",
        "show_how_to_buttons": False,
        "store_backend": {"class_name": "TupleFilesystemStoreBackend", "base_directory": str(target)},
        "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
    }


def _add(context: Any, path: Path) -> None:
    """One stored result, and the suite that it judges, into the context's stores."""
    import great_expectations as gx
    from great_expectations.core.expectation_validation_result import expectationSuiteValidationResultSchema
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.resource_identifiers import ExpectationSuiteIdentifier, ValidationResultIdentifier

    plain = json.loads(path.read_text())
    result = expectationSuiteValidationResultSchema.load(plain)
    name, run_name = plain["meta"]["table"], plain["meta"]["run_id"]
    moment = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    if name not in {suite.name for suite in context.suites.all()}:
        context.suites.add(gx.ExpectationSuite(name=name, expectations=[one.expectation_config.to_domain_obj() for one in result.results]))
    result.suite_name, run = name, RunIdentifier(run_name, moment)
    result.meta["run_id"] = run
    key = ValidationResultIdentifier(ExpectationSuiteIdentifier(name), run, name)
    context.validation_results_store.set(key, result)

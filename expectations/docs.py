"""Data Docs: store validation results, and render those of the newest runs as pages.

Great Expectations gets very slow past a thousand results, so only the newest RUNS runs are kept.
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
from urllib.parse import unquote, urlsplit

from expectations import pages
from expectations.audit import Audit, to_json
from lake import settings
from lake.files import locked, write_whole

RUNS = 5


def folder() -> Path:
    """The folder of results and pages."""
    return settings.home() / "data_docs"


def index() -> Path:
    """The index page."""
    return folder() / "site" / "index.html"


def keep(report: Audit, run_id: str) -> Path:
    """Store the result of a table for the next `render`. Returns its path."""
    target = folder() / "results" / _safe(run_id) / f"{report.table.qualified}.json"
    with locked(folder() / "results.lock"):  # else `render` may remove the folder before the write
        write_whole(target, to_json(report, run_id).encode())
        _make_newest(target.parent)
    return target


def _make_newest(run: Path) -> None:
    """Give the run's folder the newest mtime, by which runs are sorted, even if the clock was set back."""
    others = []
    for other in run.parent.iterdir():
        with suppress(FileNotFoundError):  # another run may be rendering
            others += [other.stat().st_mtime_ns] if other != run else []
    if (newest := max(others, default=0)) >= run.stat().st_mtime_ns:
        os.utime(run, ns=(newest + 1_000_000, newest + 1_000_000))


def _safe(run_id: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in run_id)


def render() -> Path:
    """Render the results of the newest runs and remove the older ones. Returns the index page.

    The new pages replace the old ones when they are complete; after an error the old ones stay. Concurrent calls run
    one after the other.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    with locked(folder() / "render.lock"):
        new, site, old = folder() / ".site", folder() / "site", folder() / ".former"
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)
        try:
            _build(new, _newest_runs())
            if site.exists():
                site.rename(old)
            new.rename(site)
        finally:
            for leftover in (new, old):
                shutil.rmtree(leftover, ignore_errors=True)
    return index()


def _build(target: Path, runs: list[Path]) -> None:
    """Build all pages in `target`: those of Great Expectations, made self-contained, and the index."""
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    context.add_data_docs_site("pages", _site(target))
    added = [(path, *_add(context, path)) for run in reversed(runs) for path in sorted(run.glob("*.json"))]
    context.build_data_docs(site_names=["pages"])
    results = []
    for path, key, plain in added:
        (url,) = context.get_docs_sites_urls(resource_identifier=key, site_names=["pages"])
        page = Path(unquote(urlsplit(url["site_url"]).path))
        moment = f"{datetime.fromtimestamp(path.stat().st_mtime, UTC):%Y-%m-%d %H:%M:%S} UTC"
        results.append(
            pages.Result(
                plain["meta"]["run_id"], moment, plain["meta"]["table"], plain["meta"], plain["statistics"], page
            )
        )
    pages.finish(target, results)


def _newest_runs() -> list[Path]:
    """The folders of the newest runs, oldest first. Older runs are removed."""
    with locked(folder() / "results.lock"):
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


def _add(context: Any, path: Path) -> tuple[Any, dict[str, Any]]:
    """Add a stored result and its suite to the context. Returns its key and the result as JSON."""
    import great_expectations as gx
    from great_expectations.core.expectation_validation_result import expectationSuiteValidationResultSchema
    from great_expectations.core.run_identifier import RunIdentifier
    from great_expectations.data_context.types.resource_identifiers import (
        ExpectationSuiteIdentifier,
        ValidationResultIdentifier,
    )

    plain: dict[str, Any] = json.loads(path.read_text())
    result = expectationSuiteValidationResultSchema.load(plain)
    name, run_name = plain["meta"]["table"], plain["meta"]["run_id"]
    moment = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    if name not in {suite.name for suite in context.suites.all()}:
        context.suites.add(
            gx.ExpectationSuite(
                name=name, expectations=[check.expectation_config.to_domain_obj() for check in result.results]
            )
        )
    result.suite_name, run = name, RunIdentifier(run_name, moment)
    result.meta["run_id"] = run
    key = ValidationResultIdentifier(ExpectationSuiteIdentifier(name), run, name)
    context.validation_results_store.set(key, result)
    return key, plain

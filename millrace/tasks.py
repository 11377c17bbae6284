"""Airflow's side of the steps: context in, asset events and XComs out. The steps themselves do not know Airflow."""

from __future__ import annotations

import difflib
import functools
import logging
from collections.abc import Callable
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar

from airflow.sdk import Asset, Param, get_current_context
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from contracts import project
from contracts.interval import Interval, IntervalError
from contracts.model import Table
from contracts.report import TableReport
from lake import settings
from lineage.naming import asset_uri
from millrace import errors, memory

INTERVAL = ("start", "end")
TRAINING_SET = ("name", "labels", "service", "release", "knowledge_time", "seed", "allow_beyond_horizon")
RETRIES = {"retries": 2, "retry_delay": timedelta(seconds=10)}
"""Of every task. Steps are idempotent, so a timeout of Airflow's API or a busy lock costs one more try."""
ON_DEMAND: dict[str, Any] = {
    "schedule": None,
    "catchup": False,
    "tags": ["millrace"],
    "default_args": {"owner": "ml-platform", **RETRIES, "execution_timeout": timedelta(hours=2)},
}
"""Options of a DAG that only runs when triggered. Each DAG file calls `DAG` itself: Airflow takes the file of that call
for the DAG's own.
"""
TRANSIENT_ERRORS = (
    "RunError",
    "ReleaseBusyError",
    "PublishError",
    "EngineError",
    "SparkError",
    "StorageError",
    "LockedError",
    "OnlineStoreUnreachableError",
    "RegistryUnreachableError",
    "RegistryConflictError",
    "DatabaseUnreachableError",
)
"""Millrace's errors with a cause outside, which a retry may fix. All others are verdicts on input, params or code.

A project marks its own transient error classes with `transient = True`.
"""

project.current()  # makes the project's modules importable in DAG files
log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")


def release_param() -> Param:
    """A DAG's param for the release to read."""
    return Param(
        None, type=["null", "integer"], minimum=1, title="Release", description="Its number; the newest unless given"
    )


def final(step: Callable[P, R]) -> Callable[P, R]:
    """Fail the task without a retry for a verdict (a failed audit, a bad file, a wrong param); let Airflow retry the
    rest.
    """

    @functools.wraps(step)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        _warn_of_memory_kill()
        try:
            return step(*args, **kwargs)
        except Exception as error:
            transient = type(error).__name__ in TRANSIENT_ERRORS or getattr(error, "transient", False)
            if errors.is_ours(error) and not transient:
                raise AirflowFailException(str(error)) from error
            raise

    return run


def _warn_of_memory_kill() -> None:
    """Log in the second try what the first one could not: that the kernel killed it."""
    try:
        number = get_current_context()["ti"].try_number
    except (LookupError, RuntimeError):
        return
    if number > 1 and (reason := memory.killed()):
        log.warning("If the try before was ended by SIGKILL: %s", reason)


def asset(qualified: str) -> Asset:
    """The Asset of a table, whose URI is also its dataset in lineage events."""
    return Asset(name=qualified, uri=asset_uri(qualified), group=qualified.split(".")[0])


@final
def check_interval(params: dict[str, Any], dag_run: Any) -> dict[str, str]:
    """The interval of this run as ISO dates: from the params or, if both are empty, from the schedule's data interval.

    AirflowFailException for an unknown param or an interval without data.
    """
    from millrace import pipeline, schema_check

    pipeline.ensure_project()
    schema_check.ensure()
    start, end, scheduled = _interval(params, dag_run)
    interval = pipeline.check_interval(start, end, scheduled=scheduled)
    print(f"This run carries {interval}, {interval.days} day{'s' * (interval.days > 1)}, through every layer")
    return {"start": str(interval.start), "end": str(interval.end)}


def _days_with_arrivals() -> tuple[str, str]:
    """From the first to the last day with something new, exclusive. It is compared again, because more may have come
    since the event, and a run before this one may have carried all of it. AirflowSkipException if so.
    """
    from millrace import pipeline

    outstanding = pipeline.outstanding()
    interval = outstanding.interval
    if interval is None:
        raise AirflowSkipException("an earlier run has carried on everything that came")
    print("\n".join(map(str, outstanding.arrivals)))
    return str(interval.start), str(interval.end)


def schedule(daily: Any) -> Any:
    """The schedule of the main DAG: these times and, with `MILLRACE_EVENTS=on`, whenever there is new data."""
    if not settings.starts_on_events():
        return daily
    from millrace import events

    return events.on_arrivals(daily)


@final
def pull(qualified: str, params: dict[str, Any], dag_run: Any) -> None:
    """Land the rows of a table's database, for the interval of this run; skipped for one that ends before today."""
    from millrace import pipeline

    if dag_run.run_type == "asset_triggered":
        raise AirflowSkipException("new data has started this run; the schedule, or a run by hand, pulls")
    start, end, _ = _interval(params, dag_run)
    try:
        pulled = pipeline.pull(qualified, Interval.parse(start, end))
    except IntervalError as error:
        raise AirflowSkipException(str(error)) from None
    print(f"{pulled.rows:,} rows landed as {pulled.file}" if pulled.file else "There is nothing new")


def _interval(params: dict[str, Any], dag_run: Any) -> tuple[str | None, str | None, bool]:
    """Start and end of a run, and whether they are those of the schedule."""
    ensure_known(dag_run.conf or {}, INTERVAL, "start and end (ISO dates, end exclusive)")
    start, end = params.get("start"), params.get("end")
    if not start and not end and dag_run.run_type == "asset_triggered":
        return *_days_with_arrivals(), False
    if not start and not end and dag_run.run_type != "manual":
        return str(dag_run.data_interval_start.date()), str(dag_run.data_interval_end.date()), True
    return start, end, False


def ensure_known(conf: dict[str, Any], known: tuple[str, ...], accepted: str) -> None:
    """Fail the task for a param that the DAG does not have, which Airflow would ignore. `accepted` lists valid ones."""
    unknown = sorted(set(conf) - set(known))
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise AirflowFailException(f"unknown param {', '.join(unknown)}. This DAG takes {accepted}.{hint}")


@final
def run_table(qualified: str, interval: dict[str, str], context: Any, outlet_events: Any) -> dict[str, Any]:
    """Build one table for the interval. Version and row account go into the asset event, the whole report into XCom."""
    from millrace import pipeline

    report = pipeline.run_table(qualified, Interval.parse(**interval), context["dag_run"].run_id, parent(context["ti"]))
    return record_asset_event(report, outlet_events)


def record_asset_event(report: TableReport, outlet_events: Any) -> dict[str, Any]:
    """Put a table's version and row account into its asset event and the log. Returns the report as JSON."""
    qualified, account = report.table, report.account
    warnings = [
        check.reason + (f": {check.failed:,} row{'s' * (check.failed > 1)}" if check.failed else "")
        for check in report.warnings
    ]
    outlet_events[asset(qualified)].extra = {
        "version": report.version,
        "status": report.status,
        "rows_in": account.rows_in,
        "published": account.published,
        "quarantined": account.quarantined,
        "duplicates": account.duplicates,
        "total_rows": report.total_rows,
        "warnings": warnings,
    }
    print(f"{qualified}: {report.status} as version {report.version}; {account}")
    for warning in warnings:
        log.warning("%s: %s", qualified, warning)
    return report.to_dict()


def parent(ti: Any) -> Any:
    """This task's run as the OpenLineage provider names it: the parent of our own lineage events."""
    from airflow.providers.openlineage.plugins import macros

    from lineage.record import Parent

    return Parent(
        macros.lineage_job_namespace(),
        macros.lineage_job_name(ti),
        macros.lineage_run_id(ti),
        macros.lineage_root_job_namespace(ti),
        macros.lineage_root_job_name(ti),
        macros.lineage_root_run_id(ti),
    )


@final
def make_release(interval: dict[str, str], context: Any) -> dict[str, Any]:
    """Pin the published versions as a release, which goes into XCom as JSON."""
    from dataclasses import asdict

    from millrace import pipeline

    release = asdict(
        pipeline.make_release(Interval.parse(**interval), context["dag_run"].run_id, parent(context["ti"]))
    )
    print(
        f"Release {release['number']} pins {len(release['tables'])} tables; features are known up to"
        f" {release['horizon']}"
    )
    return release


@final
def serve(ti: Any) -> dict[str, Any]:
    """Load the newest release online and switch to it once a sample matches training. Returns a report as JSON."""
    from millrace import pipeline, show

    served = pipeline.serve(parent=parent(ti))
    for view in served["views"]:
        print(f"{view['view']}: {view['status']}, {view['rows']:,} entities in {view['seconds']:.1f} s")
    if served["consistency"]:
        print(show.comparison(served["consistency"]))
    return served


@final
def create_training_set(params: dict[str, Any], dag_run: Any, ti: Any = None) -> dict[str, Any]:
    """Create a training set, and return its manifest as JSON. A retry returns what the first try had kept."""
    import json
    from dataclasses import asdict

    from features import training

    ensure_known(dag_run.conf or {}, TRAINING_SET, ", ".join(TRAINING_SET))
    created = _created_by_an_earlier_try(params["name"], dag_run, ti)
    if created is None:
        options = {name: params[name] for name in ("release", "knowledge_time", "seed")}
        options["allow_beyond_horizon"] = params.get("allow_beyond_horizon", False)
        created = training.create(
            training.from_request(params["labels"]), params["service"], params["name"], **options, say=print
        )
    print(f"Training set {created.name}: {created.rows:,} rows, {len(created.features)} features of {created.service}")
    # Through JSON, because XCom serializes a tuple as an object of its own.
    content: dict[str, Any] = json.loads(json.dumps(asdict(created)))
    return content


def _created_by_an_earlier_try(name: str, dag_run: Any, ti: Any) -> Any:
    """The manifest of that name if this is a retry and an earlier try of this run wrote it; else None."""
    from datetime import datetime

    from lake import manifest

    if not ti or ti.try_number < 2 or name not in manifest.names():
        return None
    kept = manifest.read(name)
    return kept if datetime.fromisoformat(kept.created_at) >= dag_run.start_date.replace(microsecond=0) else None


@final
def check_leaks(name: str) -> dict[str, Any]:
    """Check a training set for leaks, log the findings, and return the report as JSON."""
    from features import training

    report = training.check_leaks(name, say=print)
    for feature in report.features:
        print(
            f"{feature.feature}: {feature.known:,} known, {feature.changed:,} corrected since,"
            f" {feature.unpublished:,} published later, {feature.future:,} of the future"
        )
    print(". ".join(report.sentences))
    return report.to_dict()


def render_docs() -> str:
    """Render the Data Docs and return their index page. A failure skips the task: published tables are intact."""
    from millrace import pipeline

    try:
        return pipeline.render_docs()
    except pipeline.DocsError as error:
        log.warning("%s", error)
        raise AirflowSkipException(str(error)) from error


def describe(table: Table) -> str:
    """A task's documentation in Markdown: what the contract says about its table."""
    columns = "\n".join(f"| `{column.name}` | {column.type.spark} | {column.doc} |" for column in table.columns)
    return (
        f"**{table.doc}**: {table.grain}. Owner: {table.owner}.\n\n| column | type | meaning"
        f" |\n|---|---|---|\n{columns}"
    )

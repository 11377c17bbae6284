"""Airflow's side of the steps: context in, asset events and XComs out. The steps themselves know nothing of Airflow."""

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
from contracts.interval import Interval
from contracts.model import Table
from contracts.report import TableReport
from lineage.naming import asset_uri
from millrace import errors, memory

INTERVAL = ("start", "end")
TRAINING_SET = ("name", "labels", "service", "release", "knowledge_time", "seed", "allow_beyond_horizon")
RETRIES = {"retries": 2, "retry_delay": timedelta(seconds=10)}
"""Of every task: steps do what is left to do, so a time-out of Airflow's own API or a busy lock costs a second try."""
ON_DEMAND: dict[str, Any] = {
    "schedule": None,
    "catchup": False,
    "tags": ["millrace"],
    "default_args": {"owner": "ml-platform", **RETRIES, "execution_timeout": timedelta(hours=2)},
}
"""Options of a DAG that runs when somebody triggers it. No function that makes the DAG: Airflow takes the file that
calls `DAG` for the DAG's own.
"""
PASSING = (
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
)
"""Errors of ours that another try may mend: the world outside was at fault. All others are verdicts on input, params or
code.

A project's own error class says so of itself: `transient = True`.
"""

project.current()  # so that DAG files may import its modules
log = logging.getLogger(__name__)
P = ParamSpec("P")
R = TypeVar("R")


def release_param() -> Param:
    """The release that a DAG reads."""
    return Param(
        None, type=["null", "integer"], minimum=1, title="Release", description="Its number; the newest unless given"
    )


def final(step: Callable[P, R]) -> Callable[P, R]:
    """Let a verdict (a failed audit, a bad file, a wrong param) fail the task at once, and anything else be tried
    again.
    """

    @functools.wraps(step)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        _mind_memory()
        try:
            return step(*args, **kwargs)
        except Exception as error:
            if errors.is_ours(error) and type(error).__name__ not in PASSING and not getattr(error, "transient", False):
                raise AirflowFailException(str(error)) from error
            raise

    return run


def _mind_memory() -> None:
    """Say in a second try's log what the first one could not: that the kernel killed it."""
    try:
        number = get_current_context()["ti"].try_number
    except (LookupError, RuntimeError):
        return
    if number > 1 and (reason := memory.killed()):
        log.warning("If the try before was ended by SIGKILL: %s", reason)


def asset(qualified: str) -> Asset:
    """The Asset of a table; lineage events name the same dataset."""
    return Asset(name=qualified, uri=asset_uri(qualified), group=qualified.split(".")[0])


@final
def check_interval(params: dict[str, Any], dag_run: Any) -> dict[str, str]:
    """The interval of this run as ISO dates: from the params, or from the schedule's data interval when neither is
    given.
    """
    from millrace import pipeline

    pipeline.ensure_project()
    refuse_unknown(dag_run.conf or {}, INTERVAL, "start and end (ISO dates, end exclusive)")
    start, end, scheduled = params.get("start"), params.get("end"), False
    if not start and not end and dag_run.run_type != "manual":
        start, end, scheduled = str(dag_run.data_interval_start.date()), str(dag_run.data_interval_end.date()), True
    interval = pipeline.check_interval(start, end, scheduled=scheduled)
    print(f"This run carries {interval}, {interval.days} day{'s' * (interval.days > 1)}, through every layer")
    return {"start": str(interval.start), "end": str(interval.end)}


def refuse_unknown(conf: dict[str, Any], known: tuple[str, ...], told: str) -> None:
    """Fail the task where a caller gave a param that the DAG does not have; Airflow would ignore it."""
    unknown = sorted(set(conf) - set(known))
    if unknown:
        near = difflib.get_close_matches(unknown[0], known, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise AirflowFailException(f"unknown param {', '.join(unknown)}. This DAG takes {told}.{hint}")


@final
def run_table(qualified: str, interval: dict[str, str], context: Any, outlet_events: Any) -> dict[str, Any]:
    """Carry the interval into one table; its version and row account go into the asset event, the whole report into
    XCom.
    """
    from millrace import pipeline

    report = pipeline.run_table(qualified, Interval.parse(**interval), context["dag_run"].run_id, parent(context["ti"]))
    return announce(report, outlet_events)


def announce(report: TableReport, outlet_events: Any) -> dict[str, Any]:
    """Put version and row account into the asset event and the log. Returns the report as JSON."""
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
    """The run of this task as the OpenLineage provider names it, so that our events hang below it."""
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
    """Pin what is published now; the release number and its versions go into XCom."""
    from dataclasses import asdict

    from millrace import pipeline

    made = asdict(pipeline.make_release(Interval.parse(**interval), context["dag_run"].run_id, parent(context["ti"])))
    print(f"Release {made['number']} pins {len(made['tables'])} tables; features are known up to {made['horizon']}")
    return made


@final
def serve(ti: Any) -> dict[str, Any]:
    """Serve the newest release, once it was compared with training."""
    from millrace import pipeline, show

    served = pipeline.serve(parent=parent(ti))
    for view in served["views"]:
        print(f"{view['view']}: {view['status']}, {view['rows']:,} entities in {view['seconds']:.1f} s")
    if served["consistency"]:
        print(show.compared(served["consistency"]))
    return served


@final
def create_training_set(params: dict[str, Any], dag_run: Any, ti: Any = None) -> dict[str, Any]:
    """The manifest of a new training set, as JSON. A second try returns what the first one kept before it failed."""
    import json
    from dataclasses import asdict

    from features import training

    refuse_unknown(dag_run.conf or {}, TRAINING_SET, ", ".join(TRAINING_SET))
    made = _kept_by_an_earlier_try(params["name"], dag_run, ti)
    if made is None:
        options = {name: params[name] for name in ("release", "knowledge_time", "seed")}
        options["allow_beyond_horizon"] = params.get("allow_beyond_horizon", False)
        made = training.create(
            training.from_request(params["labels"]), params["service"], params["name"], **options, say=print
        )
    print(f"Training set {made.name}: {made.rows:,} rows, {len(made.features)} features of {made.service}")
    told: dict[str, Any] = json.loads(json.dumps(asdict(made)))  # an XCom has a word of its own for tuples
    return told


def _kept_by_an_earlier_try(name: str, dag_run: Any, ti: Any) -> Any:
    """The manifest of that name, if this task was tried before in this run and the manifest is no older than the
    run.
    """
    from datetime import datetime

    from lake import manifest

    if not ti or ti.try_number < 2 or name not in manifest.names():
        return None
    kept = manifest.read(name)
    return kept if datetime.fromisoformat(kept.created_at) >= dag_run.start_date.replace(microsecond=0) else None


@final
def check_leaks(name: str) -> dict[str, Any]:
    """The leak check's report, as JSON; its sentences go to the log, too."""
    from features import training

    found = training.check_leaks(name, say=print)
    for one in found.features:
        print(
            f"{one.feature}: {one.known:,} known, {one.changed:,} corrected since, {one.unpublished:,} published later,"
            f" {one.future:,} of the future"
        )
    print(". ".join(found.sentences))
    return found.to_dict()


def render_docs() -> str:
    """Render the Data Docs and return where they are. When that fails the task is skipped: published tables are
    intact.
    """
    from millrace import pipeline

    try:
        return pipeline.render_docs()
    except pipeline.DocsError as error:
        log.warning("%s", error)
        raise AirflowSkipException(str(error)) from error


def describe(table: Table) -> str:
    """A task's own page: what the contract says about its table."""
    columns = "\n".join(f"| `{c.name}` | {c.type.spark} | {c.doc} |" for c in table.columns)
    return (
        f"**{table.doc}**: {table.grain}. Owner: {table.owner}.\n\n| column | type | meaning"
        f" |\n|---|---|---|\n{columns}"
    )

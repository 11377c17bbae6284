"""Record the run of a table or feature view as events; for tasks to call.

    with recorded(table, interval, parent=parent, engine=Engine("sail", "0.7.2")) as run:
        run.report = publish(...)

START is emitted on entry, COMPLETE on exit, or FAIL with the error, which is raised again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from contracts.interval import Interval
from contracts.model import Table
from contracts.report import CheckResult, TableReport
from lineage import events
from lineage.emit import emit
from lineage.events import Engine, Parent, Served, Step, Versions
from lineage.facets import Artifact

__all__ = [
    "Artifact",
    "Engine",
    "Parent",
    "Served",
    "TableRun",
    "ViewRun",
    "record_artifact",
    "recorded",
    "recorded_view",
]


@dataclass
class TableRun:
    """A run in progress. Set `report` when the table is published, or `checks` when an audit stops the run."""

    step: Step
    report: TableReport | None = None
    checks: tuple[CheckResult, ...] = ()


@dataclass
class ViewRun:
    """A materialization in progress. Set `served` when the view is live, or `checks` when they stop it."""

    step: Step
    served: Served | None = None
    checks: tuple[CheckResult, ...] = ()


@contextmanager
def recorded(
    table: Table,
    interval: Interval | None = None,
    inputs: Versions | None = None,
    *,
    artifacts: tuple[Artifact, ...] = (),
    parent: Parent | None = None,
    engine: Engine | None = None,
) -> Iterator[TableRun]:
    """Record one run of a table. `inputs` are the input versions known at the start; the report overrides them."""
    run = TableRun(events.table_step(table, interval, parent, engine, artifacts))
    emit(events.table_started(run.step, inputs))
    try:
        yield run
    except BaseException as problem:
        emit(events.table_failed(run.step, problem, inputs, run.checks))
        raise
    for event in events.table_completed(run.step, run.report):
        emit(event)


def record_artifact(
    job_output: str,
    artifact: Artifact,
    inputs: Versions,
    *,
    parent: Parent | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Record that the job of `job_output` made an artifact, such as a model, from tables at these versions."""
    for event in events.artifact_completed(job_output, artifact, inputs, parent, tags):
        emit(event)


@contextmanager
def recorded_view(
    table: Table,
    version: int | None = None,
    *,
    view: str | None = None,
    release: int | None = None,
    parent: Parent | None = None,
    engine: Engine | None = None,
) -> Iterator[ViewRun]:
    """Record the materialization of a feature view from its gold table at `version`, the one of `release`."""
    run = ViewRun(events.view_step(table, view, release, parent, engine))
    emit(events.view_started(run.step, version))
    try:
        yield run
    except BaseException as problem:
        emit(events.view_failed(run.step, problem, version, run.checks))
        raise
    emit(events.view_completed(run.step, version, run.served))

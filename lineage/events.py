"""Contract and report -> START, COMPLETE, FAIL and ABORT events of one table, of its audit, and of one feature view.
Pure: nothing is sent.

A table's run reads its input tables (bronze: the landed files) and writes the table. What the audit found is a run of
its own, `millrace.<layer>.<name>.audit`, child of the table's run, with the table as its input: the spec keeps
assertions and metrics at inputs, and a table among its own inputs would be a loop in every lineage graph. It is told
only when rows were published; a failed audit leaves the table as it was, so its checks appear at the run alone (facet
`test`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from openlineage.client.event_v2 import InputDataset, Job, OutputDataset, Run, RunEvent, RunState
from openlineage.client.uuid import generate_new_uuid

from contracts import catalog
from contracts.interval import Interval
from contracts.model import Layer, Table
from contracts.report import PUBLISHED, CheckResult, TableReport
from lineage import facets, naming
from lineage.facets import Artifact
from lineage.naming import Name

Versions = Mapping[str, int | None]
"""Table -> Delta version that is read; None where it is not known yet."""


@dataclass(frozen=True)
class Parent:
    """The run that started ours, an Airflow task as a rule, and the run at the top, its DAG run."""

    job_namespace: str
    job_name: str
    run_id: str
    root_job_namespace: str | None = None
    root_job_name: str | None = None
    root_run_id: str | None = None

    @property
    def job(self) -> Name:
        """The parent job."""
        return Name(self.job_namespace, self.job_name)

    @property
    def root(self) -> tuple[Name, str] | None:
        """Job and run id at the top; None unless all three parts are known."""
        if not (self.root_job_namespace and self.root_job_name and self.root_run_id):
            return None
        return Name(self.root_job_namespace, self.root_job_name), self.root_run_id


@dataclass(frozen=True)
class Engine:
    """What computes the rows, such as Sail 0.7.2."""

    name: str
    version: str


@dataclass(frozen=True)
class Served:
    """What the online store holds after a view was materialized: its `generation`, and the checks (parity) that let it
    go live.
    """

    generation: str
    rows: int
    checks: tuple[CheckResult, ...] = ()


@dataclass(frozen=True)
class Step:
    """One run of one job: what all of its events say alike. `made` is `silver.transactions` or
    `features.customer_activity`; `artifacts` are read besides tables.
    """

    made: str
    table: Table
    interval: Interval | None = None
    parent: Parent | None = None
    engine: Engine | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    kind: str = "TABLE"
    artifacts: tuple[Artifact, ...] = ()
    run_id: str = field(default_factory=lambda: str(generate_new_uuid()))

    @property
    def as_parent(self) -> Parent:
        """For runs that this one starts; they share its root."""
        top, run_id = (
            (self.parent.root or (self.parent.job, self.parent.run_id))
            if self.parent
            else (naming.job(self.made), self.run_id)
        )
        return Parent(*naming.job(self.made), self.run_id, *top, run_id)


def table_step(
    table: Table,
    interval: Interval | None = None,
    parent: Parent | None = None,
    engine: Engine | None = None,
    artifacts: tuple[Artifact, ...] = (),
) -> Step:
    """A run that makes a table."""
    return Step(table.qualified, table, interval, parent, engine, artifacts=artifacts)


def view_step(
    table: Table,
    view: str | None = None,
    release: int | None = None,
    parent: Parent | None = None,
    engine: Engine | None = None,
) -> Step:
    """A run that materializes a feature view (named like its gold table unless told otherwise) from a release."""
    tags = {} if release is None else {"release": str(release)}
    return Step(f"features.{view or table.name}", table, None, parent, engine, tags, "FEATURE_VIEW")


# --- a table


def table_started(step: Step, versions: Versions | None = None) -> RunEvent:
    """The run begins."""
    return _event(RunState.START, step, _read(step, versions), [_table_out(step.table)])


def table_completed(step: Step, report: TableReport | None) -> list[RunEvent]:
    """The run has ended well; with a report, what it read and wrote, and its audit."""
    if report is None:
        return [_event(RunState.COMPLETE, step, _read(step, None), [_table_out(step.table)])]
    done = _event(
        RunState.COMPLETE,
        step,
        _read(step, report.inputs, report),
        _written(step.table, report),
        _tests(step, report.checks),
    )
    return [done, *_audited(step, report)]


def table_failed(
    step: Step, problem: BaseException, versions: Versions | None = None, checks: Iterable[CheckResult] = ()
) -> RunEvent:
    """The run stopped and published nothing; `checks` are those of the audit, where it came to one."""
    return _event(
        _end_of(problem),
        step,
        _read(step, versions),
        [_table_out(step.table)],
        {"errorMessage": facets.error(problem), **_tests(step, checks)},
    )


def _audited(step: Step, report: TableReport) -> list[RunEvent]:
    """START and COMPLETE of the audit; none when nothing was checked."""
    if not report.checks:
        return []
    audit = Step(f"{step.made}.audit", step.table, step.interval, step.as_parent, step.engine, kind="AUDIT")
    read = _table_in(report.table, report.version)
    checked = _table_in(report.table, report.version, facets.quality(step.table, report))
    return [_event(RunState.START, audit, [read], []), _event(RunState.COMPLETE, audit, [checked], [])]


def _read(step: Step, versions: Versions | None, report: TableReport | None = None) -> list[InputDataset]:
    """The tables of a run's input, or the folder of landed files, and the artifacts."""
    known = dict(versions or {})
    tables = [_table_in(name, known.get(name)) for name in dict.fromkeys((*step.table.inputs, *known))]
    return [*(tables or [_landed(step.table, report)]), *map(_artifact_in, step.artifacts)]


def _artifact_in(artifact: Artifact) -> InputDataset:
    return InputDataset(*naming.of_location(artifact.location), facets=facets.of_artifact(artifact))


def _landed(table: Table, report: TableReport | None = None) -> InputDataset:
    place = naming.of_landing(table.name)
    read = facets.files_read(report.files, report.account.rows_in) if report else {}
    return InputDataset(*place, facets=facets.of_files(place), inputFacets=read)


def _table_in(qualified: str, version: int | None, found: Mapping[str, Any] | None = None) -> InputDataset:
    known = {table.qualified: table for table in catalog.all_tables()}.get(qualified)
    about = facets.of_table(known, version) if known else facets.of_delta(qualified, version)
    return InputDataset(*naming.of_table(qualified), facets=about, inputFacets=dict(found or {}))


def _table_out(table: Table, version: int | None = None, written: Mapping[str, Any] | None = None) -> OutputDataset:
    return OutputDataset(
        *naming.of_table(table.qualified), facets=facets.of_table(table, version), outputFacets=dict(written or {})
    )


def _written(table: Table, report: TableReport) -> list[OutputDataset]:
    out = {"millrace_rowAccount": facets.row_account(report)}
    if report.status == PUBLISHED:
        out["outputStatistics"] = facets.statistics(report.account.published)
    dataset = _table_out(table, report.version, out)
    about: dict[str, Any] = {**(dataset.facets or {})}
    if report.total_rows is not None or report.total_bytes is not None:
        about["dataQualityMetrics"] = facets.whole_table(report)
    if report.status == PUBLISHED and report.version <= 1:  # version 0 creates the table empty
        about["lifecycleStateChange"] = facets.created()
    dataset.facets = about
    return [dataset, *_quarantined(table, report)]


def _quarantined(table: Table, report: TableReport) -> list[OutputDataset]:
    if not report.account.quarantined or report.quarantine_version is None:
        return []
    qualified = f"{Layer.QUARANTINE}.{table.name}"
    written = {"outputStatistics": facets.statistics(report.account.quarantined)}
    return [
        OutputDataset(
            *naming.of_table(qualified),
            facets=facets.of_delta(qualified, report.quarantine_version),
            outputFacets=written,
        )
    ]


# --- an artifact


def artifact_completed(
    made: str,
    artifact: Artifact,
    versions: Versions,
    parent: Parent | None = None,
    tags: Mapping[str, str] | None = None,
) -> list[RunEvent]:
    """START and COMPLETE of the run of `made` that made an artifact from tables. There is no event before it is there:
    its name and its inputs are known then.
    """
    run, job = (
        Run(str(generate_new_uuid()), facets=_about(parent=parent, tags=tags)),
        Job(*naming.job(made), facets=facets.of_job(artifact, artifact.kind)),
    )
    inputs = [_table_in(name, version) for name, version in versions.items()]
    output = OutputDataset(*naming.of_location(artifact.location), facets=facets.of_artifact(artifact))
    return [
        RunEvent(
            eventType=state,
            eventTime=_now(),
            run=run,
            job=job,
            inputs=inputs,
            outputs=[output],
            producer=facets.PRODUCER,
        )
        for state in (RunState.START, RunState.COMPLETE)
    ]


# --- a feature view


def view_started(step: Step, version: int | None) -> RunEvent:
    """The gold table at `version` begins to be put into the online store."""
    return _event(RunState.START, step, [_table_in(step.table.qualified, version)], [_online(step)])


def view_completed(step: Step, version: int | None, served: Served | None) -> RunEvent:
    """The view is served."""
    checks = served.checks if served else ()
    return _event(
        RunState.COMPLETE,
        step,
        [_table_in(step.table.qualified, version)],
        [_online(step, served)],
        _tests(step, checks),
    )


def view_failed(
    step: Step, problem: BaseException, version: int | None, checks: Iterable[CheckResult] = ()
) -> RunEvent:
    """What was served before is served still."""
    found = {"errorMessage": facets.error(problem), **_tests(step, checks)}
    return _event(_end_of(problem), step, [_table_in(step.table.qualified, version)], [_online(step)], found)


def _online(step: Step, served: Served | None = None) -> OutputDataset:
    about = facets.of_view(step.table)
    if served is None:
        return OutputDataset(*naming.of_online(_view(step)), facets=about)
    about["version"] = facets.dataset_version(served.generation)
    return OutputDataset(
        *naming.of_online(_view(step)), facets=about, outputFacets={"outputStatistics": facets.statistics(served.rows)}
    )


def _view(step: Step) -> str:
    return step.made.removeprefix("features.")


# --- all of them


def _event(
    state: RunState,
    step: Step,
    inputs: list[InputDataset],
    outputs: list[OutputDataset],
    found: Mapping[str, Any] | None = None,
) -> RunEvent:
    return RunEvent(
        eventType=state,
        eventTime=_now(),
        run=Run(step.run_id, facets={**_of_run(step), **(found or {})}),
        job=Job(*naming.job(step.made), facets=facets.of_job(step.table, step.kind)),
        inputs=inputs,
        outputs=outputs,
        producer=facets.PRODUCER,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _of_run(step: Step) -> dict[str, Any]:
    return _about(step.interval, step.engine, step.parent, step.tags)


def _about(
    interval: Interval | None = None,
    engine: Engine | None = None,
    parent: Parent | None = None,
    tags: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    about: dict[str, Any] = {}
    if interval:
        about["nominalTime"] = facets.nominal_time(interval)
    if engine:
        about["processing_engine"] = facets.engine(engine.name, engine.version)
    if parent:
        about["parent"] = facets.parent(parent.job, parent.run_id, parent.root)
    if tags:
        about["tags"] = facets.run_tags(tags)
    return about


def _tests(step: Step, checks: Iterable[CheckResult]) -> dict[str, Any]:
    found = tuple(checks)
    return {"test": facets.tests(step.table, found)} if found else {}


def _end_of(problem: BaseException) -> RunState:
    """An error fails the run; an interrupt or exit, which is no error of the run's own, aborts it."""
    return RunState.FAIL if isinstance(problem, Exception) else RunState.ABORT

"""Contract and report -> the START, COMPLETE, FAIL and ABORT events of a table, its audit, and a feature view. Pure.

A table's run reads its input tables (bronze: the landed files) and writes the table. The audit is a run of its own,
`millrace.<layer>.<name>.audit`, a child of the table's run, with the table as its input: the spec puts assertions and
metrics on inputs, and a table among its own inputs would be a loop in lineage graphs. It is only emitted when rows were
published. The checks of a failed audit are in the run's facet `test`.
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
"""Table -> Delta version that the run reads; None where it is not known yet."""


@dataclass(frozen=True)
class Parent:
    """The run that started ours, usually an Airflow task, and its root, usually a DAG run."""

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
        """Job and run id of the root; None unless all three parts are known."""
        if not (self.root_job_namespace and self.root_job_name and self.root_run_id):
            return None
        return Name(self.root_job_namespace, self.root_job_name), self.root_run_id


@dataclass(frozen=True)
class Engine:
    """The engine that computes the rows, such as Sail 0.7.2."""

    name: str
    version: str


@dataclass(frozen=True)
class Served:
    """A materialized view in the online store: its `generation` and the parity checks that it passed."""

    generation: str
    rows: int
    checks: tuple[CheckResult, ...] = ()


@dataclass(frozen=True)
class Step:
    """One run of one job: what its events have in common.

    `output` is `silver.transactions` or `features.customer_activity`; `artifacts` are inputs that are not tables.
    """

    output: str
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
        """The parent of runs that this one starts; they share its root."""
        root_job, root_run_id = (
            (self.parent.root or (self.parent.job, self.parent.run_id))
            if self.parent
            else (naming.job(self.output), self.run_id)
        )
        return Parent(*naming.job(self.output), self.run_id, *root_job, root_run_id)


def table_step(
    table: Table,
    interval: Interval | None = None,
    parent: Parent | None = None,
    engine: Engine | None = None,
    artifacts: tuple[Artifact, ...] = (),
) -> Step:
    """A run that writes a table."""
    return Step(table.qualified, table, interval, parent, engine, artifacts=artifacts)


def view_step(
    table: Table,
    view: str | None = None,
    release: int | None = None,
    parent: Parent | None = None,
    engine: Engine | None = None,
) -> Step:
    """A run that materializes a feature view, by default named like its gold table, from a release."""
    tags = {} if release is None else {"release": str(release)}
    return Step(f"features.{view or table.name}", table, None, parent, engine, tags, "FEATURE_VIEW")


# --- a table


def table_started(step: Step, versions: Versions | None = None) -> RunEvent:
    """The START event."""
    return _event(RunState.START, step, _inputs(step, versions), [_table_out(step.table)])


def table_completed(step: Step, report: TableReport | None) -> list[RunEvent]:
    """The COMPLETE event; with a report, including its inputs, outputs and audit."""
    if report is None:
        return [_event(RunState.COMPLETE, step, _inputs(step, None), [_table_out(step.table)])]
    completed = _event(
        RunState.COMPLETE,
        step,
        _inputs(step, report.inputs, report),
        _outputs(step.table, report),
        _tests(step, report.checks),
    )
    return [completed, *_audit_events(step, report)]


def table_failed(
    step: Step, problem: BaseException, versions: Versions | None = None, checks: Iterable[CheckResult] = ()
) -> RunEvent:
    """The FAIL or ABORT event of a run that published nothing; `checks` are those of its audit, if it got there."""
    return _event(
        _end_of(problem),
        step,
        _inputs(step, versions),
        [_table_out(step.table)],
        {"errorMessage": facets.error(problem), **_tests(step, checks)},
    )


def _audit_events(step: Step, report: TableReport) -> list[RunEvent]:
    """START and COMPLETE of the audit; none without checks."""
    if not report.checks:
        return []
    audit = Step(f"{step.output}.audit", step.table, step.interval, step.as_parent, step.engine, kind="AUDIT")
    table = _table_in(report.table, report.version)
    checked = _table_in(report.table, report.version, facets.quality(step.table, report))
    return [_event(RunState.START, audit, [table], []), _event(RunState.COMPLETE, audit, [checked], [])]


def _inputs(step: Step, versions: Versions | None, report: TableReport | None = None) -> list[InputDataset]:
    """The inputs of a run: tables, or else the folder of landed files, and artifacts."""
    by_table = dict(versions or {})
    tables = [_table_in(name, by_table.get(name)) for name in dict.fromkeys((*step.table.inputs, *by_table))]
    return [*(tables or [_landed(step.table, report)]), *map(_artifact_in, step.artifacts)]


def _artifact_in(artifact: Artifact) -> InputDataset:
    return InputDataset(*naming.of_location(artifact.location), facets=facets.of_artifact(artifact))


def _landed(table: Table, report: TableReport | None = None) -> InputDataset:
    folder = naming.of_landing(table.name)
    read = facets.files_read(report.files, report.account.rows_in) if report else {}
    return InputDataset(*folder, facets=facets.of_files(folder), inputFacets=read)


def _table_in(qualified: str, version: int | None, input_facets: Mapping[str, Any] | None = None) -> InputDataset:
    contract = {table.qualified: table for table in catalog.all_tables()}.get(qualified)
    return InputDataset(
        *naming.of_table(qualified),
        facets=facets.of_table(contract, version) if contract else facets.of_delta(qualified, version),
        inputFacets=dict(input_facets or {}),
    )


def _table_out(
    table: Table, version: int | None = None, output_facets: Mapping[str, Any] | None = None
) -> OutputDataset:
    return OutputDataset(
        *naming.of_table(table.qualified),
        facets={**facets.of_table(table, version), **facets.column_lineage(table)},
        outputFacets=dict(output_facets or {}),
    )


def _outputs(table: Table, report: TableReport) -> list[OutputDataset]:
    output_facets = {"millrace_rowAccount": facets.row_account(report)}
    if report.status == PUBLISHED:
        output_facets["outputStatistics"] = facets.statistics(report.account.published)
    dataset = _table_out(table, report.version, output_facets)
    dataset_facets: dict[str, Any] = {**(dataset.facets or {})}
    if report.total_rows is not None or report.total_bytes is not None:
        dataset_facets["dataQualityMetrics"] = facets.whole_table(report)
    if report.status == PUBLISHED and report.version <= 1:  # version 0 creates the table empty
        dataset_facets["lifecycleStateChange"] = facets.created()
    dataset.facets = dataset_facets
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
    job_output: str,
    artifact: Artifact,
    versions: Versions,
    parent: Parent | None = None,
    tags: Mapping[str, str] | None = None,
) -> list[RunEvent]:
    """START and COMPLETE of the run of the job of `job_output` that made an artifact from tables.

    Both come after the fact: only then are the artifact's name and inputs known.
    """
    run = Run(str(generate_new_uuid()), facets=_run_facets(parent=parent, tags=tags))
    job = Job(*naming.job(job_output), facets=facets.of_job(artifact, artifact.kind))
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
    """The START event of a materialization of the gold table at `version`."""
    return _event(RunState.START, step, [_table_in(step.table.qualified, version)], [_online(step)])


def view_completed(step: Step, version: int | None, served: Served | None) -> RunEvent:
    """The COMPLETE event: the view is live."""
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
    """The FAIL or ABORT event: the former generation stays live."""
    run_facets = {"errorMessage": facets.error(problem), **_tests(step, checks)}
    return _event(_end_of(problem), step, [_table_in(step.table.qualified, version)], [_online(step)], run_facets)


def _online(step: Step, served: Served | None = None) -> OutputDataset:
    name = naming.of_online(_view(step))
    dataset_facets = {**facets.of_view(step.table), **facets.column_lineage_of_view(step.table)}
    if served is None:
        return OutputDataset(*name, facets=dataset_facets)
    dataset_facets["version"] = facets.dataset_version(served.generation)
    statistics = {"outputStatistics": facets.statistics(served.rows)}
    return OutputDataset(*name, facets=dataset_facets, outputFacets=statistics)


def _view(step: Step) -> str:
    return step.output.removeprefix("features.")


# --- all of them


def _event(
    state: RunState,
    step: Step,
    inputs: list[InputDataset],
    outputs: list[OutputDataset],
    run_facets: Mapping[str, Any] | None = None,
) -> RunEvent:
    return RunEvent(
        eventType=state,
        eventTime=_now(),
        run=Run(step.run_id, facets={**_step_facets(step), **(run_facets or {})}),
        job=Job(*naming.job(step.output), facets=facets.of_job(step.table, step.kind)),
        inputs=inputs,
        outputs=outputs,
        producer=facets.PRODUCER,
    )


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _step_facets(step: Step) -> dict[str, Any]:
    return _run_facets(step.interval, step.engine, step.parent, step.tags)


def _run_facets(
    interval: Interval | None = None,
    engine: Engine | None = None,
    parent: Parent | None = None,
    tags: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    run_facets: dict[str, Any] = {}
    if interval:
        run_facets["nominalTime"] = facets.nominal_time(interval)
    if engine:
        run_facets["processing_engine"] = facets.engine(engine.name, engine.version)
    if parent:
        run_facets["parent"] = facets.parent(parent.job, parent.run_id, parent.root)
    if tags:
        run_facets["tags"] = facets.run_tags(tags)
    return run_facets


def _tests(step: Step, checks: Iterable[CheckResult]) -> dict[str, Any]:
    results = tuple(checks)
    return {"test": facets.tests(step.table, results)} if results else {}


def _end_of(problem: BaseException) -> RunState:
    """FAIL for an error, ABORT for an interrupt or exit."""
    return RunState.FAIL if isinstance(problem, Exception) else RunState.ABORT

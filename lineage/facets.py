"""Contract and report -> the facets of OpenLineage events. Pure.

Each facet names our producer: the client's `set_producer` is global, and in Airflow tasks the provider has called it.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar
from urllib.parse import quote

import attr
from openlineage.client.facet_v2 import (
    base_subset_dataset,
    column_lineage_dataset,
    data_quality_assertions_dataset,
    data_quality_metrics_dataset,
    data_quality_metrics_input_dataset,
    dataset_type_dataset,
    dataset_version_dataset,
    datasource_dataset,
    documentation_dataset,
    documentation_job,
    error_message_run,
    input_statistics_input_dataset,
    job_type_job,
    lifecycle_state_change_dataset,
    nominal_time_run,
    output_statistics_output_dataset,
    ownership_dataset,
    ownership_job,
    parent_run,
    processing_engine_run,
    schema_dataset,
    storage_dataset,
    symlinks_dataset,
    tags_dataset,
    tags_run,
    test_run,
)
from openlineage.client.generated.base import OutputDatasetFacet

from contracts.interval import Interval, midnight
from contracts.model import Column, Pii, Severity, Table
from contracts.report import CheckResult, RowAccount, TableReport
from lineage import naming
from lineage.columns import LANDING, Source, Use, sources_of, sources_of_view, view_columns
from lineage.naming import Name

PRODUCER = "urn:millrace:lineage:1"
"""The producer of our facets: a URN, until the project has a URL of its source at a tag."""

ROW_ACCOUNT_SCHEMA = (
    "urn:millrace:facets:1-0-0:MillraceRowAccountOutputDatasetFacet.json#/$defs/MillraceRowAccountOutputDatasetFacet"
)
"""`$id` and pointer of the schema beside this file."""

SEVERITIES = {Severity.CRITICAL: "error", Severity.WARNING: "warn"}
"""Our severity -> that of the spec."""

TEST_TYPES = {"present": "not_null", "range": "range", "allowed": "accepted_values", "pattern": "regex"}
"""Suffix of a column check's name -> type of the test. The type of other checks is their name."""

COLUMN_METRICS = {
    "nulls": "nullCount",
    "distinct": "distinctCount",
    "count": "count",
    "sum": "sum",
    "min": "min",
    "max": "max",
}
"""Numeric keys of `TableReport.columns[...]` -> their names in the spec. Lineage drops other keys."""

LONGEST_TEXT = 16_000
"""Most characters of an error message or stack trace."""

F = TypeVar("F")


@dataclass(frozen=True)
class Artifact:
    """An input or output of a run that is not a table, such as a model.

    `version` is the digest of its content, `location` a path or URI.
    """

    kind: str
    location: str
    version: str
    doc: str
    grain: str
    owner: str


@attr.define
class MillraceRowAccountOutputDatasetFacet(OutputDatasetFacet):
    """What became of the run's rows: rowsIn = published + quarantined + duplicates."""

    rowsIn: int  # noqa: N815
    published: int
    quarantined: int
    duplicates: int
    status: str
    quarantineVersion: int | None = attr.field(default=None)  # noqa: N815

    @staticmethod
    def _get_schema() -> str:
        return ROW_ACCOUNT_SCHEMA


def _facet(facet_class: type[F], **values: Any) -> F:
    return facet_class(**values, producer=PRODUCER)  # type: ignore[call-arg]


# --- of a dataset


def of_table(table: Table, version: int | None = None) -> dict[str, Any]:
    """The facets of a Delta table: schema, source, owner, description, PII tags, and the version, if it is known."""
    facets = {
        "schema": schema(table.columns),
        "documentation": _facet(
            documentation_dataset.DocumentationDatasetFacet, description=meaning(table), contentType="text/plain"
        ),
        "ownership": _facet(
            ownership_dataset.OwnershipDatasetFacet, owners=[ownership_dataset.Owner(f"team:{table.owner}", "OWNER")]
        ),
        **_pii(table),
    }
    return {**of_delta(table.qualified, version), **facets}


def of_delta(qualified: str, version: int | None = None) -> dict[str, Any]:
    """The facets of a Delta table without its contract."""
    facets = {
        "storage": _facet(storage_dataset.StorageDatasetFacet, storageLayer="delta", fileFormat="parquet"),
        "datasetType": _facet(dataset_type_dataset.DatasetTypeDatasetFacet, datasetType="TABLE"),
        "dataSource": source(naming.of_table(qualified)),
        "symlinks": symlink(naming.short(qualified)),
    }
    return facets if version is None else {**facets, "version": dataset_version(version)}


def of_view(table: Table) -> dict[str, Any]:
    """The facets of what an online store serves from a gold table: no source or storage, which depend on the store."""
    facets = of_table(table) | {"schema": schema(view_columns(table))}
    return {name: facets[name] for name in ("schema", "documentation", "ownership", "tags") if name in facets}


def of_files(folder: Name) -> dict[str, Any]:
    """The facets of a folder of landed files."""
    return {
        "dataSource": source(folder),
        "datasetType": _facet(dataset_type_dataset.DatasetTypeDatasetFacet, datasetType="FILE"),
    }


def schema(columns: Iterable[Column]) -> schema_dataset.SchemaDatasetFacet:
    """The columns in table order, with Spark SQL's type names."""
    fields = [
        schema_dataset.SchemaDatasetFacetFields(
            column.name, column.type.spark, _description(column), position, fields=None
        )
        for position, column in enumerate(columns, 1)
    ]
    return _facet(schema_dataset.SchemaDatasetFacet, fields=fields)


def column_lineage(table: Table) -> dict[str, Any]:
    """The sources of each column of a published table that contracts name; no facet where they name none."""
    return _column_lineage(sources_of(table))


def column_lineage_of_view(table: Table) -> dict[str, Any]:
    """A view serves the gold table's newest row of each key, column by column, or computes features from its rows."""
    return _column_lineage(sources_of_view(table))


def _column_lineage(sources: Mapping[str, Iterable[Source]]) -> dict[str, Any]:
    if not sources:
        return {}
    dataset = cache(_dataset)  # a location costs system calls, and all columns share a few tables
    fields = {name: _fields(origins, dataset) for name, origins in sources.items()}
    return {"columnLineage": _facet(column_lineage_dataset.ColumnLineageDatasetFacet, fields=fields, dataset=[])}


def _fields(origins: Iterable[Source], dataset: Callable[[str], Name]) -> column_lineage_dataset.Fields:
    """One input field per source column, with each way in which it is used."""
    uses: dict[tuple[str, str], list[Use]] = {}
    for origin in origins:
        uses.setdefault((origin.table, origin.column), []).append(origin.use)
    return column_lineage_dataset.Fields(
        [
            column_lineage_dataset.InputField(*dataset(table), column, [_transformation(use) for use in used])
            for (table, column), used in uses.items()
        ]
    )


def _transformation(use: Use) -> column_lineage_dataset.Transformation:
    return column_lineage_dataset.Transformation("DIRECT" if use.is_direct else "INDIRECT", subtype=use.value)


def _dataset(table: str) -> Name:
    layer, _, name = table.partition(".")
    return naming.of_landing(name) if layer == LANDING else naming.of_table(table)


def source(dataset: Name) -> datasource_dataset.DatasourceDatasetFacet:
    """The store of a dataset; its name is the dataset's namespace."""
    path = quote(dataset.name)
    uri = f"file://{path}" if dataset.namespace == "file" else f"{dataset.namespace}/{path}"
    return _facet(datasource_dataset.DatasourceDatasetFacet, name=dataset.namespace, uri=uri)


def symlink(alias: Name) -> symlinks_dataset.SymlinksDatasetFacet:
    """Another name of the same dataset."""
    return _facet(
        symlinks_dataset.SymlinksDatasetFacet,
        identifiers=[symlinks_dataset.Identifier(alias.namespace, alias.name, "TABLE")],
    )


def dataset_version(version: int | str) -> dataset_version_dataset.DatasetVersionDatasetFacet:
    """The Delta version, or the generation of an online store."""
    return _facet(dataset_version_dataset.DatasetVersionDatasetFacet, datasetVersion=str(version))


def created() -> lifecycle_state_change_dataset.LifecycleStateChangeDatasetFacet:
    """The run created the table. The spec has no term for later commits, which replace days or append."""
    change = lifecycle_state_change_dataset.LifecycleStateChange.CREATE
    return _facet(lifecycle_state_change_dataset.LifecycleStateChangeDatasetFacet, lifecycleStateChange=change)


def whole_table(report: TableReport) -> data_quality_metrics_dataset.DataQualityMetricsDatasetFacet:
    """Rows and bytes of the whole table at this version, as opposed to what the run wrote."""
    return _facet(
        data_quality_metrics_dataset.DataQualityMetricsDatasetFacet,
        columnMetrics={},
        rowCount=report.total_rows,
        bytes=report.total_bytes,
    )


def _description(column: Column) -> str:
    return f"{column.doc} ({column.unit})" if column.unit else column.doc


def _pii(table: Table) -> dict[str, Any]:
    tags = [
        tags_dataset.TagsDatasetFacetFields("pii", column.pii.value, "MILLRACE", column.name)
        for column in table.columns
        if column.pii is not Pii.NONE
    ]
    return {"tags": _facet(tags_dataset.TagsDatasetFacet, tags=tags)} if tags else {}


def of_artifact(artifact: Artifact) -> dict[str, Any]:
    """The facets of an artifact, such as a model; its version is a digest."""
    return {
        "documentation": _facet(
            documentation_dataset.DocumentationDatasetFacet, description=meaning(artifact), contentType="text/plain"
        ),
        "ownership": _facet(
            ownership_dataset.OwnershipDatasetFacet, owners=[ownership_dataset.Owner(f"team:{artifact.owner}", "OWNER")]
        ),
        "datasetType": _facet(dataset_type_dataset.DatasetTypeDatasetFacet, datasetType=artifact.kind),
        "dataSource": source(naming.of_location(artifact.location)),
        "version": dataset_version(artifact.version),
    }


# --- of inputs, checks and outputs


def files_read(files: Iterable[str], rows: int) -> dict[str, Any]:
    """Input facets: the landed files that were read, and the number of their rows."""
    names = list(files)
    statistics = _facet(
        input_statistics_input_dataset.InputStatisticsInputDatasetFacet, rowCount=rows, fileCount=len(names)
    )
    if not names:
        return {"inputStatistics": statistics}
    condition = base_subset_dataset.LocationSubsetCondition(locations=names)
    return {
        "inputStatistics": statistics,
        "subset": _facet(base_subset_dataset.InputSubsetInputDatasetFacet, inputCondition=condition),
    }


def quality(table: Table, report: TableReport) -> dict[str, Any]:
    """Input facets of an audit: the result of each check, and the metrics of the audited rows."""
    evaluated = report.account.rows_in - report.account.duplicates
    metrics = data_quality_metrics_input_dataset.DataQualityMetricsInputDatasetFacet
    return {
        "dataQualityAssertions": _facet(
            data_quality_assertions_dataset.DataQualityAssertionsDatasetFacet,
            assertions=[_assertion(table, check) for check in report.checks],
        ),
        "dataQualityMetrics": _facet(
            metrics,
            rowCount=evaluated,
            columnMetrics={name: _metrics(column) for name, column in report.columns.items()},
        ),
    }


def statistics(rows: int) -> output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet:
    """The number of rows that the run wrote."""
    return _facet(output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet, rowCount=rows)


def row_account(report: TableReport) -> MillraceRowAccountOutputDatasetFacet:
    """The run's row account."""
    account: RowAccount = report.account
    return _facet(
        MillraceRowAccountOutputDatasetFacet,
        rowsIn=account.rows_in,
        published=account.published,
        quarantined=account.quarantined,
        duplicates=account.duplicates,
        status=report.status,
        quarantineVersion=report.quarantine_version,
    )


def _assertion(table: Table, check: CheckResult) -> data_quality_assertions_dataset.Assertion:
    return data_quality_assertions_dataset.Assertion(
        assertion=type_of_check(check),
        success=check.success,
        column=check.column,
        severity=SEVERITIES[check.severity],
        name=check.check,
        **_details(table, check),
    )


def _details(table: Table, check: CheckResult) -> dict[str, Any]:
    sql_of = {declared.name: declared.sql for declared in table.checks()}
    details: dict[str, Any] = {"description": check.reason, "params": None}
    if check.failed is not None:
        details |= {"expected": "0", "actual": str(check.failed)}
    if check.check in sql_of:
        details |= {"content": sql_of[check.check], "contentType": "sql"}
    return details


def type_of_check(check: CheckResult) -> str:
    """The type of a test: `customer_id_present` is a `not_null`."""
    suffix = check.check.removeprefix(f"{check.column}_") if check.column else check.check
    return TEST_TYPES.get(suffix, check.check)


def _metrics(column: Mapping[str, Any]) -> data_quality_metrics_input_dataset.ColumnMetrics:
    numbers = {
        COLUMN_METRICS[key]: value for key, value in column.items() if key in COLUMN_METRICS and _is_number(value)
    }
    return data_quality_metrics_input_dataset.ColumnMetrics(**numbers, quantiles=None)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# --- of a job


def of_job(product: Table | Artifact, kind: str) -> dict[str, Any]:
    """The facets of a job: its output's description and owner, and the job's type."""
    return {
        "documentation": _facet(
            documentation_job.DocumentationJobFacet, description=meaning(product), contentType="text/plain"
        ),
        "ownership": _facet(
            ownership_job.OwnershipJobFacet, owners=[ownership_job.Owner(f"team:{product.owner}", "OWNER")]
        ),
        "jobType": _facet(job_type_job.JobTypeJobFacet, processingType="BATCH", integration="MILLRACE", jobType=kind),
    }


def meaning(product: Table | Artifact) -> str:
    """The description of a table or artifact: doc and grain."""
    return f"{product.doc}: {product.grain}"


# --- of a run


def nominal_time(interval: Interval) -> nominal_time_run.NominalTimeRunFacet:
    """The interval of the run."""
    start, end = midnight(interval.start).isoformat(), midnight(interval.end).isoformat()
    return _facet(nominal_time_run.NominalTimeRunFacet, nominalStartTime=start, nominalEndTime=end)


def engine(name: str, version: str) -> processing_engine_run.ProcessingEngineRunFacet:
    """The engine that computed the rows."""
    return _facet(processing_engine_run.ProcessingEngineRunFacet, name=name, version=version)


def parent(job: Name, run_id: str, root: tuple[Name, str] | None) -> parent_run.ParentRunFacet:
    """The run that started this one, and the root run."""
    root_facet = (
        parent_run.Root(parent_run.RootRun(root[1], facets=None), parent_run.RootJob(*root[0], facets=None))
        if root
        else None
    )
    return _facet(
        parent_run.ParentRunFacet,
        run=parent_run.Run(run_id, facets=None),
        job=parent_run.Job(*job, facets=None),
        root=root_facet,
    )


def tests(table: Table, checks: Iterable[CheckResult]) -> test_run.TestRunFacet:
    """The checks as tests of the run, whether or not it published."""
    results = [
        test_run.TestExecution(
            name=check.check,
            status="pass" if check.success else "fail",
            severity=SEVERITIES[check.severity],
            type=type_of_check(check),
            **_details(table, check),
        )
        for check in checks
    ]
    return _facet(test_run.TestRunFacet, tests=results)


def run_tags(tags: Mapping[str, str]) -> tags_run.TagsRunFacet:
    """Tags of a run."""
    return _facet(
        tags_run.TagsRunFacet, tags=[tags_run.TagsRunFacetFields(key, value, "MILLRACE") for key, value in tags.items()]
    )


def error(problem: BaseException) -> error_message_run.ErrorMessageRunFacet:
    """Why a run failed."""
    trace = "".join(traceback.format_exception(problem))
    message = f"{type(problem).__name__}: {problem}"
    return _facet(
        error_message_run.ErrorMessageRunFacet,
        message=message[:LONGEST_TEXT],
        programmingLanguage="PYTHON",
        stackTrace=trace[-LONGEST_TEXT:],
    )

"""Measure a frame once, and validate each expectation of Great Expectations with the measurements.

Great Expectations would compute the same few aggregates, but resolves a graph of some 300 metrics for them: 0.1 s of
Python per table, however few its rows (docs/adr/0011). A property test shows that its own validation of a frame has the
same results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from contracts.model import Table
from expectations.suite import reference_column, rule_column

if TYPE_CHECKING:
    from great_expectations.core.expectation_validation_result import (
        ExpectationSuiteValidationResult,
        ExpectationValidationResult,
    )
    from great_expectations.expectations.expectation import Expectation
    from pyspark.sql import Column, DataFrame

RESULT_FORMAT = {"result_format": "BASIC"}


class AuditError(RuntimeError):
    """Nothing may be published: a check of the whole table failed, too many rows are bad, or a check cannot run."""


@dataclass(frozen=True)
class Measurements:
    """The measurements of one pass over the rows.

    `failed` maps each row-level check to the number of rows that fail it, `filled` each column to its non-NULL count.
    """

    rows: int
    columns: tuple[str, ...]
    failed: dict[str, int] = field(default_factory=dict)
    filled: dict[str, int] = field(default_factory=dict)


def row_level_sql(table: Table) -> dict[str, str]:
    """The SQL of each row-level check, references included: true or NULL where a row passes."""
    flags = {rule.name: rule_column(rule) for rule in table.rules} | {
        reference.name: reference_column(reference) for reference in table.references
    }
    return {check.name: check.sql for check in table.checks()} | flags


def measure(table: Table, frame: DataFrame) -> Measurements:
    """Everything that the table's expectations need, in one aggregate."""
    from pyspark.sql import functions as F

    # a missing value is counted with its column: that is cheaper than one more expression
    present = {check.name: check.columns[0] for check in table.checks() if check.is_presence}
    checks = row_level_sql(table)
    counted = {name: sql for name, sql in checks.items() if name not in present}
    counts = [F.count(F.lit(1)).alias("rows")]
    counts += [F.count(name).alias(f"filled_{name}") for name in table.column_names]
    try:
        [row] = frame.agg(*counts, *(_count_failed(name, sql) for name, sql in counted.items())).collect()
    except Exception:
        _raise_for_failing_check(table, frame, checks)
        raise
    return Measurements(
        rows=row["rows"],
        columns=tuple(frame.columns),
        failed={name: row[f"failed_{name}"] for name in counted}
        | {name: row["rows"] - row[f"filled_{column}"] for name, column in present.items()},
        filled={name: row[f"filled_{name}"] for name in table.column_names},
    )


def _count_failed(name: str, sql: str) -> Column:
    from pyspark.sql import functions as F

    return F.count(F.when(~F.expr(sql), 1)).alias(f"failed_{name}")


def _raise_for_failing_check(table: Table, frame: DataFrame, checks: dict[str, str]) -> None:
    """Raise AuditError for the first check that the engine cannot run.

    A check is at fault if it fails twice while the rows can be counted.
    """
    from pyspark.sql import functions as F

    for name, sql in checks.items():
        if _error(frame, _count_failed(name, sql)) and (error := _error(frame, _count_failed(name, sql))):
            if _error(frame, F.count(F.lit(1))):
                return  # the engine stopped, or its files are gone
            message = next(iter(str(error).splitlines()), "")
            raise AuditError(f"{table.qualified}: the check {name} could not be run: {message}") from error


def _error(frame: DataFrame, aggregate: Column) -> Exception | None:
    try:
        frame.agg(aggregate).toArrow()
    except Exception as error:
        return error
    return None


def validate(
    suite: str, pairs: Sequence[tuple[Expectation, str]], measurements: Measurements
) -> ExpectationSuiteValidationResult:
    """The validation result of the suite, the same as from Great Expectations, in the order of `pairs`.

    A pair is an expectation and the name of its check.
    """
    from great_expectations import __version__
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult

    results = [_validate(expectation, _metrics(expectation, name, measurements)) for expectation, name in pairs]
    passed, total = sum(1 for result in results if result.success), len(results)
    statistics = {
        "evaluated_expectations": total,
        "successful_expectations": passed,
        "unsuccessful_expectations": total - passed,
        "success_percent": passed / total * 100 if total else None,
    }
    return ExpectationSuiteValidationResult(
        success=passed == total,
        results=results,
        suite_name=suite,
        statistics=statistics,
        meta={"great_expectations_version": __version__},
    )


def _validate(expectation: Expectation, metrics: dict[str, Any]) -> ExpectationValidationResult:
    result = expectation._validate(
        metrics=metrics, runtime_configuration={"result_format": RESULT_FORMAT}, execution_engine=None
    )
    return expectation._build_evr(result)


def _metrics(expectation: Expectation, check: str, measurements: Measurements) -> dict[str, Any]:
    """The measurements under the metric names of an expectation."""
    table_level = {"table.row_count": measurements.rows, "table.columns": list(measurements.columns)}
    if not hasattr(expectation, "map_metric"):
        return table_level
    nulls = measurements.rows - measurements.filled.get(expectation.column, measurements.rows)  # flags are never NULL
    unexpected = {
        f"{expectation.map_metric}.unexpected_count": measurements.failed[check],
        f"{expectation.map_metric}.unexpected_values": [],
    }
    return {**table_level, "column_values.nonnull.unexpected_count": nulls, **unexpected}


def to_plain(result: ExpectationSuiteValidationResult) -> dict[str, Any]:
    """What `to_json_dict` of the result gives, for expectations that this package makes.

    It copies every object three times on the way, 10 ms for a table of 30 checks.
    """
    return {
        "success": result.success,
        "results": [_to_plain(check) for check in result.results],
        "suite_name": result.suite_name,
        "suite_parameters": {},
        "statistics": dict(result.statistics),
        "meta": dict(result.meta),
        "id": None,
    }


def _to_plain(check: ExpectationValidationResult) -> dict[str, Any]:
    from great_expectations.util import convert_to_json_serializable

    config = check.expectation_config
    if config is None:
        raise ValueError("a validation result without its expectation")
    notes = {"notes": config.notes} if config.notes else {}
    return {
        "success": check.success,
        "expectation_config": {
            "type": config.type,
            "kwargs": convert_to_json_serializable(config.kwargs),
            "meta": config.meta or {},
            **notes,
            "severity": config.severity.value,
        },
        "result": check.result,
        "meta": check.meta,
        "exception_info": check.exception_info,
    }

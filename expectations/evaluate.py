"""Measure a frame once, and let each expectation of Great Expectations judge its own numbers.

Great Expectations would plan the same few aggregates itself, but works out a graph of some 300 metrics for that: 0.1 s
of Python for each table, however few its rows (docs/adr/0011). A property test shows that its own validation of the
same frame comes to the same results.
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
    """A critical check of the whole table failed, too many rows are bad, or a check could not be run: nothing may be
    published.
    """


@dataclass(frozen=True)
class Numbers:
    """What one pass over the rows found. `broken` counts rows per row-level check, `filled` the cells per column that
    are not NULL.
    """

    rows: int
    columns: tuple[str, ...]
    broken: dict[str, int] = field(default_factory=dict)
    filled: dict[str, int] = field(default_factory=dict)


def sql_of_checks(table: Table) -> dict[str, str]:
    """Every row-level check, references included, with the SQL that is not false where a row keeps it."""
    flags = {one.name: rule_column(one) for one in table.rules} | {
        one.name: reference_column(one) for one in table.references
    }
    return {check.name: check.sql for check in table.checks()} | flags


def measure(table: Table, frame: DataFrame) -> Numbers:
    """All that the table's expectations need to know, in one aggregate."""
    from pyspark.sql import functions as F

    checks = sql_of_checks(table)
    counts = [F.count(F.lit(1)).alias("rows")]
    counts += [F.count(name).alias(f"filled_{name}") for name in table.column_names]
    try:
        found = frame.agg(*counts, *(_broken(name, sql) for name, sql in checks.items())).toArrow().to_pylist()[0]
    except Exception:
        _tell_which(table, frame, checks)
        raise
    return Numbers(
        rows=found["rows"],
        columns=tuple(frame.columns),
        broken={name: found[f"broken_{name}"] for name in checks},
        filled={name: found[f"filled_{name}"] for name in table.column_names},
    )


def _broken(name: str, sql: str) -> Column:
    from pyspark.sql import functions as F

    return F.count(F.when(~F.expr(sql), 1)).alias(f"broken_{name}")


def _tell_which(table: Table, frame: DataFrame, checks: dict[str, str]) -> None:
    """Raise AuditError for the first check that the engine cannot run, if it is a check's fault at all: it fails twice,
    and the rows can be counted.
    """
    from pyspark.sql import functions as F

    for name, sql in checks.items():
        if _error(frame, _broken(name, sql)) and (error := _error(frame, _broken(name, sql))):
            if _error(frame, F.count(F.lit(1))):
                return  # the engine has ended, or its files are gone
            told = next(iter(str(error).splitlines()), "")
            raise AuditError(f"{table.qualified}: the check {name} could not be run: {told}") from error


def _error(frame: DataFrame, aggregate: Column) -> Exception | None:
    try:
        frame.agg(aggregate).toArrow()
    except Exception as error:
        return error
    return None


def judge(suite: str, pairs: Sequence[tuple[Expectation, str]], numbers: Numbers) -> ExpectationSuiteValidationResult:
    """The result of the suite, in the order of `pairs` (expectation, name of its check), as Great Expectations would
    give it.
    """
    from great_expectations import __version__
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult

    results = [_judged(expectation, _metrics(expectation, name, numbers)) for expectation, name in pairs]
    kept, total = sum(1 for one in results if one.success), len(results)
    statistics = {
        "evaluated_expectations": total,
        "successful_expectations": kept,
        "unsuccessful_expectations": total - kept,
        "success_percent": kept / total * 100 if total else None,
    }
    return ExpectationSuiteValidationResult(
        success=kept == total,
        results=results,
        suite_name=suite,
        statistics=statistics,
        meta={"great_expectations_version": __version__},
    )


def _judged(expectation: Expectation, metrics: dict[str, Any]) -> ExpectationValidationResult:
    found = expectation._validate(
        metrics=metrics, runtime_configuration={"result_format": RESULT_FORMAT}, execution_engine=None
    )
    return expectation._build_evr(found)


def _metrics(expectation: Expectation, check: str, numbers: Numbers) -> dict[str, Any]:
    """The numbers under the names by which this expectation asks for them."""
    table_level = {"table.row_count": numbers.rows, "table.columns": list(numbers.columns)}
    if not hasattr(expectation, "map_metric"):
        return table_level
    nulls = numbers.rows - numbers.filled.get(expectation.column, numbers.rows)  # a flag is never NULL
    broken = {
        f"{expectation.map_metric}.unexpected_count": numbers.broken[check],
        f"{expectation.map_metric}.unexpected_values": [],
    }
    return {**table_level, "column_values.nonnull.unexpected_count": nulls, **broken}

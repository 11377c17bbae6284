"""Run a table's suite on its staged rows and separate good rows from bad ones.

One pass over the rows measures everything the suite needs (`expectations.evaluate`). A second pass is only needed when
rows fail a critical check.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from contracts.expressions import portable
from contracts.model import Severity, Table
from contracts.report import CheckResult
from expectations.evaluate import AuditError, measure, row_level_sql, to_plain, validate
from expectations.suite import Facts, expectations_of, reference_column, rule_column

if TYPE_CHECKING:
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult
    from pyspark.sql import DataFrame

__all__ = ["Audit", "AuditError", "audit", "to_json"]

FEW = 10
"""Up to this many bad rows are allowed whatever their share, unless the table allows none."""


@dataclass
class Audit:
    """The result of an audit.

    `bad` has the rows that failed a critical row-level check, with the table's columns and `reasons`; None without any.
    """

    table: Table
    checks: tuple[CheckResult, ...]
    result: ExpectationSuiteValidationResult
    good: DataFrame | None = None
    bad: DataFrame | None = None
    bad_rows: int = 0
    row_level: frozenset[str] = field(default_factory=frozenset)

    def stop_if_critical(self, rows: int, rejected: int = 0) -> None:
        """Raise AuditError when nothing must be published: a check of the whole table failed, or too many rows are bad.

        `rows` is the number of audited rows, `rejected` that of rows with a cell that did not fit its column.
        """
        failed = [
            check
            for check in self.checks
            if not check.success and check.severity == Severity.CRITICAL and check.check not in self.row_level
        ]
        if failed:
            reasons = "; ".join(check.reason for check in failed)
            raise AuditError(
                f"{self.table.qualified}: {reasons}. Nothing was published. Look at the Data Docs, correct the input,"
                " and run the interval again"
            )
        bad, total, allowed = self.bad_rows + rejected, rows + rejected, self.table.max_quarantine_share
        if total and bad / total > allowed and (bad > FEW or not allowed):
            remedy = (
                "Correct the landed files, or raise max_quarantine_share in"
                f" contracts/{self.table.layer}/{self.table.name}.py"
                if allowed
                else "The rows of this table belong together: correct what computes them, then run it again"
            )
            raise AuditError(
                f"{self.table.qualified}: {bad:,} of {total:,} rows ({bad / total:.1%}) must go to quarantine"
                f" ({self._reasons(rejected)}), and at most {allowed:.0%} may. Nothing was published. {remedy}"
            )

    def _reasons(self, rejected: int) -> str:
        reasons = [
            f"{check.reason}: {check.failed:,}"
            for check in self.checks
            if not check.success and check.failed and check.severity == Severity.CRITICAL
        ]
        return ", ".join([*reasons, *([f"a cell does not fit its column: {rejected:,}"] if rejected else [])])


def audit(table: Table, staged: DataFrame, references: Mapping[str, DataFrame], facts: Facts) -> Audit:
    """Audit `staged`, a frame of the table's columns. `references` maps each reference to a frame of valid values."""
    frame = _with_flags(table, staged, references)
    measurements = measure(table, frame)
    pairs = expectations_of(table, facts)
    result = validate(table.qualified, pairs, measurements)
    checks = tuple(
        _check_result(table, name, outcome) for (_, name), outcome in zip(pairs, result.results, strict=True)
    )
    row_level = frozenset(row_level_sql(table))
    report = Audit(table, checks, result, row_level=row_level)
    if any(not check.success and check.severity == Severity.CRITICAL and check.check in row_level for check in checks):
        _split(report, frame)
    return report


def _with_flags(table: Table, staged: DataFrame, references: Mapping[str, DataFrame]) -> DataFrame:
    from pyspark.sql import functions as F

    frame = staged
    for reference in table.references:
        known = references[reference.name].select(
            *(F.col(to).alias(name) for name, to in zip(reference.columns, reference.to_columns, strict=True))
        )
        frame = frame.join(known.distinct().withColumn("_known", F.lit(True)), list(reference.columns), "left")
        frame = frame.withColumn(reference_column(reference), F.coalesce("_known", _any_null(reference.columns))).drop(
            "_known"
        )
    for rule in table.rules:
        frame = frame.withColumn(rule_column(rule), F.coalesce(F.expr(portable(rule.sql)), F.lit(True)))
    return frame


def _any_null(columns: tuple[str, ...]) -> Any:
    """NULL passes every reference."""
    from pyspark.sql import functions as F

    return F.expr(" OR ".join(f"{name} IS NULL" for name in columns))


def _check_result(table: Table, name: str, outcome: Any) -> CheckResult:
    config = outcome.expectation_config
    return CheckResult(
        name,
        config.kwargs.get("column"),
        Severity(config.severity),
        bool(outcome.success),
        _reason(table, name),
        outcome.result.get("unexpected_count"),
    )


def _reason(table: Table, name: str) -> str:
    reasons = {check.name: check.reason for check in table.checks()} | {
        reference.name: reference.reason for reference in table.references
    }
    if name in reasons:
        return reasons[name]
    return {
        "columns": "the columns are not those of the contract",
        "row_count": "no row is left although rows came in",
        "key_unique": f"{', '.join(table.key)} is not unique",
    }[name]


def _split(report: Audit, frame: DataFrame) -> None:
    """Set `good`, and `bad` with the rows that fail a critical check and their reasons."""
    from pyspark.sql import functions as F

    table = report.table
    critical = [(check.sql, check.reason) for check in table.checks() if check.severity == Severity.CRITICAL]
    critical += [
        (reference_column(reference), reference.reason)
        for reference in table.references
        if reference.severity == Severity.CRITICAL
    ]
    reasons = F.array_compact(
        F.array(*(F.when(~F.expr(f"coalesce(({sql}), true)"), F.lit(reason)) for sql, reason in critical))
    )
    flagged = frame.withColumn("reasons", reasons)
    report.bad = flagged.filter(F.size("reasons") > 0).select(*table.column_names, "reasons")
    report.good = flagged.filter(F.size("reasons") == 0).select(*table.column_names)
    report.bad_rows = report.bad.count()


def to_json(audit_: Audit, run_id: str) -> str:
    """The validation result as Great Expectations writes it, for the Data Docs."""
    checks = [
        {"reason": check.reason, "severity": str(check.severity), "success": check.success, "failed": check.failed}
        for check in audit_.checks
    ]
    plain = to_plain(audit_.result)
    plain["meta"] |= {"run_id": run_id, "table": audit_.table.qualified, "checks": checks}
    return json.dumps(plain)

"""Run a table's suite on its staged rows and tell good rows from bad ones.

One pass over the rows measures what the whole suite asks for (`expectations.evaluate`). Only rows that break a critical
check cost a second one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from contracts.model import Severity, Table
from contracts.report import CheckResult
from expectations.evaluate import AuditError, judge, measure, sql_of_checks
from expectations.suite import Facts, expectations_of, reference_column, rule_column

if TYPE_CHECKING:
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult
    from pyspark.sql import DataFrame

__all__ = ["Audit", "AuditError", "audit", "to_json"]

FEW = 10
"""So many bad rows are never too many: a single bad row in a file of ten is no reason to stop. A table that allows none
is the exception.
"""


@dataclass
class Audit:
    """The verdict. `bad` has the table's columns and `reasons`, one row per row that broke a critical row-level check;
    None when there is none.
    """

    table: Table
    checks: tuple[CheckResult, ...]
    result: ExpectationSuiteValidationResult
    good: DataFrame | None = None
    bad: DataFrame | None = None
    bad_rows: int = 0
    row_level: frozenset[str] = field(default_factory=frozenset)

    def stop_if_critical(self, rows: int, rejected: int = 0) -> None:
        """Raise AuditError when the table as a whole must not be published.

        `rows` is how many rows were audited, `rejected` how many did not even fit the columns.
        """
        broken = [
            check
            for check in self.checks
            if not check.success and check.severity == Severity.CRITICAL and check.check not in self.row_level
        ]
        if broken:
            told = "; ".join(check.reason for check in broken)
            raise AuditError(
                f"{self.table.qualified}: {told}. Nothing was published. Look at the Data Docs, mend the input, and run"
                " the interval again"
            )
        bad, total, allowed = self.bad_rows + rejected, rows + rejected, self.table.max_quarantine_share
        if total and bad / total > allowed and (bad > FEW or not allowed):
            remedy = (
                "Mend the landed files, or raise max_quarantine_share in"
                f" contracts/{self.table.layer}/{self.table.name}.py"
                if allowed
                else "The rows of this table belong together: correct what computes them, then run it again"
            )
            raise AuditError(
                f"{self.table.qualified}: {bad:,} of {total:,} rows ({bad / total:.1%}) must go to quarantine"
                f" ({self._reasons(rejected)}), and at most {allowed:.0%} may. Nothing was published. {remedy}"
            )

    def _reasons(self, rejected: int) -> str:
        told = [
            f"{check.reason}: {check.failed:,}"
            for check in self.checks
            if not check.success and check.failed and check.severity == Severity.CRITICAL
        ]
        return ", ".join([*told, *([f"a cell does not fit its column: {rejected:,}"] if rejected else [])])


def audit(table: Table, staged: DataFrame, references: Mapping[str, DataFrame], facts: Facts) -> Audit:
    """Validate `staged` (the table's columns). `references` maps each reference's name to the distinct values it may
    take.
    """
    frame = _with_flags(table, staged, references)
    numbers = measure(table, frame)
    pairs = expectations_of(table, facts)
    result = judge(table.qualified, pairs, numbers)
    checks = tuple(_check(table, name, found) for (_, name), found in zip(pairs, result.results, strict=True))
    row_level = frozenset(sql_of_checks(table))
    verdict = Audit(table, checks, result, row_level=row_level)
    if any(not check.success and check.severity == Severity.CRITICAL and check.check in row_level for check in checks):
        _split(verdict, frame)
    return verdict


def _with_flags(table: Table, staged: DataFrame, references: Mapping[str, DataFrame]) -> DataFrame:
    from pyspark.sql import functions as F

    frame = staged
    for reference in table.references:
        known = references[reference.name].select(
            *(F.col(there).alias(here) for here, there in zip(reference.columns, reference.to_columns, strict=True))
        )
        frame = frame.join(known.distinct().withColumn("_known", F.lit(True)), list(reference.columns), "left")
        frame = frame.withColumn(reference_column(reference), F.coalesce("_known", _any_null(reference.columns))).drop(
            "_known"
        )
    for rule in table.rules:
        frame = frame.withColumn(rule_column(rule), F.coalesce(F.expr(rule.sql), F.lit(True)))
    return frame


def _any_null(columns: tuple[str, ...]) -> Any:
    """A NULL refers to nothing, so it breaks no reference."""
    from pyspark.sql import functions as F

    return F.expr(" OR ".join(f"{name} IS NULL" for name in columns))


def _check(table: Table, name: str, found: Any) -> CheckResult:
    config, failed = found.expectation_config, found.result.get("unexpected_count")
    return CheckResult(
        name, config.kwargs.get("column"), Severity(config.severity), bool(found.success), _reason(table, name), failed
    )


def _reason(table: Table, name: str) -> str:
    reasons = {check.name: check.reason for check in table.checks()} | {
        one.name: one.reason for one in table.references
    }
    if name in reasons:
        return reasons[name]
    return {
        "columns": "the columns are not those of the contract",
        "row_count": "no row is left although rows came in",
        "key_unique": f"{', '.join(table.key)} is not unique",
    }[name]


def _split(verdict: Audit, frame: DataFrame) -> None:
    """Rows that break a critical check, each with its reasons, and the others."""
    from pyspark.sql import functions as F

    table = verdict.table
    critical = [(check.sql, check.reason) for check in table.checks() if check.severity == Severity.CRITICAL]
    critical += [(reference_column(one), one.reason) for one in table.references if one.severity == Severity.CRITICAL]
    reasons = F.array_compact(
        F.array(*(F.when(~F.expr(f"coalesce(({sql}), true)"), F.lit(reason)) for sql, reason in critical))
    )
    judged = frame.withColumn("reasons", reasons)
    verdict.bad = judged.filter(F.size("reasons") > 0).select(*table.column_names, "reasons")
    verdict.good = judged.filter(F.size("reasons") == 0).select(*table.column_names)
    verdict.bad_rows = verdict.bad.count()


def to_json(audit_: Audit, run_id: str) -> str:
    """The validation result as Great Expectations writes it, for the Data Docs."""
    plain = audit_.result.to_json_dict()
    checks = [
        {"reason": check.reason, "severity": str(check.severity), "success": check.success, "failed": check.failed}
        for check in audit_.checks
    ]
    plain["meta"] = {**plain.get("meta", {}), "run_id": run_id, "table": audit_.table.qualified, "checks": checks}
    return json.dumps(plain)

"""Run a table's suite on its staged rows and tell good rows from bad ones.

One pass asks Great Expectations for true or false only, which bundles all checks into a few aggregates (0.07 s for a day, 0.3 s for a year of transactions).
Only what failed is counted, in one more pass.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from contracts.model import Severity, Table
from contracts.report import CheckResult
from expectations.suite import Facts, expectations_of, reference_column, rule_column

if TYPE_CHECKING:
    from great_expectations.core.expectation_validation_result import ExpectationSuiteValidationResult
    from pyspark.sql import DataFrame

FEW = 10
"""So many bad rows are never too many: a single bad row in a file of ten is no reason to stop."""


class AuditError(RuntimeError):
    """A critical check of the whole table failed, or too many rows are bad: nothing may be published."""


_local = threading.local()


@dataclass
class Audit:
    """The verdict. `bad` has the table's columns and `reasons`, one row per row that broke a critical row-level check; None when there is none."""

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
        broken = [check for check in self.checks if not check.success and check.severity == Severity.CRITICAL and check.check not in self.row_level]
        if broken:
            told = "; ".join(check.reason for check in broken)
            raise AuditError(f"{self.table.qualified}: {told}. Nothing was published. Look at the Data Docs, mend the input, and run the interval again")
        bad, total, allowed = self.bad_rows + rejected, rows + rejected, self.table.max_quarantine_share
        if total and bad / total > allowed and bad > FEW:
            raise AuditError(
                f"{self.table.qualified}: {bad:,} of {total:,} rows ({bad / total:.1%}) must go to quarantine ({self._reasons(rejected)}), and at most {allowed:.0%} may."
                f" Nothing was published. Mend the landed files, or raise max_quarantine_share in contracts/{self.table.layer}/{self.table.name}.py"
            )

    def _reasons(self, rejected: int) -> str:
        told = [f"{check.reason}: {check.failed:,}" for check in self.checks if not check.success and check.failed and check.severity == Severity.CRITICAL]
        return ", ".join([*told, *([f"a cell does not fit its column: {rejected:,}"] if rejected else [])])


def audit(table: Table, staged: DataFrame, references: Mapping[str, DataFrame], facts: Facts) -> Audit:
    """Validate `staged` (the table's columns). `references` maps each reference's name to the distinct values it may take."""
    frame = _with_flags(table, staged, references)
    pairs = expectations_of(table, facts)
    result = _validate(frame, [one for one, _ in pairs], table.qualified)
    failed = [name for (_, name), found in zip(pairs, result.results, strict=True) if not found.success and not _raised(found)]
    counts = _count_broken(table, frame, failed)
    for (_, name), found in zip(pairs, result.results, strict=True):
        if name in counts and not found.success:
            _tell_counts(found, counts[name], counts["rows"])
    checks = tuple(_check(table, name, one.column if hasattr(one, "column") else None, found) for (one, name), found in zip(pairs, result.results, strict=True))
    row_level = frozenset(check.name for check in table.checks()) | {one.name for one in table.references}
    verdict = Audit(table, checks, result, row_level=row_level)
    if any(not check.success and check.severity == Severity.CRITICAL and check.check in row_level for check in checks):
        _split(verdict, frame)
    return verdict


def _with_flags(table: Table, staged: DataFrame, references: Mapping[str, DataFrame]) -> DataFrame:
    from pyspark.sql import functions as F

    frame = staged
    for reference in table.references:
        known = references[reference.name].select(*(F.col(there).alias(here) for here, there in zip(reference.columns, reference.to_columns, strict=True)))
        frame = frame.join(known.distinct().withColumn("_known", F.lit(True)), list(reference.columns), "left")
        frame = frame.withColumn(reference_column(reference), F.coalesce("_known", _any_null(reference.columns))).drop("_known")
    for rule in table.rules:
        frame = frame.withColumn(rule_column(rule), F.coalesce(F.expr(rule.sql), F.lit(True)))
    return frame


def _any_null(columns: tuple[str, ...]) -> Any:
    """A NULL refers to nothing, so it breaks no reference."""
    from pyspark.sql import functions as F

    return F.expr(" OR ".join(f"{name} IS NULL" for name in columns))


def _validate(frame: DataFrame, wanted: list[Any], name: str) -> ExpectationSuiteValidationResult:
    """The results in the order of `wanted`, true or false only."""
    import great_expectations as gx

    batch = _batches().get_batch(batch_parameters={"dataframe": frame})
    suite = gx.ExpectationSuite(name=name, expectations=wanted)
    return batch.validate(suite, result_format="BOOLEAN_ONLY")


def _count_broken(table: Table, frame: DataFrame, names: list[str]) -> dict[str, int]:
    """Rows that break each of these checks, in one pass; asking Great Expectations again would take three jobs a check. Adds `rows`, their total."""
    from pyspark.sql import functions as F

    kept = {check.name: check.sql for check in table.checks()} | {one.name: reference_column(one) for one in table.references}
    broken = [F.coalesce(F.sum(F.when(~F.expr(kept[name]), 1)), F.lit(0)).alias(name) for name in names if name in kept]
    if not broken:
        return {}
    row = frame.agg(F.count(F.lit(1)).alias("rows"), *broken).collect()[0]
    return {name: int(count) for name, count in row.asDict().items()}


def _tell_counts(found: Any, broken: int, rows: int) -> None:
    """Put the counts where Great Expectations and its Data Docs have them."""
    share = 100 * broken / rows if rows else 0.0
    found.result = {
        "element_count": rows,
        "unexpected_count": broken,
        "unexpected_percent": share,
        "unexpected_percent_total": share,
        "partial_unexpected_list": [],
    }


def _batches() -> Any:
    """An ephemeral context for each thread; no file, no network, no progress bars."""
    if not hasattr(_local, "batches"):
        _local.batches = _make_batches()
    return _local.batches


def _make_batches() -> Any:
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx

    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    source = context.data_sources.add_spark("engine", persist=False)
    return source.add_dataframe_asset("staged").add_batch_definition_whole_dataframe("staged")


def _raised(found: Any) -> bool:
    return bool(_exception(found))


def _exception(found: Any) -> str:
    """What went wrong inside Great Expectations, which tells it at the top or once a metric; empty when nothing did."""
    info = found.exception_info or {}
    for one in (info, *(value for value in info.values() if isinstance(value, dict))):
        if one.get("raised_exception"):
            return str(one.get("exception_message") or "unknown error")
    return ""


def _check(table: Table, name: str, column: str | None, found: Any) -> CheckResult:
    if _raised(found):
        raise AuditError(f"{table.qualified}: the check {name} could not be run: {_exception(found)}")
    severity = Severity(found.expectation_config.severity)
    failed = found.result.get("unexpected_count") if found.result else None
    return CheckResult(name, column, severity, bool(found.success), _reason(table, name), 0 if found.success and column else failed)


def _reason(table: Table, name: str) -> str:
    reasons = {check.name: check.reason for check in table.checks()} | {one.name: one.reason for one in table.references}
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
    reasons = F.array_compact(F.array(*(F.when(~F.expr(f"coalesce(({sql}), true)"), F.lit(reason)) for sql, reason in critical)))
    judged = frame.withColumn("reasons", reasons)
    verdict.bad = judged.filter(F.size("reasons") > 0).select(*table.column_names, "reasons")
    verdict.good = judged.filter(F.size("reasons") == 0).select(*table.column_names)
    verdict.bad_rows = verdict.bad.count()


def to_json(audit_: Audit, run_id: str) -> str:
    """The validation result as Great Expectations writes it, for the Data Docs."""
    plain = audit_.result.to_json_dict()
    plain["meta"] = {**plain.get("meta", {}), "run_id": run_id, "table": audit_.table.qualified}
    return json.dumps(plain)

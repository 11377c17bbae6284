"""Derive a Great Expectations suite from a contract.

Checks of a column become expectations on it. References and rules, which need more than one column, become expectations
on boolean columns that `expectations.audit` adds to the frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from contracts.model import Column, Reference, Rule, Severity, Table

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation


def reference_column(reference: Reference) -> str:
    """The name of the boolean column for a reference: whether its target exists."""
    return f"is_{reference.name}"


def rule_column(rule: Rule) -> str:
    """The name of the boolean column for a rule: whether the row passes it."""
    return f"is_{rule.name}"


@dataclass(frozen=True)
class Facts:
    """Facts from staging for expectations on the whole table."""

    distinct_keys: int | None = None
    rows_in: int = 0


def expectations_of(table: Table, facts: Facts) -> list[tuple[Expectation, str]]:
    """The expectations with the names of their checks, row-level ones first."""
    rows = [pair for column in table.columns for pair in _column(column)]
    rows += [(_is_true(rule_column(rule), rule.severity, rule.reason), rule.name) for rule in table.rules]
    rows += [
        (_is_true(reference_column(reference), reference.severity, reference.reason), reference.name)
        for reference in table.references
    ]
    return rows + _whole_table(table, facts)


def _meta(severity: Severity, **more: Any) -> dict[str, Any]:
    return {"severity": str(severity), **more}


def _column(column: Column) -> list[tuple[Expectation, str]]:
    import great_expectations.expectations as gxe

    name, common = column.name, _meta(column.severity, column=column.name, notes=column.doc)
    expectations: list[tuple[Expectation, str]] = []
    if column.required:
        expectations.append(
            (gxe.ExpectColumnValuesToNotBeNull(**{**common, "severity": "critical"}), f"{name}_present")
        )
    if column.minimum is not None or column.maximum is not None:
        expectations.append(
            (
                gxe.ExpectColumnValuesToBeBetween(**common, min_value=column.minimum, max_value=column.maximum),
                f"{name}_range",
            )
        )
    if column.allowed:
        expectations.append(
            (gxe.ExpectColumnValuesToBeInSet(**common, value_set=list(column.allowed)), f"{name}_allowed")
        )
    if column.pattern:
        expectations.append(
            (gxe.ExpectColumnValuesToMatchRegex(**common, regex=f"^(?:{column.pattern})$"), f"{name}_pattern")
        )
    return expectations


def _is_true(column: str, severity: Severity, reason: str) -> Expectation:
    import great_expectations.expectations as gxe

    return gxe.ExpectColumnValuesToBeInSet(
        **_meta(severity, column=column, value_set=[True], notes=f"Fails when {reason}")
    )


def _whole_table(table: Table, facts: Facts) -> list[tuple[Expectation, str]]:
    import great_expectations.expectations as gxe

    critical = _meta(Severity.CRITICAL)
    flags = [*map(reference_column, table.references), *map(rule_column, table.rules)]
    expectations: list[tuple[Expectation, str]] = [
        (
            gxe.ExpectTableColumnsToMatchSet(**critical, column_set=[*table.column_names, *flags], exact_match=True),
            "columns",
        ),
        (gxe.ExpectTableRowCountToBeBetween(**critical, min_value=1 if facts.rows_in else 0), "row_count"),
    ]
    if table.key and facts.distinct_keys is not None:
        notes = f"One row per {', '.join(table.key)}: as many rows as distinct keys"
        expectations.append(
            (gxe.ExpectTableRowCountToEqual(**critical, value=facts.distinct_keys, notes=notes), "key_unique")
        )
    return expectations

"""A contract as a Great Expectations suite. Nothing is declared here: every expectation is derived from `contracts`.

Row-level promises become expectations on columns. References and rules, which need more than one column, become
expectations on boolean columns that `expectations.audit` adds to the audited frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from contracts.model import Column, Reference, Rule, Severity, Table

if TYPE_CHECKING:
    from great_expectations.expectations.expectation import Expectation


def reference_column(reference: Reference) -> str:
    """The boolean column that says whether a row's reference exists."""
    return f"is_{reference.name}"


def rule_column(rule: Rule) -> str:
    """The boolean column that says whether a row keeps a rule."""
    return f"is_{rule.name}"


@dataclass(frozen=True)
class Facts:
    """What staging knows about the rows and only a table-level expectation can judge."""

    distinct_keys: int | None = None
    rows_in: int = 0


def expectations_of(table: Table, facts: Facts) -> list[tuple[Expectation, str]]:
    """Every expectation with the name of its check, row-level ones first."""
    rows = [pair for column in table.columns for pair in _column(column)]
    rows += [(_is_true(rule_column(rule), rule.severity, rule.reason), rule.name) for rule in table.rules]
    rows += [(_is_true(reference_column(one), one.severity, one.reason), one.name) for one in table.references]
    return rows + _whole_table(table, facts)


def _meta(severity: Severity, **more: Any) -> dict[str, Any]:
    return {"severity": str(severity), **more}


def _column(column: Column) -> list[tuple[Expectation, str]]:
    import great_expectations.expectations as gxe

    name, common = column.name, _meta(column.severity, column=column.name, notes=column.doc)
    found: list[tuple[Expectation, str]] = []
    if column.required:
        found.append((gxe.ExpectColumnValuesToNotBeNull(**{**common, "severity": "critical"}), f"{name}_present"))
    if column.minimum is not None or column.maximum is not None:
        found.append(
            (
                gxe.ExpectColumnValuesToBeBetween(**common, min_value=column.minimum, max_value=column.maximum),
                f"{name}_range",
            )
        )
    if column.allowed:
        found.append((gxe.ExpectColumnValuesToBeInSet(**common, value_set=list(column.allowed)), f"{name}_allowed"))
    if column.pattern:
        found.append((gxe.ExpectColumnValuesToMatchRegex(**common, regex=f"^(?:{column.pattern})$"), f"{name}_pattern"))
    return found


def _is_true(column: str, severity: Severity, reason: str) -> Expectation:
    import great_expectations.expectations as gxe

    return gxe.ExpectColumnValuesToBeInSet(
        **_meta(severity, column=column, value_set=[True], notes=f"Broken when {reason}")
    )


def _whole_table(table: Table, facts: Facts) -> list[tuple[Expectation, str]]:
    import great_expectations.expectations as gxe

    critical = _meta(Severity.CRITICAL)
    derived = [reference_column(one) for one in table.references] + [rule_column(one) for one in table.rules]
    found: list[tuple[Expectation, str]] = [
        (
            gxe.ExpectTableColumnsToMatchSet(**critical, column_set=[*table.column_names, *derived], exact_match=True),
            "columns",
        ),
        (gxe.ExpectTableRowCountToBeBetween(**critical, min_value=1 if facts.rows_in else 0), "row_count"),
    ]
    if table.key and facts.distinct_keys is not None:
        notes = f"One row per {', '.join(table.key)}: as many rows as distinct keys"
        found.append((gxe.ExpectTableRowCountToEqual(**critical, value=facts.distinct_keys, notes=notes), "key_unique"))
    return found

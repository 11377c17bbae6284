"""The project's transform of a table, and the fingerprint of the code that decides the table's content."""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import ModuleType
from typing import TYPE_CHECKING, Any

from contracts import catalog, project
from contracts.model import Layer, Load, Table
from etl.gold import aggregate, arrow, instants, measures, windows
from etl.silver import select, states

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from contracts.aggregations import Aggregates


class StageError(RuntimeError):
    """A table cannot be computed; the message says what is missing."""


def transform(table: Table) -> ModuleType:
    """The project's module that computes the table, or prepares its events. StageError where there is none.

    Its path follows from the table's name: `transforms/<layer>/<name>.py`.
    """
    module = project.module(_module_name(table))
    if module is None:
        raise StageError(f"{table.qualified} needs a transform: write {project.current().file(_module_name(table))}")
    return module


def has_transform(table: Table) -> bool:
    """Whether the project has a transform for the table. Declared columns and aggregations need none."""
    return project.current().has_module(_module_name(table))


def ensure_columns(table: Table, rows: DataFrame, more: Sequence[str] = ()) -> None:
    """StageError unless a transform returned the contract's columns in the contract's types, and the columns `more`.

    A file with another type would be published as it is, and no reader could read the table.
    """
    found = {field.name: field.dataType.simpleString() for field in rows.schema}
    missing = [name for name in (*table.column_names, *more) if name not in found]
    if missing:
        problem = f"returns no {', '.join(missing)}. It returns {', '.join(found)}"
    else:
        wrong = [column for column in table.columns if found[column.name] != column.type.spark]
        if not wrong:
            return
        types = ", ".join(f"{column.name} as {found[column.name]} instead of {column.type.spark}" for column in wrong)
        problem = f"returns {types}. Cast them, such as F.col({wrong[0].name!r}).cast({wrong[0].type.spark!r})"
    raise StageError(f"{table.qualified}: its transform, {transform(table).__file__}, {problem}")


def _module_name(table: Table) -> str:
    return f"transforms.{table.layer}.{table.name}"


# --- the fingerprint


def code_of(table: Table) -> str:
    """A fingerprint of what decides the table's content: the transform, the layer's shared code, and the contract's
    columns, key and checks. Empty for a layer that has no transforms.
    """
    if table.layer not in (Layer.SILVER, Layer.GOLD):
        return ""
    of_gold = [instants, aggregate] if table.is_of_instants else [measures, windows, arrow, aggregate]
    shared = of_gold if table.layer == Layer.GOLD else [select]
    source = catalog.table(table.inputs[0]) if table.layer == Layer.SILVER and table.inputs else None
    of_states = source is not None and (source.load == Load.CHANGES or source.is_replaced_by_pulls)
    if source is not None and of_states:
        shared.append(states)
    own = _sources(transform(table)) if has_transform(table) else {}
    facts = (
        repr([(c.name, c.type.spark, c.source) for c in table.columns])
        + repr(table.key)
        + repr([(c.name, c.sql, c.severity) for c in table.checks()])
        + repr(table.references)
        + repr([_declaration(table.aggregates)] if table.aggregates else table.history)
    )
    if source is not None and of_states:
        facts += repr((source.load, source.key, source.time_column, source.is_change_stream))
    text = "".join((*(own[name] for name in sorted(own)), *(inspect.getsource(module) for module in shared))) + facts
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _sources(module: ModuleType) -> dict[str, str]:
    """The source of a project's module and of all project modules that it imports, by module name.

    Contracts are left out: `code_of` adds the parts of them that count.
    """
    current, sources, queue = project.current(), {}, [module]
    while queue:
        module = queue.pop()
        sources[module.__name__] = text = inspect.getsource(module)
        for name in _imports(text, current.name):
            path = name.removeprefix(f"{current.name}.")
            if name not in sources and not path.startswith("contracts.") and current.has_module(path):
                imported = current.module(path)
                queue += [imported] if imported is not None and getattr(imported, "__file__", None) else []
    return sources


def _imports(text: str, package: str) -> Iterator[str]:
    """The modules of `package` that a module's source imports, at any level of it."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(f"{package}."))
        elif (
            isinstance(node, ast.ImportFrom)
            and node.module
            and (node.module == package or node.module.startswith(f"{package}."))
        ):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _declaration(declared: Aggregates) -> tuple[Any, ...]:
    """The parts of a declaration that decide values. Descriptions, units and what lineage needs to know do not."""
    parts = [replace(part, doc="", meaning="", unit=None) for part in declared.aggregations]
    joined = [
        (
            type(other).__name__,
            _identity(other.table),
            {**{name: value for name, value in vars(other).items() if name != "reads"}, "table": None},
        )
        for other in declared.joined
    ]
    prepared = [(column.name, column.type.spark, column.required) for column in declared.prepared]
    if declared.is_of_instants:  # windows are computed where the table is read
        parts = [replace(part, windows=()) for part in parts]
    return (_identity(declared.events), [column.name for column in declared.key], parts, joined, prepared)


def _identity(table: Table) -> tuple[Any, ...]:
    """The parts of an input's contract that decide which of its rows are used, and how."""
    return (
        table.qualified,
        table.key,
        table.time_column,
        [(column.name, column.type.spark, column.required) for column in table.columns],
    )

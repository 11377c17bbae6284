"""Compare the project's contracts with the tables that are published, before anything is written.

`contracts.check` opens no table; a run compares each table once more, under its lock.
"""

from __future__ import annotations

from collections.abc import Iterator

from contracts import catalog, project
from contracts.check import Problem
from contracts.project import ProjectError


def problems() -> list[Problem]:
    """The contracts that their published tables cannot follow, with file, line and remedy."""
    return list(_problems())


def ensure() -> None:
    """Raise a ProjectError that names every such contract."""
    if found := problems():
        raise ProjectError("; ".join(map(str, found)))


def _problems() -> Iterator[Problem]:
    from lake import delta
    from lake.publishing import SchemaError, ensure_schema

    for table in catalog.all_tables():
        published = delta.open_table(table.qualified)
        try:
            if published:
                ensure_schema(table, published)
        except SchemaError as error:
            path = project.current().file(f"contracts.{table.layer}.{table.name}")
            yield Problem(path, _line(path.read_text().splitlines(), error.columns), str(error))


def _line(lines: list[str], columns: tuple[str, ...]) -> int:
    """The first line that declares one of the columns; the first line of all where none does."""
    return next((number for number, text in enumerate(lines, 1) if any(f'"{name}"' in text for name in columns)), 1)

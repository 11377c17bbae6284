"""`millrace init`, `check`, `new`, `verify` and `lineage`: write a project, look for what cannot work, propose tables,
recount features, and trace columns.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from contracts import catalog, project
from contracts.model import Layer, Table
from lake import settings, storage
from millrace import pipeline, scaffold, schema_check, settings_cli, show

if TYPE_CHECKING:
    from lineage.columns import Source

SAMPLE = 100


class CheckError(RuntimeError):
    """The project has problems, or a table's rows are not what a count gives. The message says how many."""


def add(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (init, check, new, verify, lineage):
        app.command()(command)


def init(
    folder: Annotated[Path, typer.Argument(help="A new folder; the project gets its name.")],
    example: Annotated[
        bool, typer.Option("--example", help="Copy the example that comes with Millrace instead.")
    ] = False,
) -> None:
    """Write a small project of your own.

    It runs, and passes its tests, at once.
    """
    console, created = show.console(), scaffold.init(folder, example)
    console.print(f"Wrote the project {created.name} to {created.root}. In that folder:", markup=False)
    console.print(
        "  millrace check                                     what cannot work\n"
        "  millrace sample                                    land its sample\n"
        "  python -m pytest tests                             its own tests\n"
        "See docs/projects.md for your own data",
        markup=False,
    )


def check(as_json: Annotated[bool, typer.Option("--json", help="Print the problems as JSON.")] = False) -> None:
    """Look for what cannot work, without running it.

    In the project and in the settings. Exit status 1 if something cannot work.
    """
    console = show.console()
    settings_cli.warn_of_unknown()
    settings_cli.ensure_valid()
    problems = pipeline.project_problems()
    if not problems and not storage.is_remote(settings.lake()):  # a bucket may be out of reach from here
        problems = schema_check.problems()
    if as_json:
        rows = [{"file": str(problem.file), "line": problem.line, "message": problem.message} for problem in problems]
        print(json.dumps(rows, indent=1))
    else:
        for problem in problems:
            console.print(str(problem), markup=False, soft_wrap=True)
    name = project.current().name
    if problems:
        raise CheckError(f"{len(problems)} problem{'s' * (len(problems) > 1)} in the project {name}")
    if not as_json:
        console.print(f"{name}: {len(catalog.all_tables())} tables, no problem", markup=False)


def new(
    layer: Annotated[
        Literal["bronze", "silver"], typer.Argument(help="Bronze alone, or silver with its bronze table.")
    ],
    name: Annotated[str, typer.Argument(help="Of the table, such as orders.")],
    file: Annotated[
        Path, typer.Option("--from", metavar="FILE", help="A .csv or .parquet file as it lands.", show_default=False)
    ],
    snapshot: Annotated[
        bool, typer.Option("--snapshot", help="Each file is the table's whole state, as of people or prices.")
    ] = False,
) -> None:
    """Propose contracts and a test from a landed file.

    For you to edit.
    """
    console, current = show.console(), project.current()
    proposed = scaffold.propose(layer, name, file, snapshot)
    written = scaffold.write(current, proposed)
    for relative in proposed:
        path = current.root / relative
        console.print(f"{'Wrote' if path in written else 'Left alone'} {path}", markup=False, soft_wrap=True)
    console.print("Edit what is marked TODO, then: millrace check", markup=False)


def verify(
    table: Annotated[str, typer.Argument(help="A table, such as gold.customer_activity.")],
    sample: Annotated[int, typer.Option(min=1, help="Keys, each at several midnights or instants.")] = SAMPLE,
    seed: Annotated[int, typer.Option(help="Of the random keys, midnights and instants.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print counts and differences as JSON.")] = False,
) -> None:
    """Recount features by brute force, and compare.

    From their declaration; exit status 1 if any differs.
    """
    console, result = show.console(), pipeline.verify(table, sample, seed)
    if as_json:
        print(json.dumps(asdict(result), indent=1, default=str))
    else:
        declared = catalog.table(table).aggregates
        console.print(
            f"{result.table}: {result.compared:,} values of {result.keys:,} keys at {result.instants:,}"
            f" {declared.at if declared else 'instants'}"
            f" compared, {len(result.differences):,} differ",
            markup=False,
        )
        if result.differences:
            console.print(show.differences(result))
    if result.differences:
        raise CheckError(
            f"{result.table} is not what its declaration says: {len(result.differences):,} of {result.compared:,}"
            " values differ"
        )


def lineage(
    name: Annotated[
        str,
        typer.Argument(help="A column, such as silver.orders.amount, or a table.", metavar="COLUMN|TABLE"),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print the steps as JSON.")] = False,
) -> None:
    """Trace a column back to the landed fields it comes from.

    Or list the direct sources of each column of a table. From the declarations alone: nothing is run or read.
    """
    from lineage.columns import sources_of, trace

    parts = name.split(".")
    if len(parts) not in (2, 3):
        raise CheckError(
            f"{name!r} is neither a column nor a table. Give a column as layer.table.column, such as"
            " silver.orders.amount, or a table as silver.orders"
        )
    table = catalog.table(".".join(parts[:2]))
    if len(parts) == 3:
        traced = {parts[2]: [*trace(table, parts[2])]}
    else:
        sources = sources_of(table)
        traced = {
            column: [(0, f"{table.qualified}.{column}", source) for source in _direct(sources.get(column, ()))]
            for column in table.column_names
        }
    if as_json:
        steps = [step for found in traced.values() for step in found]
        print(
            json.dumps([{"depth": depth, "of": of, "source": asdict(source)} for depth, of, source in steps], indent=1)
        )
        return
    console = show.console()
    for column, found in traced.items():
        console.print(f"{table.qualified}.{column}", markup=False)
        for depth, _, source in found:
            console.print(
                f"{'  ' * (depth + 1)}{source.table}.{source.column}  {source.use.lower().replace('_', ' ')}",
                markup=False,
            )
        if not found:
            console.print(f"  {_unknown_source(table)}", markup=False)


def _direct(sources: tuple[Source, ...]) -> tuple[Source, ...]:
    """Those whose values flow into the column; all, if there are none."""
    return tuple(source for source in sources if source.use.is_direct) or sources


def _unknown_source(table: Table) -> str:
    if table.layer == Layer.BRONZE:
        return "Millrace adds it to each landed row"
    return "a transform computes it; name its source with `source`"

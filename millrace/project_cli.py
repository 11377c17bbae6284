"""`millrace init`, `check`, `new` and `verify`: write a project, look for what cannot work, propose tables, and count
features again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from contracts import catalog, project
from millrace import arguments, pipeline, scaffold, settings_cli, show

SAMPLE = 100


class CheckError(RuntimeError):
    """The project has problems, or a table's rows are not what a count gives. The message says how many."""


def add(commands: Any, adding: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands."""
    init = adding(commands, "init", _init, "write a small project of your own, which runs and passes its tests at once")
    init.add_argument("folder", type=Path, help="a new folder; the project is called as it is")
    init.add_argument("--example", action="store_true", help="copy the example that comes with Millrace instead")
    check = adding(
        commands,
        "check",
        _check,
        "look for what cannot work in the project, without running it; 1 where something cannot",
    )
    check.add_argument("--json", action="store_true", help="print the problems as JSON")
    new = adding(
        commands, "new", _new, "propose the contracts of a table, and a test, from a landed file: for you to edit"
    )
    new.add_argument("layer", choices=("bronze", "silver"), help="bronze alone, or silver with its bronze table")
    new.add_argument("name", help="of the table, such as orders")
    new.add_argument(
        "--from", dest="file", type=Path, required=True, metavar="FILE", help="a .csv or .parquet file as it lands"
    )
    verify = adding(
        commands,
        "verify",
        _verify,
        "count features again from their declaration, by brute force, and compare; 1 when any differs",
    )
    verify.add_argument("table", help="such as gold.customer_activity")
    verify.add_argument(
        "--sample", type=arguments.count(), default=SAMPLE, help=f"keys, each at several midnights (default: {SAMPLE})"
    )
    verify.add_argument("--seed", type=int, default=0, help="of the random keys and midnights (default: 0)")
    verify.add_argument("--json", action="store_true", help="print counts and differences as JSON")


def _init(options: argparse.Namespace, console: Console) -> None:
    made = scaffold.init(options.folder, options.example)
    console.print(f"Wrote the project {made.name} to {made.root}. In that folder:", markup=False)
    console.print(
        "  millrace check                                     what cannot work\n"
        "  millrace sample                                    land its sample\n"
        "  python -m pytest tests                             its own tests\n"
        "See docs/projects.md for your own data",
        markup=False,
    )


def _check(options: argparse.Namespace, console: Console) -> None:
    settings_cli.warn_of_unknown(show.complain)
    settings_cli.ensure_valid()
    problems = pipeline.project_problems()
    if options.json:
        rows = [{"file": str(problem.file), "line": problem.line, "message": problem.message} for problem in problems]
        print(json.dumps(rows, indent=1))
    else:
        for problem in problems:
            console.print(str(problem), markup=False, soft_wrap=True)
    of = project.current()
    if problems:
        raise CheckError(f"{len(problems)} problem{'s' * (len(problems) > 1)} in the project {of.name}")
    if not options.json:
        console.print(f"{of.name}: {len(catalog.all_tables())} tables, no problem", markup=False)


def _new(options: argparse.Namespace, console: Console) -> None:
    of = project.current()
    proposed = scaffold.propose(options.layer, options.name, options.file)
    written = scaffold.write(of, proposed)
    for relative in proposed:
        path = of.root / relative
        console.print(f"{'Wrote' if path in written else 'Left alone'} {path}", markup=False, soft_wrap=True)
    console.print("Edit what is marked TODO, then: millrace check", markup=False)


def _verify(options: argparse.Namespace, console: Console) -> None:
    found = pipeline.verify(options.table, options.sample, options.seed)
    if options.json:
        print(json.dumps(asdict(found), indent=1, default=str))
    else:
        console.print(
            f"{found.table}: {found.compared:,} values of {found.keys:,} keys at {found.instants:,} midnights compared,"
            f" {len(found.differences):,} differ",
            markup=False,
        )
        if found.differences:
            console.print(show.differences(found))
    if found.differences:
        raise CheckError(
            f"{found.table} is not what its declaration says: {len(found.differences):,} of {found.compared:,} values"
            " differ"
        )

"""The command line: land the sample, run an interval without Airflow, serve a release, show what is published and what
it holds.

It composes the same steps as the DAG. Training sets are in `millrace.training_cli`, a project's own commands in its
`commands.py`, starting and stopping Airflow in `millrace.services`, the demo in `millrace.demo`.
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console

from contracts import catalog, project
from contracts.project import ProjectError
from contracts.report import TableReport
from lake import manifest, release, secret_files, settings
from lake.release import Release
from millrace import (
    arguments,
    components_cli,
    errors,
    maintenance,
    pipeline,
    project_cli,
    settings_cli,
    show,
    training_cli,
)

ALONE = ("init", "check", "new", "start", "health", "settings")
"""Commands that do not need those of the project, which may be what is wrong."""
KEPT_DAYS, SAMPLE = "7", 500
HELP = """Carry an e-commerce lake from landed files to served features.

State lies in .millrace (MILLRACE_HOME), tables in its lake (MILLRACE_LAKE), landed files in its landing
(MILLRACE_LANDING).
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it did what it says, 1 with a message when it could not, 2 for a wrong command line."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        options = _parser(own=not given or given[0] not in ALONE).parse_args(arguments)
    except ProjectError as error:
        show.complain(f"{type(error).__name__}: {error}")
        return 1
    console = show.console()
    try:
        secret_files.load()
        options.command(options, console)
    except Exception as error:
        explanation = None if errors.is_ours(error) else errors.explain(error)
        if explanation is None and not isinstance(error, RuntimeError | ValueError | LookupError | OSError):
            raise  # a defect
        show.complain(f"{type(error).__name__}: {explanation or error}")
        return 1
    return 0


def _parser(own: bool = True) -> argparse.ArgumentParser:
    prog = "millrace" if Path(sys.argv[0]).name == "millrace" else "python -m millrace"
    parser = argparse.ArgumentParser(prog=prog, description=HELP, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="command")
    _add(commands, "sample", _sample, "land the sample (The Complete Journey) in the landing zone")
    run = _add(commands, "run", _run, "carry the days [start, end) through every layer, in this process")
    run.add_argument("--start", required=True, help="first day, such as 2017-01-01")
    run.add_argument("--end", required=True, help="day after the last one, such as 2018-01-02")
    serve = _add(
        commands, "serve", _serve, "load a release into the online store: the newest one, or an older one to go back"
    )
    serve.add_argument("--release", type=int, help="number of the release (default: the newest)")
    serve.add_argument(
        "--fresh",
        action="store_true",
        help="load every row again, to repair rows that were changed in the online store",
    )
    compare = _add(
        commands,
        "compare",
        _compare,
        "compare what is served with what a training set would hold, value by value; 1 when any differs",
    )
    compare.add_argument(
        "--sample", type=arguments.count(), default=SAMPLE, help=f"entities of each view and side (default: {SAMPLE})"
    )
    compare.add_argument("--all", action="store_true", help="all entities; minutes for a million")
    compare.add_argument("--json", action="store_true", help="print all figures as JSON")
    migrate = _add(
        commands,
        "migrate",
        _migrate,
        "bring state that an older version left to this version: lake, registry, online store, Airflow's metadata",
    )
    migrate.add_argument(
        "--check", action="store_true", help="say what is pending, and change nothing; 1 if anything is"
    )
    migrate.add_argument(
        "--from-file", type=Path, metavar="FILE", help="a registry.db to copy into PostgreSQL (default: this home's)"
    )
    _add(commands, "tables", _tables, "list the published tables: version, rows, size")
    profile = _add(
        commands,
        "profile",
        _profile,
        "say what the columns of a published table hold: NULLs, distinct and frequent values, range, quantiles",
    )
    profile.add_argument("table", help="layer and name, such as silver.transactions or quarantine.transactions")
    profile.add_argument("--version", type=int, help="Delta version of the table (default: the newest)")
    profile.add_argument(
        "--by",
        choices=settings.COUNTS,
        help=(
            "who counts; the result is the same (default: MILLRACE_JOIN, or else cudf where there is a GPU and duckdb"
            " elsewhere)"
        ),
    )
    profile.add_argument("--json", action="store_true", help="print all figures as JSON")
    optimize = _add(commands, "optimize", _optimize, "write small files of a table, or of all tables, together")
    optimize.add_argument("table", nargs="?", help="such as silver.transactions (default: all)")
    vacuum = _add(
        commands,
        "vacuum",
        _vacuum,
        "say which files no release, training set or recent version needs; with --delete, delete them",
    )
    vacuum.add_argument("table", nargs="?", help="such as silver.transactions (default: all)")
    vacuum.add_argument(
        "--days",
        type=_days,
        default=KEPT_DAYS,
        help=f"spare what was replaced in the last so many days (default: {KEPT_DAYS})",
    )
    vacuum.add_argument("--delete", action="store_true", help="delete; without it nothing is changed")
    vacuum.add_argument(
        "--forget-releases-before",
        type=int,
        metavar="N",
        help="let go of older releases, too; --delete removes them. Training sets stay",
    )
    vacuum.add_argument(
        "--forget-training-set",
        action="append",
        default=[],
        metavar="NAME",
        help="let go of what only this training set needs: it cannot be rebuilt afterwards",
    )
    training_cli.add(
        _add(commands, "training-set", None, "make training sets that can be made again, and check them for leaks"),
        _add,
    )
    components_cli.add(commands, _add)
    project_cli.add(commands, _add)
    settings_cli.add(commands, _add)
    if own:
        _add_commands_of_project(commands)
    return parser


def _add_commands_of_project(commands: Any) -> None:
    try:
        found = project.module("commands")
        if found is not None:
            found.add(commands, _add)
    except ProjectError:
        raise
    except Exception as error:  # a file of the user's: whatever it raises
        path = project.current().file("commands")
        raise ProjectError(
            f"{path} cannot be used: {type(error).__name__}: {error}. `millrace check` looks for what else is wrong"
        ) from error


def _add(commands: Any, name: str, command: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:])
    parser.set_defaults(command=command)
    return parser


def _days(text: str) -> timedelta:
    """A statement that a killed client left may still be at work for minutes, and a reader for hours: a day at
    least.
    """
    return timedelta(days=arguments.count("a number of days")(text))


def _sample(_options: argparse.Namespace, console: Console) -> None:
    sample = project.required("landing", "land a sample")
    if sample.is_landed():
        console.print(f"The sample has landed already at {settings.landing()}", markup=False)
        return
    sample.land(lambda name: console.print(f"Landing {name}", markup=False))
    console.print(f"Landed at {settings.landing()}", markup=False)


def _run(options: argparse.Namespace, console: Console) -> None:
    reports: list[TableReport] = []

    def say(said: TableReport | Release) -> None:
        console.print(_line(said), markup=False)
        if isinstance(said, TableReport):
            reports.append(said)

    settings_cli.warn_of_unknown(show.complain)
    settings_cli.ensure_valid(of_a_run=True)
    pipeline.ensure_project(services=False)
    try:
        pipeline.run_all(options.start, options.end, arguments.run_id(), say)
    finally:  # a run that fails has published these tables all the same
        if reports:
            order = [table.qualified for table in catalog.tables()]
            console.print(show.accounts(sorted(reports, key=lambda report: order.index(report.table))))
    try:
        console.print(f"Data Docs: {pipeline.render_docs()}", markup=False)
    except pipeline.DocsError as error:  # tables and release are published: the run did what it was to do
        show.complain(f"Warning: {error}")


def _line(said: TableReport | Release) -> str:
    if isinstance(said, Release):
        return f"release {said.number}: features are known up to {said.horizon}"
    return show.line(said)


def _serve(options: argparse.Namespace, console: Console) -> None:
    console.print(show.views(pipeline.serve(options.release, fresh=options.fresh)))


def _compare(options: argparse.Namespace, console: Console) -> None:
    told = pipeline.consistency(None if options.all else options.sample)
    if options.json:
        print(json.dumps(told.to_dict(), indent=1, ensure_ascii=False))
    else:
        console.print(show.consistency(told))
        console.print(f"{told.compared:,} values compared, {told.wrong:,} differ")
    told.ensure_match()


def _migrate(options: argparse.Namespace, console: Console) -> None:
    from millrace import migrate

    step = migrate.check if options.check else migrate.migrate
    step(lambda line: console.print(line, markup=False, soft_wrap=True), options.from_file)


def _tables(_options: argparse.Namespace, console: Console) -> None:
    sizes = [(table.qualified, *pipeline.published_size(table)) for table in catalog.all_tables()]
    console.print(show.sizes([one for one in sizes if one[1] is not None]))


def _profile(options: argparse.Namespace, console: Console) -> None:
    told = pipeline.profile(options.table, options.version, options.by)
    if options.json:
        print(json.dumps(told.to_dict(), indent=1, ensure_ascii=False, allow_nan=False))
        return
    console.print(
        f"{told.table}, version {told.version}: {told.profile.rows:,} rows, counted by {told.by}\n", markup=False
    )
    for grid in show.profile(told.profile):
        console.print(grid)


def _optimize(options: argparse.Namespace, console: Console) -> None:
    done = [maintenance.optimize(name) for name in maintenance.published_tables(options.table)]
    console.print(show.tidied("Tables written together", "fewer", done))


def _vacuum(options: argparse.Namespace, console: Console) -> None:
    since, forgotten = (
        options.forget_releases_before or 0,
        [manifest.read(name).name for name in options.forget_training_set],
    )
    tables = maintenance.published_tables(options.table)
    if since and release.read(since) and options.delete:
        removed = maintenance.forget_releases(since)
        console.print(f"Releases removed: {', '.join(map(str, removed)) or 'none'}", markup=False)
    done = [
        maintenance.vacuum(name, options.days, delete=options.delete, since=since, forgotten=forgotten)
        for name in tables
    ]
    gone = sum(one.gone for one in done)
    console.print(
        show.tidied(
            "Files that no release, training set or recent version needs",
            "deleted" if options.delete else "unneeded",
            done,
        )
    )
    said = "deleted" if options.delete else "would be deleted. Nothing was changed: give --delete to do it"
    console.print(f"{gone:,} file{'' if gone == 1 else 's'} {said}", markup=False)


if __name__ == "__main__":
    sys.exit(main())

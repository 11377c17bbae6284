"""The command line: land the sample, run an interval without Airflow, serve a release, show and maintain tables.

Commands call the same steps as the DAG. Training sets are in `millrace.training_cli`, a project's own commands in its
`commands.py`, starting and stopping Airflow in `millrace.services`, the demo in `millrace.demo`.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from contextlib import suppress
from datetime import timedelta
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from contracts import catalog, project
from contracts.project import ProjectError
from contracts.report import Pulled, TableReport
from lake import manifest, release, secret_files, settings
from lake.release import Release
from millrace import (
    components_cli,
    errors,
    maintenance,
    output,
    pipeline,
    project_cli,
    run_ids,
    schema_check,
    settings_cli,
    show,
    stream_cli,
    training_cli,
)

WITHOUT_PROJECT = ("init", "check", "new", "start", "health", "settings", "--version")
"""Commands that must work even if the project's own `commands.py` is broken."""
VERSIONED = {"pysail": "pysail", "pyspark": "pyspark", "feast": "feast", "airflow": "apache-airflow"}
"""What `--version` prints besides Millrace and Python, and the distribution of each."""
KEPT_DAYS, SAMPLE = 7, 500
INTERRUPTED = 130
"""Exit status after Ctrl-C, by convention and of typer."""
HELP = """Carry an e-commerce lake from landed files to served features.

State lies in .millrace (MILLRACE_HOME), tables in its lake (MILLRACE_LAKE), landed files in its landing
(MILLRACE_LANDING). `millrace settings` lists all settings.
"""


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 when it is done, 1 with a message when it failed. SystemExit(2) for a wrong command line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        app = build_app(own=not arguments or arguments[0] not in WITHOUT_PROJECT)
        secret_files.load()
        _run(app, arguments)
    except Exception as error:
        explanation = None if errors.is_ours(error) else errors.explain(error)
        if explanation is None and not isinstance(error, RuntimeError | ValueError | LookupError | OSError):
            raise  # a defect
        show.print_error(f"{type(error).__name__}: {explanation or error}")
        return 1
    except SystemExit as ending:
        if ending.code == INTERRUPTED:
            _end_interrupted()
        raise
    return 0


def _end_interrupted() -> NoReturn:
    """End at once, as a kill does: an engine in this process may still compute, and would abort the interpreter's own
    end.
    """
    show.print_error("Interrupted. What was published is intact, and the same command goes on from there.")
    with suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(INTERRUPTED)


def _run(app: typer.Typer, arguments: list[str]) -> None:
    """Run a command and write all of its output; SystemExit for a status other than 0."""
    with output.checked():
        try:
            app(arguments, prog_name="millrace" if Path(sys.argv[0]).name == "millrace" else "python -m millrace")
        except SystemExit as ending:
            if ending.code:
                raise


def build_app(own: bool = True) -> typer.Typer:
    """The commands of the engine and, if `own`, those of the project. ProjectError if its `commands.py` cannot be used.

    Help and errors are plain text, and an exception of a command reaches `main`.
    """
    app = typer.Typer(help=HELP, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback()(_options)
    for command in (sample, pull, run, serve, compare, migrate, tables, profile, optimize, vacuum):
        app.command()(command)
    app.add_typer(training_cli.app, name="training-set")
    app.add_typer(stream_cli.app, name="stream")
    components_cli.add(app)
    project_cli.add(app)
    settings_cli.add(app)
    if own:
        _add_commands_of_project(app)
    return app


def _add_commands_of_project(app: typer.Typer) -> None:
    try:
        commands = project.module("commands")
        if commands is not None:
            commands.add(app)
    except ProjectError:
        raise
    except Exception as error:  # the user's file may raise anything
        path = project.current().file("commands")
        raise ProjectError(
            f"{path} cannot be used: {type(error).__name__}: {error}. `millrace check` looks for what else is wrong"
        ) from error


def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=lambda asked: _print_versions() if asked else None)
    ] = False,
) -> None:
    """Options of `millrace` itself. Help is that of the app."""


def _print_versions() -> None:
    """Print the versions of Millrace, Python and the engines, none of which is imported."""
    print(f"millrace {settings.version()}")
    print(f"python {platform.python_version()}")
    for name, package in VERSIONED.items():
        with suppress(PackageNotFoundError):
            print(f"{name} {distribution_version(package)}")
    raise typer.Exit


def sample() -> None:
    """Land the project's sample in the landing zone."""
    console = show.console()
    landing = project.required("landing", "land a sample")
    if landing.is_landed():
        console.print(f"The sample has landed already at {settings.landing()}", markup=False)
        return
    landing.land(lambda name: console.print(f"Landing {name}", markup=False))
    console.print(f"Landed at {settings.landing()}", markup=False)


def pull(
    table: Annotated[
        str | None, typer.Argument(help="A table, such as bronze.orders. [default: all that have a database]")
    ] = None,
) -> None:
    """Land new rows of databases in the landing zone.

    Under today, for the next run that includes it. `millrace run` does this by itself.
    """
    settings_cli.warn_of_unknown()
    settings_cli.ensure_valid()
    tables = [table] if table else [declared.qualified for declared in pipeline.pulled_tables()]
    if not tables:
        raise ValueError(
            "No bronze table has a database: give its contract database=Database(...). See docs/sources.md"
        )
    for name in tables:
        show.console().print(_line(pipeline.pull(name)), markup=False)


def run(
    start: Annotated[str, typer.Option(help="First day, such as 2017-01-01.")],
    end: Annotated[str, typer.Option(help="Day after the last one, such as 2018-01-02.")],
) -> None:
    """Run the days [start, end) through every layer.

    In this process, without Airflow.
    """
    console = show.console()
    reports: list[TableReport] = []

    def progress(result: TableReport | Release | Pulled) -> None:
        console.print(_line(result), markup=False)
        if isinstance(result, TableReport):
            reports.append(result)

    settings_cli.warn_of_unknown()
    settings_cli.ensure_valid(of_a_run=True)
    pipeline.ensure_project(services=False)
    schema_check.ensure()
    try:
        pipeline.run_all(start, end, run_ids.new(), progress)
    finally:  # a run that fails has published these tables all the same
        if reports:
            order = [table.qualified for table in catalog.tables()]
            console.print(show.accounts(sorted(reports, key=lambda report: order.index(report.table))))
    try:
        console.print(f"Data Docs: {pipeline.render_docs()}", markup=False)
    except pipeline.DocsError as error:  # tables and release are published: the run did what it was to do
        show.print_error(f"Warning: {error}")


def _line(result: TableReport | Release | Pulled) -> str:
    if isinstance(result, Pulled):
        return f"{result.table}: {f'{result.rows:,} rows landed as {result.file}' if result.file else 'nothing new'}"
    if isinstance(result, Release):
        return f"release {result.number}: features are known up to {result.horizon}"
    return show.line(result)


def serve(
    release: Annotated[int | None, typer.Option(help="Number of the release. [default: the newest]")] = None,
    fresh: Annotated[
        bool,
        typer.Option("--fresh", help="Load every row again, to repair rows that were changed in the online store."),
    ] = False,
) -> None:
    """Load a release into the online store.

    The newest one, or with --release an older one, to go back.
    """
    settings_cli.warn_of_unknown()
    pipeline.ensure_project()
    show.console().print(show.views(pipeline.serve(release, fresh=fresh)))


def compare(
    sample: Annotated[int, typer.Option(min=1, help="Entities of each view and side.")] = SAMPLE,
    everything: Annotated[bool, typer.Option("--all", help="All entities; minutes for a million.")] = False,
    stream: Annotated[
        bool, typer.Option("--stream", help="Compare what the stream serves with the newest release, not served yet.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
) -> None:
    """Compare served features with training values.

    Value by value; exit status 1 if any differs.
    """
    entities = None if everything else sample
    consistency = pipeline.stream_consistency(entities) if stream else pipeline.consistency(entities)
    if as_json:
        print(json.dumps(consistency.to_dict(), indent=1, ensure_ascii=False))
    else:
        console = show.console()
        console.print(show.consistency(consistency))
        console.print(f"{consistency.compared:,} values compared, {consistency.wrong:,} differ")
    consistency.ensure_match()


def migrate(
    check: Annotated[
        bool, typer.Option("--check", help="Say what is pending, and change nothing; 1 if anything is.")
    ] = False,
    from_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A registry.db to copy into PostgreSQL. [default: this home's]"),
    ] = None,
) -> None:
    """Upgrade the state of an older version to this one.

    Lake, registry, online store, and Airflow's metadata.
    """
    from millrace import migrate

    console = show.console()
    step = migrate.check if check else migrate.migrate
    step(lambda line: console.print(line, markup=False, soft_wrap=True), from_file)


def tables() -> None:
    """List the published tables: version, rows, size."""
    sizes = [(table.qualified, *pipeline.published_size(table)) for table in catalog.all_tables()]
    show.console().print(show.sizes([row for row in sizes if row[1] is not None]))


def profile(
    table: Annotated[
        str, typer.Argument(help="Layer and name, such as silver.transactions or quarantine.transactions.")
    ],
    version: Annotated[int | None, typer.Option(help="Delta version of the table. [default: the newest]")] = None,
    by: Annotated[
        settings.Counter | None,
        typer.Option(
            help="What counts; the result is the same. [default: MILLRACE_JOIN, or else cudf where there is a GPU and"
            " duckdb elsewhere]"
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print all figures as JSON.")] = False,
) -> None:
    """Profile the columns of a published table.

    NULLs, distinct and frequent values, range, quantiles.
    """
    result = pipeline.profile(table, version, by)
    if as_json:
        print(json.dumps(result.to_dict(), indent=1, ensure_ascii=False, allow_nan=False))
        return
    console = show.console()
    console.print(
        f"{result.table}, version {result.version}: {result.profile.rows:,} rows, counted by {result.by}\n",
        markup=False,
    )
    for grid in show.profile(result.profile):
        console.print(grid)


def optimize(
    table: Annotated[str | None, typer.Argument(help="A table, such as silver.transactions. [default: all]")] = None,
) -> None:
    """Compact small files of a table, or of all tables."""
    reports = [maintenance.optimize(name) for name in maintenance.published_tables(table)]
    show.console().print(show.maintenance("Compacted tables", "fewer", reports))


def vacuum(
    table: Annotated[str | None, typer.Argument(help="A table, such as silver.transactions. [default: all]")] = None,
    days: Annotated[int, typer.Option(min=1, help="Spare what was replaced in the last so many days.")] = KEPT_DAYS,
    delete: Annotated[bool, typer.Option("--delete", help="Delete; without it nothing is changed.")] = False,
    forget_releases_before: Annotated[
        int, typer.Option(metavar="N", help="Let go of older releases, too; --delete removes them. Training sets stay.")
    ] = 0,
    forget_training_set: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Let go of what only this training set needs: it cannot be rebuilt afterwards. May be repeated.",
        ),
    ] = None,
) -> None:
    """List unneeded files; with --delete, delete them.

    Those that no release, training set or recent version needs.
    """
    console, since = show.console(), forget_releases_before
    forgotten = [manifest.read(name).name for name in forget_training_set or []]
    names = maintenance.published_tables(table)
    if since and release.read(since) and delete:
        removed = maintenance.forget_releases(since)
        console.print(f"Releases removed: {', '.join(map(str, removed)) or 'none'}", markup=False)
    reports = [maintenance.vacuum(name, _age(days), delete=delete, since=since, forgotten=forgotten) for name in names]
    gone = sum(report.gone for report in reports)
    title, column = "Files that no release, training set or recent version needs", "deleted" if delete else "unneeded"
    console.print(show.maintenance(title, column, reports))
    outcome = "deleted" if delete else "would be deleted. Nothing was changed: give --delete to do it"
    console.print(f"{gone:,} file{'' if gone == 1 else 's'} {outcome}", markup=False)


def _age(days: int) -> timedelta:
    """The minimum age of files to delete: a day or more, since readers and statements of killed clients may run on."""
    return timedelta(days=days)


if __name__ == "__main__":
    sys.exit(main())

"""`millrace training-set`: create, list, show, rebuild and check training sets. Feast is imported only by the commands
that join.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Console

from lake import manifest
from millrace import show

Name = Annotated[str, typer.Argument(help="Of the training set.")]
Json = Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")]
app = typer.Typer(help="Create, rebuild and check training sets.", rich_markup_mode=None)


@app.command()
def create(
    name: Annotated[str, typer.Option(help="Such as churn_2017: small letters, digits and _.")],
    labels: Annotated[
        str,
        typer.Option(
            help="A .parquet or .csv file, or one SELECT over the release's tables; with event_timestamp and the"
            " service's keys, such as customer_id and product_id."
        ),
    ],
    service: Annotated[str, typer.Option(help="Feature service, such as recommendation_v1.")],
    release: Annotated[
        int | None, typer.Option(help="Number of the release to read. [default: MILLRACE_RELEASE, or the newest]")
    ] = None,
    knowledge_time: Annotated[
        bool,
        typer.Option(
            "--knowledge-time", help="Each label sees the release that was the newest at its instant, and no later one."
        ),
    ] = False,
    seed: Annotated[
        int | None, typer.Option(help="Kept in the manifest, for whoever trains or samples with it.")
    ] = None,
    allow_beyond_horizon: Annotated[
        bool,
        typer.Option(
            "--allow-beyond-horizon",
            help="Accept labels after the release's horizon, with the features of the horizon, and count them.",
        ),
    ] = False,
) -> None:
    """Join labels with the features of a service.

    Keeps the rows, and all that it takes to rebuild them.
    """
    from features import training

    console = show.console()
    created = training.create(
        labels,
        service,
        name,
        release=release,
        knowledge_time=knowledge_time,
        seed=seed,
        allow_beyond_horizon=allow_beyond_horizon,
        say=_progress(console),
    )
    console.print(show.features_of(created))
    console.print(
        f"Training set {created.name}: {created.rows:,} rows at {manifest.table_path(created.name)}", markup=False
    )


@app.command("list")
def list_sets() -> None:
    """List the training sets."""
    show.console().print(show.training_sets([manifest.read(name) for name in manifest.names()]))


@app.command("show")
def show_set(name: Name, as_json: Json = False) -> None:
    """Say what a training set was made from."""
    content = manifest.read(name)
    if as_json:
        print(json.dumps(asdict(content), indent=1))
        return
    console = show.console()
    console.print(show.origin(content))
    console.print(show.features_of(content))


@app.command()
def rebuild(
    name: Name,
    check: Annotated[bool, typer.Option("--check", help="Compare only; write nothing.")] = False,
) -> None:
    """Rebuild a training set, and compare.

    Restores its table if that was lost or altered.
    """
    from features import training

    console = show.console()
    result = training.rebuild(name, write=not check, say=_progress(console))
    file = {
        True: ", and the same file byte for byte",
        False: "; its file differs",
        None: f"; its file was written by pyarrow {result.manifest.code.pyarrow}",
    }
    console.print(
        f"{result.manifest.rows:,} rows, the same values as when it was made{file[result.same_file]}", markup=False
    )
    if not result.intact:
        state = "put back" if result.restored else "lost or altered: rebuild it without --check to put it back"
        console.print(f"The table at {manifest.table_path(name)} was {state}", markup=False)


@app.command()
def leaks(name: Name, as_json: Json = False) -> None:
    """Count values that were unknowable at label time."""
    from features import training

    console = show.console()
    report = training.check_leaks(name, say=(lambda _: None) if as_json else _progress(console))
    if as_json:
        print(json.dumps(report.to_dict(), indent=1))
        return
    console.print(show.leaks(report))
    for sentence in report.sentences:
        console.print(f"{sentence}.", markup=False)


def _progress(console: Console) -> Callable[[str], Any]:
    return lambda message: console.print(message, markup=False)

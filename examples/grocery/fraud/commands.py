"""`millrace fraud`: invent fraud, learn to find it, score purchases as they come."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Annotated

import typer

from millrace import show

Day = Annotated[datetime, typer.Option(formats=["%Y-%m-%d"])]
ModelName = Annotated[str | None, typer.Option("--model", help="Name of the model. [default: the newest]")]
app = typer.Typer(help="Invent fraud, learn to find it, and score purchases as they come.", rich_markup_mode=None)


@app.command()
def inject(
    start: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="First day.")] = datetime(2017, 7, 1),
    end: Annotated[datetime, typer.Option(formats=["%Y-%m-%d"], help="The day after the last.")] = datetime(2018, 1, 2),
    a_day: Annotated[int, typer.Option("--a-day", min=1, max=1000, help="Cases a day.")] = 3,
    seed: Annotated[int, typer.Option(help="What is invented follows from it.")] = 7,
) -> None:
    """Invent fraud, and land it beside the sample.

    For a MILLRACE_HOME of its own: every table that is made from transactions will have it. Then run its days.
    """
    from grocery.fraud import injection

    done = injection.inject(start.date(), end.date(), a_day, seed)
    text = f"Invented {done.cases:,} cases: {done.baskets:,} baskets, {done.lines:,} lines. Labels: {done.labels}"
    show.console().print(text, markup=False)


@app.command()
def train(
    release: Annotated[int | None, typer.Option(help="Number of the release. [default: the newest]")] = None,
    seed: Annotated[int, typer.Option(help="Of the model.")] = 7,
) -> None:
    """Train a model on the first half of the invented fraud, and measure it on the last third."""
    from grocery.fraud import model

    console = show.console()
    name = model.create_training_set(release, lambda message: console.print(message, markup=False))
    console.print(_figures(model.train(name, seed).about))


@app.command("show")
def show_model(
    name: ModelName = None, as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False
) -> None:
    """Say what a model was made from, and how well it finds what was invented."""
    from grocery.fraud import model

    about = model.load(name).about
    if as_json:
        print(json.dumps(about, indent=1))
        return
    show.console().print(_figures(about))


@app.command()
def score(
    name: ModelName = None,
    url: Annotated[str | None, typer.Option(help="Of the feature server. [default: that of `make up`]")] = None,
    group: Annotated[str, typer.Option(help="Consumer group.")] = "millrace-fraud",
    topic: Annotated[str, typer.Option(help="Where to write scores.")] = "fraud_scores",
) -> None:
    """Score each line that reaches the topic `transactions`, until SIGTERM or Ctrl-C."""
    from grocery.fraud import scoring

    raise typer.Exit(scoring.run(name, url, group, topic))


@app.command()
def replay(
    day: Annotated[datetime, typer.Argument(formats=["%Y-%m-%d"], help="A landed day.")],
) -> None:
    """Write the landed lines of a day to the topic `transactions`, in the order of their instants."""
    from grocery.fraud import scoring

    count = scoring.replay(day.date())
    show.console().print(f"{count:,} lines of {day.date()} written", markup=False)


def _figures(about: dict) -> show.Grid:
    """A model's figures as a table."""
    periods = about["periods"]
    title = (
        f"{about['fraudulent']:,} of {about['baskets']:,} baskets of {periods['test']} to {periods['end']} are invented"
        " fraud"
    )
    grid = show.new_grid(title, "method", "flagged", "precision", "recall", "recall by kind", "threshold")
    for name, figures in about["methods"].items():
        kinds = ", ".join(f"{kind} {share:.2f}" for kind, share in figures["recall_by_kind"].items())
        threshold = f"{figures['column']} >= {figures['threshold']:.4g}" if "column" in figures else ""
        precision, recall = f"{figures['precision']:.3f}", f"{figures['recall']:.3f}"
        grid.add_row(name, f"{figures['flagged']:,}", precision, recall, kinds, threshold)
    return grid

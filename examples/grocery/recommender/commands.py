"""`millrace recommender`: train the recommender, say how good it is, recommend, score every customer, and follow a
model to its tables and back.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from millrace import run_ids, show

Model = Annotated[str | None, typer.Option(help="Name of the model. [default: the newest]")]
ModelName = Annotated[str | None, typer.Argument(help="Of the model. [default: the newest]")]
Release = Annotated[int | None, typer.Option(help="Number of the release. [default: MILLRACE_RELEASE, or the newest]")]
app = typer.Typer(help="Train a model, judge it, and recommend.", rich_markup_mode=None)


@app.command()
def train(
    release: Release = None,
    weeks: Annotated[int, typer.Option(min=1, max=52, help="Weeks that each model learns from.")] = 5,
    held_back: Annotated[
        int, typer.Option(min=1, max=52, help="Weeks held back, each judged by a model of the weeks before it.")
    ] = 4,
    seed: Annotated[int, typer.Option(help="Of the model.")] = 7,
    no_tracking: Annotated[bool, typer.Option("--no-tracking", help="Keep the model and tell MLflow nothing.")] = False,
) -> None:
    """Train a model and judge it.

    It learns from the weeks before those held back, and is judged on those. The run goes to MLflow.
    """
    from grocery.recommender import job, steps, tracking
    from grocery.recommender import show as tables

    console = show.console()
    fitted = job.train(release, weeks, held_back, seed, lambda message: console.print(message, markup=False))
    steps.record_model(fitted.about)
    console.print(tables.model(fitted.about))
    if not no_tracking:
        console.print(f"MLflow run {tracking.track(fitted)} of experiment {tracking.EXPERIMENT}", markup=False)


@app.command("show")
def show_model(
    name: ModelName = None, as_json: Annotated[bool, typer.Option("--json", help="Print all of it as JSON.")] = False
) -> None:
    """Say what a model was made from and how good it is."""
    from grocery.recommender import model
    from grocery.recommender import show as tables

    about = model.about(name)
    if as_json:
        print(json.dumps(about, indent=1))
        return
    show.console().print(tables.model(about))


@app.command()
def ask(
    customer: Annotated[int, typer.Argument(help="customer_id, such as 1.")],
    model: Model = None,
    top: Annotated[int, typer.Option(min=1, max=52, help="How many products.")] = 10,
) -> None:
    """Say what this customer will buy in the next seven days."""
    from grocery.recommender import model as models
    from grocery.recommender import show as tables
    from grocery.recommender.serving import recommend

    console = show.console()
    products = recommend(models.load(model), customer, top)
    if not products:
        console.print(
            f"Customer {customer} bought nothing in the 90 days before the horizon: there is nothing to go by"
        )
        return
    console.print(tables.recommendations(customer, products))


@app.command()
def score(model: Model = None, release: Release = None) -> None:
    """Publish the best products of all active customers.

    As a Delta table; existing scores stay.
    """
    from grocery.recommender import steps

    show.console().print(str(steps.score(model, release, run_ids.new())), markup=False)


@app.command()
def track(name: ModelName = None) -> None:
    """Send a kept model to MLflow, once."""
    from grocery.recommender import model, tracking

    fitted = model.load(name)
    show.console().print(
        f"model {fitted.about['name']}: MLflow run {tracking.track(fitted)} of experiment {tracking.EXPERIMENT}",
        markup=False,
    )


@app.command()
def lineage(
    model: Annotated[str | None, typer.Option(help="What this model was made from.")] = None,
    training_set: Annotated[
        str | None, typer.Option(help="The models made from this training set, or judged on it.")
    ] = None,
    release: Annotated[int | None, typer.Option(help="The models made from this release.")] = None,
    table: Annotated[
        str | None, typer.Option(help="The models made from this table, such as gold.customer_product.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Trace models to their inputs, or inputs to models.

    Inputs are training sets, releases and Delta versions.
    """
    from grocery.recommender import show as tables
    from grocery.recommender import tracking

    console = show.console()
    links = tracking.links(model, training_set, release, table)
    if as_json:
        print(json.dumps([asdict(link) for link in links], indent=1))
        return
    if not links:
        console.print(
            "No kept model was made from that"
            if any((training_set, release, table))
            else "No model is kept. Train one: millrace recommender train"
        )
        return
    for link in links:
        console.print(tables.model_origin(link))

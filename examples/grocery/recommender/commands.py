"""`millrace recommender`: train the recommender, say how good it is, recommend, score every customer, and follow a
model to its tables and back.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict

from rich.console import Console

from millrace import arguments


def add(parser: argparse.ArgumentParser, adding: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands below `recommender`."""
    commands = parser.add_subparsers(required=True, metavar="command")
    train = adding(
        commands,
        "train",
        _train,
        "learn from the weeks before those held back, judge on those, and send the run to MLflow",
    )
    train.add_argument("--release", type=int, help="number of the release (default: MILLRACE_RELEASE, or the newest)")
    train.add_argument(
        "--weeks", type=arguments.count(most=52), default=5, help="weeks that each model learns from (default: 5)"
    )
    train.add_argument(
        "--held-back",
        type=arguments.count(most=52),
        default=4,
        help="weeks held back, each judged by a model of the weeks before it (default: 4)",
    )
    train.add_argument("--seed", type=int, default=7, help="of the model (default: 7)")
    train.add_argument("--no-tracking", action="store_true", help="keep the model and tell MLflow nothing")
    shown = adding(commands, "show", _show, "say what a model was made from and how good it is")
    shown.add_argument("name", nargs="?", help="of the model (default: the newest)")
    shown.add_argument("--json", action="store_true", help="print all of it as JSON")
    customer = adding(commands, "ask", _ask, "what will this customer buy in the next seven days?")
    customer.add_argument("customer", type=int, help="customer_id, such as 1")
    customer.add_argument("--model", help="name of the model (default: the newest)")
    customer.add_argument("--top", type=arguments.count(most=52), default=10, help="how many products (default: 10)")
    batch = adding(
        commands,
        "score",
        _score,
        "publish the best products of every active customer as a Delta table; what is there already stays",
    )
    batch.add_argument("--model", help="name of the model (default: the newest)")
    batch.add_argument("--release", type=int, help="number of the release (default: MILLRACE_RELEASE, or the newest)")
    track = adding(commands, "track", _track, "send a kept model to MLflow, once")
    track.add_argument("name", nargs="?", help="of the model (default: the newest)")
    lineage = adding(
        commands, "lineage", _lineage, "from models to training sets, release and Delta versions, or back to the models"
    )
    lineage.add_argument("--model", help="what this model was made from")
    lineage.add_argument("--training-set", help="the models made from this training set, or judged on it")
    lineage.add_argument("--release", type=int, help="the models made from this release")
    lineage.add_argument("--table", help="the models made from this table, such as gold.customer_product")
    lineage.add_argument("--json", action="store_true", help="print it as JSON")


def _train(options: argparse.Namespace, console: Console) -> None:
    from grocery.recommender import job, show, steps, tracking

    fitted = job.train(
        options.release, options.weeks, options.held_back, options.seed, lambda said: console.print(said, markup=False)
    )
    steps.record_model(fitted.about)
    console.print(show.model(fitted.about))
    if not options.no_tracking:
        console.print(f"MLflow run {tracking.track(fitted)} of experiment {tracking.EXPERIMENT}", markup=False)


def _show(options: argparse.Namespace, console: Console) -> None:
    from grocery.recommender import model, show

    about = model.about(options.name)
    if options.json:
        print(json.dumps(about, indent=1))
        return
    console.print(show.model(about))


def _ask(options: argparse.Namespace, console: Console) -> None:
    from grocery.recommender import model, show
    from grocery.recommender.serving import recommend

    found = recommend(model.load(options.model), options.customer, options.top)
    if not found:
        console.print(
            f"Customer {options.customer} bought nothing in the 90 days before the horizon: there is nothing to go by"
        )
        return
    console.print(show.recommendations(options.customer, found))


def _score(options: argparse.Namespace, console: Console) -> None:
    from grocery.recommender import steps

    console.print(str(steps.score(options.model, options.release, arguments.run_id())), markup=False)


def _track(options: argparse.Namespace, console: Console) -> None:
    from grocery.recommender import model, tracking

    fitted = model.load(options.name)
    console.print(
        f"model {fitted.about['name']}: MLflow run {tracking.track(fitted)} of experiment {tracking.EXPERIMENT}",
        markup=False,
    )


def _lineage(options: argparse.Namespace, console: Console) -> None:
    from grocery.recommender import show, tracking

    found = tracking.links(options.model, options.training_set, options.release, options.table)
    if options.json:
        print(json.dumps([asdict(link) for link in found], indent=1))
        return
    if not found:
        console.print(
            "No kept model was made from that"
            if any((options.training_set, options.release, options.table))
            else "No model is kept. Train one: millrace recommender train"
        )
        return
    for link in found:
        console.print(show.model_origin(link))

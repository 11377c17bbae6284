"""`millrace recommender`: train the recommender, say how good it is, and recommend."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

from rich.console import Console

from dags import arguments, show


def add(parser: argparse.ArgumentParser, adding: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands below `recommender`."""
    commands = parser.add_subparsers(required=True, metavar="command")
    train = adding(commands, "train", _train, "learn from the weeks before the last one of a release, and judge on the last")
    train.add_argument("--release", type=int, help="number of the release (default: MILLRACE_RELEASE, or the newest)")
    train.add_argument("--weeks", type=arguments.count(most=52), default=4, help="weeks to learn from (default: 4)")
    train.add_argument("--seed", type=int, default=7, help="of the model (default: 7)")
    told = adding(commands, "show", _show, "say what a model was made from and how good it is")
    told.add_argument("name", nargs="?", help="of the model (default: the newest)")
    told.add_argument("--json", action="store_true", help="print all of it as JSON")
    asked = adding(commands, "ask", _ask, "what will this customer buy in the next seven days?")
    asked.add_argument("customer", type=int, help="customer_id, such as 1")
    asked.add_argument("--model", help="name of the model (default: the newest)")
    asked.add_argument("--top", type=arguments.count(most=52), default=10, help="how many products (default: 10)")


def _train(options: argparse.Namespace, console: Console) -> None:
    from models.recommender import job

    fitted = job.train(options.release, options.weeks, options.seed, lambda said: console.print(said, markup=False))
    console.print(show.model(fitted.about))


def _show(options: argparse.Namespace, console: Console) -> None:
    from models.recommender import model

    about = model.about(options.name)
    if options.json:
        print(json.dumps(about, indent=1))
        return
    console.print(show.model(about))


def _ask(options: argparse.Namespace, console: Console) -> None:
    from models.recommender import model
    from models.recommender.serving import recommend

    found = recommend(model.load(options.model), options.customer, options.top)
    if not found:
        console.print(f"Customer {options.customer} bought nothing in the 90 days before the horizon: there is nothing to go by")
        return
    console.print(show.recommendations(options.customer, found))

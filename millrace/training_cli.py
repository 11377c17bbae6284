"""`millrace training-set`: create, list, show, rebuild and check training sets. Feast is imported only by the commands
that join.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from rich.console import Console

from lake import manifest
from millrace import show


def add(parser: argparse.ArgumentParser, adding: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands below `training-set`."""
    commands = parser.add_subparsers(required=True, metavar="command")
    create = adding(
        commands,
        "create",
        _create,
        "join labels with the features of a service; keep the rows, and all that it takes to make them again",
    )
    create.add_argument("--name", required=True, help="such as churn_2017: small letters, digits and _")
    create.add_argument(
        "--labels",
        required=True,
        help=(
            "a .parquet or .csv file, or one SELECT over the release's tables; with event_timestamp and the service's"
            " keys, such as customer_id and product_id"
        ),
    )
    create.add_argument("--service", required=True, help="feature service, such as recommendation_v1")
    create.add_argument(
        "--release", type=int, help="number of the release to read (default: MILLRACE_RELEASE, or the newest)"
    )
    create.add_argument(
        "--knowledge-time",
        action="store_true",
        help="each label sees the release that was the newest at its instant, and no later one",
    )
    create.add_argument("--seed", type=int, help="noted down in the manifest, for whoever trains or samples with it")
    create.add_argument(
        "--allow-beyond-horizon",
        action="store_true",
        help="take labels after the release's horizon too, with the features of the horizon, and count them",
    )
    adding(commands, "list", _list, "list the training sets")
    for name, command, text in (
        ("show", _show, "say what a training set was made from"),
        ("rebuild", _rebuild, "make a training set again, compare, and put its table back if that was lost or altered"),
        ("leaks", _leaks, "say for every feature how many values were unknowable at label time"),
    ):
        one = adding(commands, name, command, text)
        one.add_argument("name", help="of the training set")
        if name == "rebuild":
            one.add_argument("--check", action="store_true", help="compare only; write nothing")
        else:
            one.add_argument("--json", action="store_true", help="print all of it as JSON")


def _create(options: argparse.Namespace, console: Console) -> None:
    from features import training

    asked = {
        "release": options.release,
        "knowledge_time": options.knowledge_time,
        "seed": options.seed,
        "allow_beyond_horizon": options.allow_beyond_horizon,
    }
    made = training.create(options.labels, options.service, options.name, **asked, say=_saying(console))
    console.print(show.features_of(made))
    console.print(f"Training set {made.name}: {made.rows:,} rows at {manifest.table_path(made.name)}", markup=False)


def _list(_options: argparse.Namespace, console: Console) -> None:
    console.print(show.training_sets([manifest.read(name) for name in manifest.names()]))


def _show(options: argparse.Namespace, console: Console) -> None:
    made = manifest.read(options.name)
    if options.json:
        print(json.dumps(asdict(made), indent=1))
        return
    console.print(show.origin(made))
    console.print(show.features_of(made))


def _rebuild(options: argparse.Namespace, console: Console) -> None:
    from features import training

    done = training.rebuild(options.name, write=not options.check, say=_saying(console))
    file = {
        True: ", and the same file byte for byte",
        False: "; its file differs",
        None: f"; its file was written by pyarrow {done.manifest.code.pyarrow}",
    }
    console.print(
        f"{done.manifest.rows:,} rows, the same values as when it was made{file[done.same_file]}", markup=False
    )
    if not done.intact:
        state = "put back" if done.restored else "lost or altered: rebuild it without --check to put it back"
        console.print(f"The table at {manifest.table_path(options.name)} was {state}", markup=False)


def _leaks(options: argparse.Namespace, console: Console) -> None:
    from features import training

    found = training.check_leaks(options.name, say=_saying(console) if not options.json else lambda _: None)
    if options.json:
        print(json.dumps(found.to_dict(), indent=1))
        return
    console.print(show.leaks(found))
    for said in found.sentences:
        console.print(f"{said}.", markup=False)


def _saying(console: Console) -> Callable[[str], Any]:
    return lambda said: console.print(said, markup=False)

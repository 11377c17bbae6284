"""A seed gives the same episode again, and every command of an episode is one of the CLI's."""

from __future__ import annotations

import pytest
import typer

from millrace import cli
from tests.chaos import schedule
from tests.chaos.schedule import Step

KINDS = {"run", "two-runs", "run-and-tidy", "serve", "serve-back", "optimize", "vacuum", "create", "rebuild"}


@pytest.fixture(scope="module")
def steps() -> list[Step]:
    return [step for episode in range(20) for step in schedule.steps(1, episode)]


def test_a_seed_gives_the_same_steps_and_another_seed_others() -> None:
    assert [*schedule.steps(7, 3)] == [*schedule.steps(7, 3)]
    assert [*schedule.steps(7, 3)] != [*schedule.steps(8, 3)]
    assert [*schedule.steps(7, 3)] != [*schedule.steps(7, 4)]


def test_all_kinds_of_operations_occur(steps: list[Step]) -> None:
    assert {step.kind for step in steps} == KINDS


def test_every_command_is_understood(steps: list[Step]) -> None:
    for step in steps:
        for command in step.commands:
            parse([*command, *(["1"] if step.release_index is not None else [])])


def parse(arguments: list[str]) -> None:
    """Parse a command line as `cli.main` does, and run nothing."""
    command, context = typer.main.get_command(cli.build_app()), None
    while True:
        context = command.make_context("millrace", arguments, parent=context)
        if not hasattr(command, "resolve_command"):
            return
        _, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])


def test_a_correction_replaces_the_row_that_features_count() -> None:
    """Only one row for each basket and product: the one that landed last."""
    *_, last = (step for step in schedule.steps(1, 0) if step.landings)
    keys = [(row["basket_id"], row["product_id"]) for row in last.expected.purchases]
    landed: dict[tuple[int, int], set[int]] = {}
    for step in schedule.steps(1, 0):
        for file in step.landings:
            for row in file.rows if file.table == "transactions" else ():
                landed.setdefault((row["basket_id"], row["product_id"]), set()).add(row["quantity"])
    corrected = {key: quantities for key, quantities in landed.items() if len(quantities) > 1}
    assert len(keys) == len({*keys})
    assert corrected
    for row in last.expected.purchases:
        key = (row["basket_id"], row["product_id"])
        assert row["quantity"] == max(landed[key])

"""The tables of the current project: `contracts/<layer>/<name>.py` declares `<layer>.<name>` in a variable `<name>`."""

import difflib
from functools import cache

from contracts import project
from contracts.model import ContractError, Layer, Table

LAYERS = (Layer.BRONZE, Layer.SILVER, Layer.GOLD)
"""The layers that a run builds and a release pins."""
AFTER_RELEASE = (Layer.SCORES,)
"""The layers that are built from a release, in a run of their own."""


def tables(layer: Layer | None = None) -> tuple[Table, ...]:
    """The tables of a layer, or of LAYERS, in build order: each after its inputs and references."""
    return _tables(project.current(), layer)


@cache
def _tables(owner: project.Project, layer: Layer | None) -> tuple[Table, ...]:
    layers = (layer,) if layer else LAYERS
    return tuple(
        table
        for name in layers
        for table in _in_order([load(owner, name, stem) for stem in owner.names(f"contracts.{name}")])
    )


def all_tables() -> tuple[Table, ...]:
    """All tables: those of LAYERS, then those of AFTER_RELEASE."""
    return (*tables(), *(table for layer in AFTER_RELEASE for table in tables(layer)))


def longest_window() -> int:
    """The longest window in days: after that many days without an event, no feature changes any more."""
    trailing_windows = [table.aggregates.trailing for table in tables(Layer.GOLD) if table.aggregates]
    histories = [table.history_days for table in tables(Layer.GOLD) if table.history_days]
    return max([*(days for trailing in trailing_windows for days in trailing), *histories], default=0)


def table(qualified: str) -> Table:
    """The contract of `layer.name`; ContractError, with the nearest name, when there is none."""
    known = {table.qualified: table for table in all_tables()}
    if qualified not in known:
        near = difflib.get_close_matches(qualified, known, 1)
        hint = f" Did you mean {near[0]}?" if near else f" Known: {', '.join(known)}."
        raise ContractError(f"there is no table {qualified!r}.{hint}")
    return known[qualified]


def load(owner: project.Project, layer: Layer, name: str) -> Table:
    """The contract in one file of a project. ContractError where it declares something else."""
    contract = getattr(owner.module(f"contracts.{layer}.{name}"), name, None)
    if not isinstance(contract, Table) or (contract.layer, contract.name) != (layer, name):
        raise ContractError(
            f"contracts/{layer}/{name}.py must declare `{name}`, the contract of the table {layer}.{name}:"
            f" Table(layer=Layer.{layer.upper()}, name={name!r}, ...)"
        )
    return contract


def _in_order(unsorted: list[Table]) -> list[Table]:
    ordered: list[Table] = []
    waiting = list(unsorted)
    while waiting:
        names = {table.qualified for table in waiting}
        ready = [
            table
            for table in waiting
            if not names & ({*table.inputs, *(reference.to for reference in table.references)} - {table.qualified})
        ]
        if not ready:
            raise ContractError(f"these tables depend on each other in a circle: {', '.join(sorted(names))}")
        ordered += ready
        waiting = [table for table in waiting if table not in ready]
    return ordered

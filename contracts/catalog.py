"""The tables of the current project, found by their path: `contracts/<layer>/<name>.py` declares the table
`<layer>.<name>` in a variable `<name>`.
"""

import difflib
from functools import cache

from contracts import project
from contracts.model import ContractError, Layer, Table

LAYERS = (Layer.BRONZE, Layer.SILVER, Layer.GOLD)
"""What a run builds from what has landed, and a release pins."""
AFTER_RELEASE = (Layer.SCORES,)
"""What is made from a release, by a run of its own."""


def tables(layer: Layer | None = None) -> tuple[Table, ...]:
    """Every table of a layer, or of all that a run builds, in an order in which they can be built: a table comes after
    its inputs and references.
    """
    return _tables(project.current(), layer)


@cache
def _tables(of: project.Project, layer: Layer | None) -> tuple[Table, ...]:
    layers = (layer,) if layer else LAYERS
    return tuple(
        table
        for chosen in layers
        for table in _in_order([load(of, chosen, name) for name in of.names(f"contracts.{chosen}")])
    )


def all_tables() -> tuple[Table, ...]:
    """Every table with a contract: those that a run builds, then those that are made from a release."""
    return (*tables(), *(table for layer in AFTER_RELEASE for table in tables(layer)))


def longest_window() -> int:
    """Days: after so many without an event every window is empty, and no row of any feature table changes any more."""
    declared = [table.aggregates.trailing for table in tables(Layer.GOLD) if table.aggregates]
    histories = [table.history_days for table in tables(Layer.GOLD) if table.history_days]
    return max([*(days for trailing in declared for days in trailing), *histories], default=0)


def table(qualified: str) -> Table:
    """The contract of `layer.name`, or an error that offers the nearest name."""
    known = {table.qualified: table for table in all_tables()}
    if qualified not in known:
        near = difflib.get_close_matches(qualified, known, 1)
        hint = f" Did you mean {near[0]}?" if near else f" Known: {', '.join(known)}."
        raise ContractError(f"there is no table {qualified!r}.{hint}")
    return known[qualified]


def load(of: project.Project, layer: Layer, name: str) -> Table:
    """The contract in one file. ContractError where it declares something else."""
    found = getattr(of.module(f"contracts.{layer}.{name}"), name, None)
    if not isinstance(found, Table) or (found.layer, found.name) != (layer, name):
        raise ContractError(
            f"contracts/{layer}/{name}.py must declare `{name}`, the contract of the table {layer}.{name}:"
            f" Table(layer=Layer.{layer.upper()}, name={name!r}, ...)"
        )
    return found


def _in_order(unsorted: list[Table]) -> list[Table]:
    ordered: list[Table] = []
    waiting = list(unsorted)
    while waiting:
        names = {one.qualified for one in waiting}
        ready = [
            one for one in waiting if not names & ({*one.inputs, *(r.to for r in one.references)} - {one.qualified})
        ]
        if not ready:
            raise ContractError(f"these tables need each other in a circle: {', '.join(sorted(names))}")
        ordered += ready
        waiting = [one for one in waiting if one not in ready]
    return ordered

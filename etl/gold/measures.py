"""What the windows of a feature table compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import NamedTuple

AT, NEWEST = "_at", "_newest"
"""Columns: an event's instant, and the newest instant before the midnight."""
EPOCH = date(1970, 1, 1)
ENTERED = 0
"""In place of a window's length in days: the change is an entry into all windows."""


@dataclass(frozen=True)
class Extreme:
    """The largest (or smallest) value of a column in each window of `windows` days, and with `any_age` of all events so
    far. The column may be a struct.
    """

    largest: bool
    windows: Sequence[int]
    any_age: bool = False


@dataclass(frozen=True)
class Recent:
    """The sum of column `of` over the `days` days that end with the day of the key's newest event, weighted as
    `Decayed` says where there is a `half_life` (in days); or, with `smallest`, its smallest value, where values grow
    with time.
    """

    of: str
    days: int
    half_life: int = 0
    smallest: bool = False


class Sliding(NamedTuple):
    """A sum or count over a window of `days` days: the result's name, and the daily columns with what enters and what
    leaves.
    """

    name: str
    enters: str
    leaves: str
    days: int


@dataclass(frozen=True)
class Measures:
    """What to compute over the windows. Result columns are called `<name>_<w>d` for a window of w days, and `<name>`
    without a window, by the names that are the mappings' keys.

    `sums` maps a column (never NULL) to the windows, in days, that sum it; `distinct` maps one to the windows that
    count its distinct values other than NULL; `extremes` and `recent` map names to their definitions. `newest` adds the
    column NEWEST, which `recent` needs.
    """

    sums: Mapping[str, Sequence[int]] = field(default_factory=dict)
    distinct: Mapping[str, Sequence[int]] = field(default_factory=dict)
    extremes: Mapping[str, Extreme] = field(default_factory=dict)
    recent: Mapping[str, Recent] = field(default_factory=dict)
    newest: bool = False
    trailing: tuple[int, ...] = ()
    """All window lengths in days, ascending: each makes a row where an event leaves it."""

    @property
    def sliding(self) -> list[Sliding]:
        """The sums, then the counts."""
        sums = [Sliding(f"{name}_{w}d", name, name, w) for name, windows in self.sums.items() for w in windows]
        counts = [
            Sliding(f"{name}_{w}d", f"{name}_in_{w}", f"{name}_out_{w}", w)
            for name, windows in self.distinct.items()
            for w in windows
        ]
        return [*sums, *counts]

    @property
    def looks_back(self) -> int:
        """The most days that `recent` looks back from the newest event; 0 without `recent`."""
        return max((part.days for part in self.recent.values()), default=0)


def daily_name(of: str, smallest: bool) -> str:
    """The column with a day's sum of `of`, or with its smallest value, for `Recent`."""
    return f"_day_{'first' if smallest else 'sum'}_{of}"

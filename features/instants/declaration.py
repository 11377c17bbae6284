"""What a view of instants computes: the aggregations of its gold table's contract."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from feast import FeatureView

from contracts import catalog
from contracts.aggregations import Aggregates, Aggregation, At, Measure, Recent, Window
from contracts.model import Column, Table

TAG, DIGEST = "values", "declaration"
"""Tags of a view of instants. The digest of its declaration makes a changed one a changed view."""


@dataclass(frozen=True)
class Feature:
    """A feature: its aggregation over a window, or over all events before the instant, and what it reads of events."""

    column: Column
    part: Aggregation
    window: Window | None
    measures: tuple[Measure, ...]

    @property
    def microseconds(self) -> int | None:
        """The window's length; None without one."""
        return None if self.window is None else round(self.window.length.total_seconds() * 1_000_000)


def is_of_instants(view: FeatureView) -> bool:
    """Whether the view's values are computed when they are read."""
    return bool(view.tags.get(TAG) == At.INSTANTS)


def tags(table: Table) -> dict[str, str]:
    """The tags of a table's view; none for a view of midnights, whose definition must not change."""
    if table.aggregates is None or not table.is_of_instants:
        return {}
    return {TAG: str(At.INSTANTS), DIGEST: digest(table.aggregates)}


def digest(declared: Aggregates) -> str:
    """A digest of what decides the values that are read: aggregations, windows, filters, types."""
    parts: list[Any] = [replace(part, doc="", meaning="", unit=None) for part in declared.aggregations]
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def of_view(view: FeatureView) -> Aggregates:
    """The declaration of a view's table."""
    return _of_table(view.batch_source.table)


@cache
def _of_table(name: str) -> Aggregates:
    declared = catalog.table(name).aggregates
    if declared is None:
        raise ValueError(f"{name} declares no aggregations")
    return declared


@cache
def features(declared: Aggregates) -> tuple[Feature, ...]:
    """The features of a declaration, in order."""
    return tuple(
        Feature(column, part, _window(window), declared.measures(part)) for part, window, column in declared.features()
    )


def columns_of(view: FeatureView, requested: Iterable[str]) -> list[str]:
    """The table's columns that these features are computed from."""
    names = {
        measure.column.name: None
        for feature in features(of_view(view))
        if feature.column.name in set(requested)
        for measure in feature.measures
        if measure.column
    }
    return [*names]


def _window(window: Window | Recent | None) -> Window | None:
    if isinstance(window, Recent):
        raise TypeError("a table of instants has no windows before the newest event")
    return window

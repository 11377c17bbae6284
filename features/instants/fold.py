"""Compute an entity's features at an instant from its events.

Each feature is put together from segments, each in the order of its instants. So events that came after the state was
packed need not be sorted into it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from feast import FeatureView

from contracts.aggregations import Aggregation, Count, Distinct, First, Latest, Max, Mean, Min, Ratio, Sum
from contracts.model import BOOLEAN, DOUBLE, TIMESTAMP, DecimalType, Type
from features.instants import state, tail
from features.instants.declaration import Feature, digest, features, of_view
from features.instants.state import Cells
from features.instants.tail import NO_EVENTS, Recent

Value = Any
Part = Callable[[Sequence["Segment"]], Value]
SECOND = 1_000_000


class TooOldError(ValueError):
    """An instant for which the online store does not have all events."""


class OtherDeclarationError(ValueError):
    """The state was packed for another declaration: it may lack events or columns."""


@dataclass(frozen=True)
class Segment:
    """Events up to an instant: their times, the position `end` of the first that is not before it, the position of the
    first one in each window, and the cells of each column.
    """

    at: np.ndarray
    end: int
    starts: dict[int, int]
    columns: Sequence[Cells]


class Fold:
    """Computes the requested features of a view."""

    def __init__(self, view: FeatureView, requested: Sequence[str]) -> None:
        declared = of_view(view)
        self._declaration = digest(declared)
        known = {feature.column.name: feature for feature in features(declared)}
        self._features = [known[name] for name in requested]
        self.columns = state.columns(declared)
        self._positions = {column.name: n for n, column in enumerate(self.columns)}
        names = {measure.column.name for f in self._features for measure in f.measures if measure.column}
        self.needed = frozenset(self._positions[name] for name in names)
        """The positions of the columns that the features are computed from."""
        self._windows = sorted({feature.microseconds for feature in self._features if feature.microseconds})
        self._parts = [self._feature(feature) for feature in self._features]

    def values(self, packed: bytes | None, at: int, came: Recent = NO_EVENTS) -> tuple[int, ...] | None:
        """The newest event's instant, in microseconds since 1970, and the features at the instant `at`; None without
        an event before it. `packed` is the entity's state, None without one; the events `came` since it was packed.

        TooOldError where events are missing, OtherDeclarationError where `packed` is of another declaration.
        """
        known = None if packed is None else state.unpack(packed)
        if known is not None:
            if known.declaration != self._declaration:
                raise OtherDeclarationError
            if at < known.exact_from:
                raise TooOldError
        if known is None:
            parts: Sequence[tuple[np.ndarray, Sequence[Cells]]] = [(came.at, came.columns)]
        elif len(came.at):
            parts = tail.merge(known, came)
        else:
            parts = [(np.frombuffer(known.at, np.int64), known.columns)]
        segments = [segment for times, columns in parts if (segment := self._segment(times, columns, at)).end]
        if not segments:
            return None
        newest = max(int(segment.at[segment.end - 1]) for segment in segments)
        return (newest, *(part(segments) for part in self._parts))

    def _segment(self, times: np.ndarray, columns: Sequence[Cells], at: int) -> Segment:
        end = int(times.searchsorted(at))
        return Segment(times, end, {window: int(times.searchsorted(at - window)) for window in self._windows}, columns)

    # --- features

    def _feature(self, feature: Feature) -> Part:
        part, window = feature.part, feature.microseconds
        columns = [measure.column for measure in feature.measures]
        positions = [self._positions[column.name] if column else None for column in columns]
        kinds = [column.type if column else None for column in columns]
        if isinstance(part, Ratio):
            top, bottom = (
                _as_double(_amount(side, position, window, kind), kind if isinstance(side, Sum) else None)
                for side, position, kind in zip((part.part, part.whole), positions, kinds, strict=True)
            )
            return _ratio(top, bottom, part.empty)
        [position], [kind] = positions, kinds
        if isinstance(part, Mean):
            return _ratio(_as_double(_amount(part, position, window), kind), _valid(position or 0, window), None)
        if isinstance(part, (Count, Distinct)):
            return _amount(part, position, window, kind)
        if isinstance(part, Sum):
            return _served(_amount(part, position, window), kind)
        if isinstance(part, (Latest, First)):
            value = _by_time(position, window, kind, newest=isinstance(part, Latest), is_flag=not part.of)
            return _served(value, kind if part.of else TIMESTAMP)
        if isinstance(part, (Min, Max)):
            return _served(_extreme(position or 0, window, min if isinstance(part, Min) else max, kind), kind)
        raise ValueError(f"{type(part).__name__} has no value at instants")


def _span(segment: Segment, window: int | None) -> tuple[int, int]:
    return (0 if window is None else segment.starts[window]), segment.end


def _numbers(cells: Cells, start: int, end: int) -> np.ndarray:
    return np.frombuffer(cells.numbers, np.int64)[start:end]


def _valid_cells(cells: Cells, start: int, end: int) -> np.ndarray | None:
    return None if cells.valid is None else np.frombuffer(cells.valid, bool)[start:end]


def _cells(cells: Cells, start: int, end: int, kind: Type | None) -> list[Any]:
    """The cells with a value."""
    valid = _valid_cells(cells, start, end)
    if cells.texts is not None:
        texts = cells.texts[start:end]
        return texts if valid is None else [text for text, is_valid in zip(texts, valid, strict=True) if is_valid]
    dtype = np.float64 if kind == DOUBLE else np.int64
    numbers = np.frombuffer(cells.numbers, dtype)[start:end]
    found: list[Any] = (numbers if valid is None else numbers[valid]).tolist()
    return found


def _member(value: Any) -> Any:
    """A value as a member of a set, in which NaN is one, and 0.0 is -0.0."""
    return None if value != value else value


def _size(value: Any) -> tuple[bool, Any]:
    """The order of values, as in DuckDB: NaN is above all others."""
    return value != value, value


def _amount(part: Aggregation, position: int | None, window: int | None, kind: Type | None = None) -> Part:
    """A count or a sum, in whole numbers."""
    if position is None:
        return lambda segments: sum(end - start for start, end in (_span(segment, window) for segment in segments))
    if isinstance(part, Distinct):

        def members(segments: Sequence[Segment]) -> int:
            found = set[Any]().union(*(_cells(s.columns[position], *_span(s, window), kind) for s in segments))
            return len({*map(_member, found)} if kind == DOUBLE else found)

        return members
    return lambda segments: sum(_sum(segment.columns[position], *_span(segment, window)) for segment in segments)


def _sum(cells: Cells, start: int, end: int) -> int:
    """The sum of the cells; those without a value are 0."""
    numbers = _numbers(cells, start, end)
    return sum(numbers.tolist()) if cells.wide else int(numbers.sum())


def _valid(position: int, window: int | None) -> Part:
    """How many cells have a value."""

    def count(segment: Segment) -> int:
        start, end = _span(segment, window)
        valid = _valid_cells(segment.columns[position], start, end)
        return end - start if valid is None else int(valid.sum())

    return lambda segments: sum(map(count, segments))


def _by_time(position: int | None, window: int | None, kind: Type | None, *, newest: bool, is_flag: bool) -> Part:
    """The value of the newest or oldest event that has one; of several at one instant the largest or smallest."""

    def candidate(segment: Segment) -> tuple[int, Any] | None:
        start, end = _span(segment, window)
        if position is None:
            return (int(segment.at[end - 1 if newest else start]),) * 2 if end > start else None
        cells = segment.columns[position]
        valid = _valid_cells(cells, start, end)
        if is_flag:
            valid = _numbers(cells, start, end).astype(bool)
        places = np.arange(start, end) if valid is None else start + np.flatnonzero(valid)
        if not len(places):
            return None
        instant = int(segment.at[places[-1 if newest else 0]])
        if is_flag:
            return instant, instant
        same = places[segment.at[places] == instant]
        values = _cells(cells, int(same[0]), int(same[-1]) + 1, kind)
        return instant, (max if newest else min)(values)

    def value(segments: Sequence[Segment]) -> Any:
        found = [pair for pair in map(candidate, segments) if pair is not None]
        return (max if newest else min)(found)[1] if found else None

    return value


def _extreme(position: int, window: int | None, choose: Callable[..., Any], kind: Type | None) -> Part:
    def value(segments: Sequence[Segment]) -> Any:
        found = [cell for s in segments for cell in _cells(s.columns[position], *_span(s, window), kind)]
        return choose(found, key=_size, default=None)

    return value


def _ratio(part: Part, whole: Part, empty: float | None) -> Part:
    def value(segments: Sequence[Segment]) -> float | None:
        bottom = whole(segments)
        return float(part(segments)) / float(bottom) if bottom else empty

    return value


def _as_double(amount: Part, kind: Type | None) -> Part:
    """The amount as a double, whose zero is its own."""
    if isinstance(kind, DecimalType):
        unit = 10**kind.scale
        return lambda segments: amount(segments) / unit
    return lambda segments: float(amount(segments))


def _served(value: Part, kind: Type | None) -> Part:
    """The value as the online store gives it: decimals as doubles, instants in whole seconds."""
    if isinstance(kind, DecimalType):
        unit = 10**kind.scale
        return lambda segments: None if (found := value(segments)) is None else found / unit
    if kind == TIMESTAMP:
        return lambda segments: None if (found := value(segments)) is None else found // SECOND
    if kind == BOOLEAN:
        return lambda segments: None if (found := value(segments)) is None else bool(found)
    return value

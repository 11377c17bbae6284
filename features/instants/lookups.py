"""What is looked up among a key's events for each label, and the features as SQL over what was found.

The events of a window [t - w, t) are those before t without those before t - w. So sums and counts are differences of
running ones, at t and at t - w. So are distinct values: each member is present from its first event until w after the
last one that no other follows within w. Those who count are those who came before t, less those whose last event was
before t - w.

The lookups are the same on every engine: `offline` makes them with DuckDB, `cluster` with Spark. DuckDB computes the
features from them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from feast import FeatureView

from contracts.aggregations import Aggregation, Count, Distinct, First, Latest, Max, Mean, Min, Ratio, Sum
from contracts.model import DecimalType
from features import type_mapping
from features.instants.declaration import Feature, features, of_view
from lake.sql import identifier

TIME = "__t"
"""Microseconds since 1970 of an event."""


@dataclass(frozen=True)
class Running:
    """A running sum of `amount`, or of how many events meet `condition`: SQL over an event that DuckDB and Spark
    share.
    """

    amount: str = ""
    condition: str = ""
    type: str = "HUGEINT"
    """DuckDB's type of the sum."""


@dataclass(frozen=True)
class Newest:
    """The largest value of the newest instant before the label's that has one, as `<name>v`, and its age in
    microseconds, `<name>a`.
    """

    value: str


@dataclass(frozen=True)
class Oldest:
    """The smallest value of the oldest instant of the window that has one."""

    value: str
    window: int


@dataclass(frozen=True)
class Extreme:
    """The `min` or `max` of a column over the window."""

    function: str
    column: str
    window: int


class Lookups:
    """The lookups that features need, each under a name, and `values`, SQL of the features over these names.

    Names are columns of one row per label. Columns of the events have short names in all SQL, see `columns`.
    """

    def __init__(self, requested: Sequence[Feature]) -> None:
        self.columns: dict[str, str] = {}
        """Column of the events -> its name in SQL."""
        self.members: dict[str, tuple[str, str]] = {}
        """Column -> names of the instants of the previous and the next event with the same value."""
        self.running: dict[Running, str] = {}
        self.at: dict[int, dict[str, str]] = {}
        """Microseconds before the label -> running sum -> name of that sum over the events before then."""
        self.newest: dict[Newest, str] = {}
        self.oldest: dict[Oldest, str] = {}
        self.extremes: dict[Extreme, str] = {}
        self.events = self._before(self._running(Running(condition="true")), 0)
        """How many events are before the label. Without any, it has no features."""
        self.values = [self._value(feature) for feature in requested]

    def types(self) -> Iterator[tuple[str, str]]:
        """Name and DuckDB type of each sum at a label."""
        for names in self.at.values():
            for running, name in self.running.items():
                if name in names:
                    yield names[name], running.type

    # --- what is looked up

    def _column(self, name: str) -> str:
        return self.columns.setdefault(name, f"m{len(self.columns)}")

    def _running(self, running: Running) -> str:
        return self.running.setdefault(running, f"s{len(self.running)}")

    def _before(self, running: str, microseconds: int) -> str:
        return self.at.setdefault(microseconds, {}).setdefault(running, f"{running}_{microseconds}")

    def _between(self, running: Running, window: int | None) -> str:
        """The running sum over the window."""
        name = self._running(running)
        end = self._before(name, 0)
        return end if window is None else f"({end} - {self._before(name, window)})"

    # --- features

    def _value(self, feature: Feature) -> str:
        part, window = feature.part, feature.microseconds
        columns = [self._column(measure.column.name) if measure.column else "" for measure in feature.measures]
        types = [measure.column.type if measure.column else None for measure in feature.measures]
        if isinstance(part, Ratio):
            top, bottom = (
                self._amount(side, column, kind, window)
                for side, column, kind in zip((part.part, part.whole), columns, types, strict=True)
            )
            return _ratio(top, bottom, part.empty)
        [column], [kind] = columns, types
        if isinstance(part, Mean):
            count = self._between(Running(condition=f"{column} IS NOT NULL"), window)
            return _ratio(self._amount(part, column, kind, window), count, None)
        if isinstance(part, (Sum, Count, Distinct)):
            return self._amount(part, column, kind, window)
        if isinstance(part, Latest):
            return self._instant(part, self._latest(Newest(_by_time(part, column)), window))
        if isinstance(part, First):
            oldest = Oldest(_by_time(part, column), window or 0)
            return self._instant(part, f"{self.oldest.setdefault(oldest, f'f{len(self.oldest)}')}")
        if isinstance(part, (Min, Max)):
            extreme = Extreme("min" if isinstance(part, Min) else "max", column, window or 0)
            return self.extremes.setdefault(extreme, f"x{len(self.extremes)}")
        raise ValueError(f"{type(part).__name__} has no value at instants")

    def _amount(self, part: Aggregation, column: str, kind: object, window: int | None) -> str:
        if isinstance(part, Distinct):
            return self._distinct(column, window)
        if isinstance(part, Count):
            return self._between(Running(condition=column or "true"), window)
        decimal = f"DECIMAL(38, {kind.scale})" if isinstance(kind, DecimalType) else "HUGEINT"
        return self._between(Running(amount=column, type=decimal), window)

    def _distinct(self, column: str, window: int | None) -> str:
        """How many members came before the label, less those whose last event is too old by then."""
        previous, following = self.members.setdefault(column, (f"{column}_before", f"{column}_after"))
        if window is None:
            return self._between(Running(condition=f"{column} IS NOT NULL AND {previous} IS NULL"), None)
        comes = f"{column} IS NOT NULL AND ({previous} IS NULL OR {TIME} - {previous} > {window})"
        leaves = f"{column} IS NOT NULL AND ({following} IS NULL OR {following} - {TIME} > {window})"
        came = self._before(self._running(Running(condition=comes)), 0)
        return f"({came} - {self._before(self._running(Running(condition=leaves)), window)})"

    def _latest(self, newest: Newest, window: int | None) -> str:
        name = self.newest.setdefault(newest, f"l{len(self.newest)}")
        return f"{name}v" if window is None else f"CASE WHEN {name}a <= {window} THEN {name}v END"

    @staticmethod
    def _instant(part: Aggregation, value: str) -> str:
        return value if part.of else f"make_timestamptz({value})"


def lookups(view: FeatureView, requested: Sequence[str]) -> Lookups:
    """The lookups of these features of a view."""
    return Lookups(_features(view, requested))


def values(found: Lookups, view: FeatureView, requested: Sequence[str], *, as_served: bool = True) -> str:
    """DuckDB SQL of the features, each under its name, in Feast's types, or unless `as_served`, in the contract's."""
    mappings = {field.name: type_mapping.of(field.dtype, field.name) for field in view.features}
    columns = []
    for feature, value in zip(_features(view, requested), found.values, strict=True):
        cast = f"CAST({value} AS {feature.column.type.duckdb})"
        name = feature.column.name
        columns.append(f"{mappings[name].offline.format(cast) if as_served else cast} AS {identifier(name)}")
    return ", ".join(columns)


def _features(view: FeatureView, requested: Sequence[str]) -> list[Feature]:
    known = {feature.column.name: feature for feature in features(of_view(view))}
    return [known[name] for name in requested]


def _by_time(part: Aggregation, column: str) -> str:
    """The value of an event for `Latest` and `First`; NULL for an event without one."""
    if part.of:
        return column
    return f"CASE WHEN {column} THEN {TIME} END" if column else TIME


def _ratio(top: str, bottom: str, empty: float | None) -> str:
    otherwise = "NULL" if empty is None else f"CAST({empty!r} AS DOUBLE)"
    return f"CASE WHEN {bottom} = 0 THEN {otherwise} ELSE CAST({top} AS DOUBLE) / CAST({bottom} AS DOUBLE) END"

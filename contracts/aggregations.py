"""Declare features: aggregations over events, and the tables that are joined to the events.

`feature_table` makes the contract of a gold table from them. Columns, checks, Feast fields, windows, the midnights that
a change affects and the brute-force check are all derived from this one declaration.

`of` and `where` are SQL expressions over one event, in the SQL that Spark and DuckDB share. NULLs are ignored: they are
not summed, counted, compared or remembered. An event without a key or a time is in no window.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import timedelta
from enum import StrEnum
from itertools import pairwise
from math import floor
from typing import ClassVar

from contracts.columns import AT_MIDNIGHT, EVENT_TIMESTAMP
from contracts.model import (
    BOOLEAN,
    DATE,
    DOUBLE,
    LONG,
    NAME,
    STRING,
    TIMESTAMP,
    Bound,
    Column,
    ContractError,
    DecimalType,
    Layer,
    Load,
    Pii,
    Reference,
    Rule,
    Severity,
    Table,
    Type,
    decimal,
)

DAY = timedelta(days=1)
WEIGHT_OF_NEWEST = 2**20
"""Weight of an event on the day of the newest event, for `Decayed`: integers have the same sum on every engine."""
SUM_DIGITS, MOST_DIGITS = 6, 38
"""Digits that a sum of decimals has more than its terms, and the most that a decimal can have."""
INSTANT_DIGITS = 18
"""Digits of a decimal that fit 64 bits."""
TERM = re.compile(r"\s*([+-]?)\s*([a-z_][a-z0-9_]*)\s*")
KEY_TYPES = (LONG, STRING, DATE)


# --- windows


@dataclass(frozen=True, order=True)
class Window:
    """A trailing window: at instant t it covers [t - length, t)."""

    length: timedelta
    name: str
    """The suffix of the feature's name, such as `30d`."""
    label: str

    @property
    def days(self) -> int:
        """Whole days."""
        return self.length // DAY


@dataclass(frozen=True)
class Recent:
    """The `days` days up to and including the day of the key's newest event.

    Its content only changes with an event, so even a long one adds no rows.
    """

    days: int


def days(*counts: int) -> tuple[Window, ...]:
    """Trailing windows in days: `days(7, 30)` gives features `..._7d` and `..._30d`."""
    return _windows(counts, "d", "day", DAY)


def hours(*counts: int) -> tuple[Window, ...]:
    """Trailing windows in hours."""
    return _windows(counts, "h", "hour", timedelta(hours=1))


def minutes(*counts: int) -> tuple[Window, ...]:
    """Trailing windows in minutes."""
    return _windows(counts, "m", "minute", timedelta(minutes=1))


def before_latest(count: int) -> tuple[Recent, ...]:
    """The `count` days up to and including the day of the key's newest event."""
    if count < 1:
        raise ContractError(f"a window of {count} days holds nothing. Give 1 or more")
    return (Recent(count),)


def _windows(counts: tuple[int, ...], suffix: str, unit: str, length: timedelta) -> tuple[Window, ...]:
    empty = [count for count in counts if count < 1]
    if empty or not counts:
        raise ContractError(f"windows of {', '.join(map(str, empty)) or 'no'} {unit}s hold nothing. Give 1 or more")
    return tuple(Window(count * length, f"{count}{suffix}", f"{count} {unit}{'s' * (count > 1)}") for count in counts)


# --- aggregations


@dataclass(frozen=True)
class Aggregation:
    """An aggregate of the events in each of `windows`: the features `<name>_<window>`.

    `of` is a column of the events, or an expression. The type of a sum of columns is derived; others need `type`, to
    which each value is cast. `where` keeps the events for which it is true. `doc` is the description up to the window
    ("Distinct baskets"), `meaning` a full one with `{window}` for the window's length. Unit and bounds default to those
    of the column.
    """

    name: str = ""
    of: str = ""
    _: KW_ONLY
    windows: tuple[Window | Recent, ...] = ()
    where: str = ""
    type: Type | None = None
    doc: str = ""
    meaning: str = ""
    unit: str | None = None
    minimum: Bound | None = None
    maximum: Bound | None = None

    any_age: ClassVar[bool] = False
    """Whether it can go without windows: over all events before t."""
    recent: ClassVar[bool] = False
    """Whether it can go over the days before the newest event."""
    filled: ClassVar[bool] = False
    """Whether it has a value for an empty window."""
    phrase: ClassVar[str] = ""

    def feature(self, window: Window | Recent | None) -> str:
        """The name of the feature over a window."""
        return f"{self.name}_{window.name}" if isinstance(window, Window) else self.name


class Sum(Aggregation):
    """The exact sum; 0 without events."""

    filled = True
    phrase = "Sum of {of}"


class Count(Aggregation):
    """The number of events; with `of`, of events with a value."""

    filled = True
    recent = True
    phrase = "Events"


class Distinct(Aggregation):
    """The number of distinct values."""

    filled = True
    phrase = "Distinct {of}"


class Min(Aggregation):
    """The smallest value; NULL without values."""

    phrase = "Smallest {of}"


class Max(Aggregation):
    """The largest value; NULL without values."""

    phrase = "Largest {of}"


class Mean(Aggregation):
    """Exact sum / count as a double; NULL without values."""

    phrase = "Mean of {of}"


class Latest(Aggregation):
    """The newest value, by default the event's time; of values at the same instant, the largest.

    Without windows: of any age.
    """

    any_age = True
    phrase = "Newest {of}"


class First(Aggregation):
    """The oldest value of the window, by default the event's time; of values at the same instant, the smallest."""

    recent = True
    phrase = "Oldest {of}"


@dataclass(frozen=True)
class Decayed(Aggregation):
    """The sum of round(2^20 * 2^(-k / half_life)), half up, over events, where k is the number of days from the event's
    day to that of the key's newest event.
    """

    _: KW_ONLY
    half_life: int = 0

    filled = True
    recent = True
    phrase = "Events, each counted half for every {half_life} days before the newest"

    def weights(self, count: int) -> tuple[int, ...]:
        """The weights of events k days before the newest, for k from 0 to count - 1."""
        return tuple(floor(WEIGHT_OF_NEWEST * 2 ** (-k / self.half_life) + 0.5) for k in range(count))


@dataclass(frozen=True)
class Ratio(Aggregation):
    """`part` / `whole` as a double, both exact, over the same window; `empty` where whole is 0.

    Both are a `Sum`, `Count` or `Distinct` without name and windows.
    """

    _: KW_ONLY
    part: Aggregation = field(default_factory=Count)
    whole: Aggregation = field(default_factory=Count)
    empty: float | None = 0.0

    phrase = "{part} / {whole}"


# --- joined tables


class At(StrEnum):
    """For which instants a feature table has values."""

    MIDNIGHTS = "midnights"
    """Its rows hold the values at each midnight at which one changes. Between midnights they stay."""
    INSTANTS = "instants"
    """Its rows hold the events. Values are computed when they are read, for any instant, from the events before it."""


class AsOf(StrEnum):
    """Which row of a dimension an event is joined to."""

    NEWEST = "newest"
    """The newest row of its key: a change rewrites the past of the keys that it affects."""
    EVENT = "event"
    """The newest row of its key that was valid at the event: `valid_from` <= the event's time."""


@dataclass(frozen=True)
class Dimension:
    """A table that is joined to the events on equal `on`, for its columns `take`; NULL where it has no row.

    A changed row affects the events of its key.

    `on` names columns that events and table share, or maps columns of the events to columns of the table.
    """

    table: Table
    on: tuple[str, ...] | Mapping[str, str]
    take: tuple[str, ...]
    as_of: AsOf = AsOf.NEWEST
    valid_from: str | None = None

    @property
    def pairs(self) -> dict[str, str]:
        """Column of the events -> column of the table."""
        return dict(self.on) if isinstance(self.on, Mapping) else {name: name for name in self.on}

    @property
    def identity(self) -> tuple[str, ...]:
        """The columns of the table by which an event finds its row: its keys, and `valid_from`."""
        return (*self.pairs.values(), *((self.valid_from,) if self.valid_from else ()))

    @property
    def is_unique(self) -> bool:
        """Whether the table has one row of each identity. Otherwise the newest by `rank` counts."""
        return {*self.table.key} <= {*self.identity}

    @property
    def rank(self) -> tuple[str, ...]:
        """The columns that order rows from oldest to newest: the table's time, then its key."""
        time = (self.table.time_column,) if self.table.time_column else ()
        return (*time, *self.table.key)


@dataclass(frozen=True)
class MappedInTime:
    """A table that the transform joins to the events. Its rows only affect events with the same values in the columns
    `by`, such as a week.

    `reads` names the columns that the transform uses, for column lineage; by default all of the table's.
    """

    table: Table
    by: tuple[str, ...]
    reads: tuple[str, ...] = ()

    @property
    def pairs(self) -> dict[str, str]:
        """Column of the events -> column of the table: the same names."""
        return {name: name for name in self.by}


Joined = Dimension | MappedInTime


@dataclass(frozen=True)
class Measure:
    """What one event gives to `part`: the column of a table of instants; None where each event counts as one."""

    part: Aggregation
    column: Column | None


@dataclass(frozen=True)
class Aggregates:
    """The declaration of a feature table: one row per key and midnight at which a window's content changes, or with
    At.INSTANTS one row per event.

    `prepared` are columns that the table's transform, `events(events, *mapped) -> DataFrame`, adds: one row per event.
    """

    events: Table
    key: tuple[Column, ...]
    aggregations: tuple[Aggregation, ...]
    joined: tuple[Joined, ...] = ()
    prepared: tuple[Column, ...] = ()
    at: At = At.MIDNIGHTS

    @property
    def is_of_instants(self) -> bool:
        """Whether the table's rows are events, from which features are computed for any instant."""
        return self.at == At.INSTANTS

    @property
    def time_column(self) -> str:
        """The time column of the events."""
        return self.events.time_column or ""

    @property
    def trailing(self) -> tuple[int, ...]:
        """The lengths of the trailing windows in days, shortest first."""
        return tuple(
            sorted({window.days for part in self.aggregations for window in part.windows if isinstance(window, Window)})
        )

    @property
    def recent(self) -> int:
        """The longest `Recent` window in days; 0 without one."""
        return max(
            (window.days for part in self.aggregations for window in part.windows if isinstance(window, Recent)),
            default=0,
        )

    @property
    def reach(self) -> int | None:
        """How many days after the midnight at which it becomes knowable an event can still affect rows; None for any
        number.
        """
        return None if self.remembers else max(self.trailing, default=0) + self.recent

    @property
    def remembers(self) -> bool:
        """Whether a value may come from an event before all windows: a `Latest` of any age that the newest event may
        lack.
        """
        columns = self.columns()

        def has_value_at_each_event(part: Aggregation) -> bool:
            source = columns.get(part.of or self.time_column)
            return not part.where and source is not None and (source.required or source.name == self.time_column)

        return any(
            isinstance(part, Latest) and not part.windows and not has_value_at_each_event(part)
            for part in self.aggregations
        )

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """The tables that the engine joins."""
        return tuple(join for join in self.joined if isinstance(join, Dimension))

    @property
    def mapped(self) -> tuple[MappedInTime, ...]:
        """The tables that the transform joins: its arguments after the events."""
        return tuple(join for join in self.joined if isinstance(join, MappedInTime))

    @property
    def needs_transform(self) -> bool:
        """Whether a PySpark transform prepares the events."""
        return bool(self.prepared or self.mapped)

    def columns(self) -> dict[str, Column]:
        """The columns that expressions may use: of the events, of dimensions, and prepared ones."""
        taken = [column for join in self.dimensions for column in join.table.columns if column.name in join.take]
        # a dimension may have no row for an event
        optional = [replace(column, required=False) for column in taken]
        return {column.name: column for column in (*self.events.columns, *optional, *self.prepared)}

    def features(self) -> Iterator[tuple[Aggregation, Window | Recent | None, Column]]:
        """Aggregation, window and column of each feature, in the table's order."""
        for part in self.aggregations:
            for window in part.windows or (None,):
                yield part, window, self._column(part, window)

    def measures(self, part: Aggregation) -> tuple[Measure, ...]:
        """What one event gives to `part`: one measure, or two for a ratio's part and whole."""
        if isinstance(part, Ratio):
            sides = {"part": part.part, "whole": part.whole}
            return tuple(self._measure(side, f"{part.name}_{name}") for name, side in sides.items())
        return (self._measure(part, part.name),)

    def measure_columns(self) -> tuple[tuple[Aggregation, Column], ...]:
        """Each column of the measures of a table of instants, after the aggregation it is for."""
        measures = [measure for part in self.aggregations for measure in self.measures(part)]
        return tuple((measure.part, measure.column) for measure in measures if measure.column)

    def _measure(self, part: Aggregation, name: str) -> Measure:
        is_time = isinstance(part, (Latest, First)) and not part.of
        if (isinstance(part, Count) and not part.of and not part.where) or (is_time and not part.where):
            return Measure(part, None)
        counted = isinstance(part, Count) or is_time
        kind = BOOLEAN if counted else self.value_type(part)
        what = "Whether the event counts" if counted else f"{part.of} of the event"
        kept = f", where {part.where}" if part.where else ""
        source = None if counted else self.columns().get(part.of)
        pii = source.pii if source else Pii.NONE
        return Measure(part, Column(name, kind, f"{what}{kept}: for {name}", pii=pii))

    def _column(self, part: Aggregation, window: Window | Recent | None) -> Column:
        source = (
            self.columns().get(part.of or self.time_column) if not isinstance(part, (Count, Decayed, Ratio)) else None
        )
        takes_value = isinstance(part, (Min, Max, Mean, Latest, First))
        keeps_bounds = (
            takes_value and source and self.type_of(part) == source.type and source.severity == Severity.CRITICAL
        )
        low, high = (source.minimum, source.maximum) if source and keeps_bounds else (None, None)
        if isinstance(part, (Sum, Count, Distinct, Decayed)) and not self._may_be_negative(part):
            low = 0
        always = isinstance(part, (Latest, First)) and (window is None or isinstance(window, Recent)) and not part.where
        return Column(
            part.feature(window),
            self.type_of(part),
            part.meaning.format(window=_length(window)) or f"{part.doc or self._phrase(part)} {_span(window)}",
            required=part.filled
            or (isinstance(part, Ratio) and part.empty is not None)
            or bool(always and source and source.required),
            minimum=low if part.minimum is None else part.minimum,
            maximum=high if part.maximum is None else part.maximum,
            unit=part.unit or (source.unit if source and not isinstance(part, Distinct) else None),
        )

    def _phrase(self, part: Aggregation) -> str:
        words = {"of": part.of or self.time_column}
        if isinstance(part, Decayed):
            words |= {"half_life": str(part.half_life)}
        if isinstance(part, Ratio):
            words |= {"part": self._phrase(part.part), "whole": self._phrase(part.whole)}
        return part.phrase.format(**words) + (f" where {part.where}" if part.where else "")

    def type_of(self, part: Aggregation) -> Type:
        """The type of the feature; ContractError where it must be declared."""
        if isinstance(part, (Count, Distinct, Decayed)):
            return LONG
        if isinstance(part, (Ratio, Mean)):
            return DOUBLE
        value = self.value_type(part)
        if isinstance(part, Sum) and isinstance(value, DecimalType):
            return decimal(min(value.precision + SUM_DIGITS, MOST_DIGITS), value.scale)
        return value

    def value_type(self, part: Aggregation) -> Type:
        """The type of `of` for one event; ContractError where it must be declared."""
        if part.type:
            return part.type
        columns = self.columns()
        terms = _terms(part.of or self.time_column)
        types = {columns[name].type for _, name in terms if name in columns}
        if not terms or any(name not in columns for _, name in terms) or len(types) != 1:
            raise ContractError(
                f"{part.name or 'a part of a ratio'}: declare the type of {part.of!r} in `type`, such as type=MONEY. It"
                " is derived only where columns of one type are added up"
            )
        [value_type] = types
        if isinstance(value_type, DecimalType) and len(terms) > 1:
            carry = len(str(len(terms) - 1))
            return decimal(min(value_type.precision + carry, MOST_DIGITS), value_type.scale)
        return value_type

    def _may_be_negative(self, part: Aggregation) -> bool:
        if not isinstance(part, Sum):
            return False
        columns = self.columns()
        terms = _terms(part.of)
        lows = [
            columns[name].minimum if columns[name].severity == Severity.CRITICAL else None
            for _, name in terms
            if name in columns
        ]
        return (
            not terms
            or any(sign == "-" for sign, _ in terms)
            or len(lows) < len(terms)
            or any(low is None or low < 0 for low in lows)
        )

    def rules(self) -> tuple[Rule, ...]:
        """The rules that follow from the declaration: a shorter window holds no more than a longer one, and the newest
        event is in the past.
        """
        nested = [
            f"{part.feature(shorter)} <= {part.feature(longer)}"
            for part in self.aggregations
            if isinstance(part, (Sum, Count, Distinct)) and not self._may_be_negative(part)
            for shorter, longer in _adjacent_windows(part)
        ]
        past = [
            Rule(
                f"{column.name}_is_past",
                f"{column.name} < event_timestamp",
                f"{column.name} is not before event_timestamp",
            )
            for part, _, column in self.features()
            if isinstance(part, (Latest, First))
            and (part.of or self.time_column) == self.time_column
            and column.type == TIMESTAMP
        ]
        return (
            *(
                [Rule("windows_nest", " AND ".join(nested), "a shorter window holds more than a longer one")]
                if nested
                else []
            ),
            *past,
        )


def _adjacent_windows(part: Aggregation) -> list[tuple[Window, Window]]:
    ordered = sorted(window for window in part.windows if isinstance(window, Window))
    return [*pairwise(ordered)]


def _terms(expression: str) -> list[tuple[str, str]]:
    """The signs and columns of a sum, such as `a + b - c`; empty for any other expression."""
    terms: list[tuple[str, str]] = []
    position = 0
    while position < len(expression):
        match = TERM.match(expression, position)
        if not match or (terms and not match[1]):
            return []
        terms.append((match[1] or "+", match[2]))
        position = match.end()
    return terms


def _length(window: Window | Recent | None) -> str:
    return f"{window.days} days" if isinstance(window, Recent) else window.label if window else ""


def _span(window: Window | Recent | None) -> str:
    if window is None:
        return "before event_timestamp, of any age"
    if isinstance(window, Recent):
        return f"in the {window.days} days that end with the day of the newest event"
    return f"in the last {window.label}"


# --- the contract


def feature_table(
    *,
    name: str,
    doc: str,
    owner: str,
    grain: str = "",
    key: tuple[Column, ...],
    events: Table,
    aggregations: tuple[Aggregation, ...],
    joined: tuple[Joined, ...] = (),
    prepared: tuple[Column, ...] = (),
    freshness: timedelta = DAY,
    references: tuple[Reference, ...] = (),
    rules: tuple[Rule, ...] = (),
    max_quarantine_share: float = 0.05,
    at: At = At.MIDNIGHTS,
) -> Table:
    """The contract of `gold.<name>`: `key`, `event_timestamp`, then one column per aggregation and window, or with
    At.INSTANTS, what each event gives to each aggregation.

    ContractError for a declaration that cannot be computed.
    """
    declared = Aggregates(events, key, aggregations, joined, prepared, at)
    for problem in problems(declared):
        raise ContractError(f"gold.{name}: {problem}")
    keys = tuple(column.name for column in key)
    own_rules: tuple[Rule, ...] = ()
    if declared.is_of_instants:
        row, columns = "event", _columns_of_instants(declared)
        own_key = tuple(dict.fromkeys((*keys, *events.key)))
    else:
        row = "midnight at which a window changes"
        columns = (*key, EVENT_TIMESTAMP, *(column for _, _, column in declared.features()))
        own_key, own_rules = (*keys, EVENT_TIMESTAMP.name), (AT_MIDNIGHT, *declared.rules())
    return Table(
        layer=Layer.GOLD,
        name=name,
        doc=doc,
        grain=grain or f"one row per {' and '.join(keys)} and {row}",
        owner=owner,
        freshness=freshness,
        columns=columns,
        key=own_key,
        time_column=EVENT_TIMESTAMP.name,
        references=references,
        rules=(*own_rules, *rules),
        inputs=tuple(dict.fromkeys((events.qualified, *(join.table.qualified for join in joined)))),
        max_quarantine_share=max_quarantine_share,
        aggregates=declared,
    )


def entity_columns(table: Table) -> tuple[Column, ...]:
    """The columns of a gold table that name whom its features are about."""
    if table.aggregates:
        return table.aggregates.key
    return tuple(table.column(name) for name in table.key if name != EVENT_TIMESTAMP.name)


def served_columns(table: Table) -> tuple[Column, ...]:
    """The columns of a gold table's view, entities included: the table's own, or for a table of instants what is
    computed from its events.
    """
    if table.aggregates and table.aggregates.is_of_instants:
        return (*table.aggregates.key, *(column for _, _, column in table.aggregates.features()))
    return tuple(column for column in table.columns if column.name != EVENT_TIMESTAMP.name)


def _columns_of_instants(declared: Aggregates) -> tuple[Column, ...]:
    """The keys, what identifies the event, its instant, and its measures."""
    keys = {column.name: column for column in declared.key}
    identity = [declared.events.column(name) for name in declared.events.key if name not in keys]
    measures = [column for _, column in declared.measure_columns()]
    plain = [replace(column, source=None) for column in identity]
    return (*keys.values(), *plain, replace(EVENT_TIMESTAMP, doc="Instant of the event"), *measures)


def problems(declared: Aggregates) -> Iterator[str]:
    """What is wrong with a declaration, each with its remedy."""
    yield from _problems_of_events(declared)
    yield from _problems_of_joins(declared)
    names = [part.feature(window) for part in declared.aggregations for window in part.windows or (None,)]
    for duplicate in sorted({name for name in names if names.count(name) > 1}):
        yield f"two features are called {duplicate}. Rename one of the aggregations"
    for part in declared.aggregations:
        yield from _problems_of_aggregation(declared, part)
    if declared.is_of_instants:
        yield from _problems_of_measures(declared)


def _problems_of_measures(declared: Aggregates) -> Iterator[str]:
    """A table of instants has a column of each aggregation's name, beside those of its keys and events."""
    taken = {*(column.name for column in declared.key), *declared.events.key, EVENT_TIMESTAMP.name}
    names = [part.name for part in declared.aggregations]
    for name in dict.fromkeys(names):
        if names.count(name) > 1:
            yield f"two aggregations are called {name}, and a table of instants has a column of each. Rename one"
        elif name in taken:
            yield f"{name} is a key of the table or of its events, and an aggregation's column. Rename the aggregation"


def _problems_of_events(declared: Aggregates) -> Iterator[str]:
    events, columns = declared.events, declared.columns()
    if not events.time_column or events.column(events.time_column).type not in (TIMESTAMP, DATE):
        yield (
            f"{events.qualified} has no time_column that says when an event happened. Declare one there, a timestamp or"
            " a date"
        )
    if events.load == Load.SNAPSHOT:
        yield (
            f"{events.qualified} is a SNAPSHOT, which is replaced whole, and events add up. Let it load EVENTS, or join"
            " it as a Dimension"
        )
    if not declared.key:
        yield "a feature table needs a key: the columns of the events whose values it speaks about"
    for column in declared.key:
        if column.name not in columns:
            yield f"the key {column.name} is not a column of {events.qualified}; it has {', '.join(columns)}"
        elif columns[column.name].type != column.type:
            yield (
                f"the key {column.name} is {column.type.spark}, and {columns[column.name].type.spark} in"
                f" {events.qualified}. Declare one type"
            )
        if column.type not in KEY_TYPES:
            yield (
                f"the key {column.name} is {column.type.spark}, and a key is bigint, string or date. Make it one of"
                " them in silver"
            )


def _problems_of_joins(declared: Aggregates) -> Iterator[str]:
    events = declared.events
    origins = dict.fromkeys(events.column_names, events.qualified)
    for join in declared.joined:
        table, pairs = join.table, join.pairs
        if isinstance(join, Dimension) and not table.key:
            yield f"{table.qualified} has no key, so an event could meet several of its rows. Give it one"
        if not pairs:
            yield f"{table.qualified} is joined by nothing. Name the columns that its rows and the events share"
        needed = tuple(pairs.values())
        if isinstance(join, Dimension):
            if (join.as_of == AsOf.EVENT) != (join.valid_from is not None):
                yield (
                    f"{table.qualified} is joined as of the {join.as_of}: name the column since when a row is valid in"
                    " `valid_from` for AsOf.EVENT, and only then"
                )
            needed = (*needed, *join.take, *([join.valid_from] if join.valid_from else []))
            for name in sorted(origins.keys() & set(join.take)):
                yield f"{table.qualified} adds {name}, which {origins[name]} also has. Rename it in silver"
            origins |= dict.fromkeys(join.take, table.qualified)
        else:
            needed = (*needed, *join.reads)
        for name in pairs:
            if name not in events.column_names:
                yield f"{table.qualified} is joined by {name}, which is not a column of {events.qualified}"
        for name in needed:
            if name not in table.column_names:
                yield f"{table.qualified} has no column {name}; it has {', '.join(table.column_names)}"
        yield from _problems_of_types(events, join, pairs)
    for name in sorted(origins.keys() & {column.name for column in declared.prepared}):
        yield f"the transform adds {name}, which {origins[name]} also has. Rename the prepared column"


def _problems_of_types(events: Table, join: Joined, pairs: Mapping[str, str]) -> Iterator[str]:
    table = join.table
    for event_column, table_column in pairs.items():
        event_type, table_type = (
            side.column(name).type if name in side.column_names else None
            for side, name in ((events, event_column), (table, table_column))
        )
        if event_type and table_type and event_type != table_type:
            yield (
                f"{table.qualified} is joined by {table_column}, which is {table_type.spark}, and {event_column} of"
                f" {events.qualified} is {event_type.spark}. Make them one type in silver"
            )
    valid_from = join.valid_from if isinstance(join, Dimension) else None
    if valid_from in table.column_names and table.column(valid_from or "").type not in (TIMESTAMP, DATE):
        yield (
            f"{table.qualified}: valid_from={valid_from} is {table.column(valid_from or '').type.spark}, and says since"
            " when a row is valid. Name a timestamp or a date"
        )


def _problems_of_aggregation(declared: Aggregates, part: Aggregation) -> Iterator[str]:
    class_name = type(part).__name__
    if not NAME.fullmatch(part.name):
        yield f"{class_name}({part.name!r}): a name is lower case letters, digits and underscores, such as spend"
    if not part.windows and not part.any_age:
        yield f"{part.name}: declare its windows, such as windows=days(7, 30)"
    for window in part.windows:
        if isinstance(window, Recent) and not part.recent:
            yield f"{part.name}: before_latest is for Count, First and Decayed"
        if isinstance(window, Window) and window.length % DAY and not declared.is_of_instants:
            yield (
                f"{part.name}: a window of {window.label} needs values between midnights. Give whole days, or the table"
                " at=At.INSTANTS"
            )
        if isinstance(window, Recent) and declared.is_of_instants:
            yield f"{part.name}: before_latest counts whole days. Leave out at=At.INSTANTS, or give another window"
        if isinstance(window, Window) and isinstance(part, Decayed):
            yield f"{part.name}: Decayed counts back from the newest event. Give windows=before_latest(365)"
    if len([window for window in part.windows if isinstance(window, Recent)]) > 1:
        yield (
            f"{part.name}: one before_latest gives one feature of this name. Declare another aggregation for the other"
        )
    if isinstance(part, Decayed) and part.half_life < 1:
        yield f"{part.name}: give half_life, the days after which an event counts half"
    if isinstance(part, Ratio) and (part.of or part.where or part.type):
        yield f"{part.name}: a ratio has no `of`, `where` or `type` of its own. Give them to its part and its whole"
    for value in (part.part, part.whole) if isinstance(part, Ratio) else (part,):
        yield from _problems_of_value(declared, part, value)


def _problems_of_value(declared: Aggregates, part: Aggregation, value: Aggregation) -> Iterator[str]:
    if isinstance(part, Ratio):
        if not isinstance(value, (Sum, Count, Distinct)):
            yield f"{part.name}: a ratio is of a Sum, Count or Distinct, not of a {type(value).__name__}"
        if value.name or value.windows:
            yield f"{part.name}: the parts of a ratio have its windows, and no name: Sum(of=...), Count(where=...)"
    if isinstance(value, (Count, Decayed, Ratio)):
        return
    if not value.of and not isinstance(value, (Latest, First)):
        yield f"{part.name}: name a column of the events in `of`"
        return
    try:
        value_type = declared.value_type(value)
    except ContractError as error:
        yield str(error)
        return
    if declared.is_of_instants and isinstance(value_type, DecimalType) and value_type.precision > INSTANT_DIGITS:
        yield (
            f"{part.name}: {value_type.spark} has more than {INSTANT_DIGITS} digits, which the online store keeps of an"
            f" event. Give `type`, such as type=decimal({INSTANT_DIGITS}, {value_type.scale})"
        )
    if isinstance(value, (Sum, Mean)) and value_type != LONG and not isinstance(value_type, DecimalType):
        yield (
            f"{part.name}: a sum of {value_type.spark} depends on the order of its terms, so training and serving would"
            " differ. Make the column a decimal or a bigint in silver, or give `type`"
        )

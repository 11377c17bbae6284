"""Features declared once: aggregations over a stream of events, and what a feature table reads besides the events.

`feature_table` makes the contract of a gold table from them. Columns, checks, Feast fields, windows, the midnights that
a change concerns and the brute-force check are all derived from one declaration, so the name of a feature is written
once.

SQL in `of` and `where` is an expression over one event, in the SQL that Spark and DuckDB share. NULL is no value: it is
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
    Reference,
    Rule,
    Severity,
    Table,
    Type,
    decimal,
)

DAY = timedelta(days=1)
WEIGHT_OF_NEWEST = 2**20
"""What `Decayed` counts an event of the newest event's day as: weights are integers, so that every engine finds the
same sum.
"""
SUM_DIGITS, MOST_DIGITS = 6, 38
"""Digits that a sum of decimals has more than one of them, and the most that a decimal has."""
TERM = re.compile(r"\s*([+-]?)\s*([a-z_][a-z0-9_]*)\s*")
KEY_TYPES = (LONG, STRING, DATE)


# --- windows


@dataclass(frozen=True, order=True)
class Window:
    """A trailing window: at instant t it covers [t - length, t)."""

    length: timedelta
    name: str
    """The end of the feature's name, such as `30d`."""
    words: str

    @property
    def days(self) -> int:
        """Whole days."""
        return self.length // DAY


@dataclass(frozen=True)
class Recent:
    """The `days` days that end with the day of the key's newest event. They change with an event only, so a long one
    adds no rows.
    """

    days: int


def days(*counts: int) -> tuple[Window, ...]:
    """Trailing windows of so many days: `days(7, 30)` gives features `..._7d` and `..._30d`."""
    return _windows(counts, "d", "day", DAY)


def hours(*counts: int) -> tuple[Window, ...]:
    """Trailing windows of so many hours."""
    return _windows(counts, "h", "hour", timedelta(hours=1))


def minutes(*counts: int) -> tuple[Window, ...]:
    """Trailing windows of so many minutes."""
    return _windows(counts, "m", "minute", timedelta(minutes=1))


def before_latest(count: int) -> tuple[Recent, ...]:
    """The `count` days that end with the day of the key's newest event."""
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
    """What is made of the events of a window, for each of `windows`: the features `<name>_<window>`.

    `of` is a column of the events, or an expression over several; its type is derived where it adds columns up, and is
    declared by `type` elsewhere: then each value is cast to it. `where` keeps the events for which it is true. `doc` is
    the meaning up to the window ("Distinct baskets"); where that makes no sentence, `meaning` is all of it, with
    `{window}` for the window's length. Unit and bounds are the column's own unless they are given.
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
    """Whether it makes sense without windows: of all events before t."""
    recent: ClassVar[bool] = False
    """Whether it can be taken of the days before the newest event."""
    filled: ClassVar[bool] = False
    """Whether it has a value where the window holds no event."""
    phrase: ClassVar[str] = ""

    def feature(self, window: Window | Recent | None) -> str:
        """The name of its feature over a window."""
        return f"{self.name}_{window.name}" if isinstance(window, Window) else self.name


class Sum(Aggregation):
    """The exact sum; 0 where there is nothing."""

    filled = True
    phrase = "Sum of {of}"


class Count(Aggregation):
    """How many events; with `of`, how many of them have a value there."""

    filled = True
    recent = True
    phrase = "Events"


class Distinct(Aggregation):
    """How many different values."""

    filled = True
    phrase = "Distinct {of}"


class Min(Aggregation):
    """The smallest value; NULL where there is none."""

    phrase = "Smallest {of}"


class Max(Aggregation):
    """The largest value; NULL where there is none."""

    phrase = "Largest {of}"


class Mean(Aggregation):
    """Exact sum / count as a double; NULL where there is no value."""

    phrase = "Mean of {of}"


class Latest(Aggregation):
    """The newest value, by default the event's own time; of values at the same instant the largest. Without windows: of
    any age.
    """

    any_age = True
    phrase = "Newest {of}"


class First(Aggregation):
    """The oldest value of the window, by default the event's own time; of values at the same instant the smallest."""

    recent = True
    phrase = "Oldest {of}"


@dataclass(frozen=True)
class Decayed(Aggregation):
    """Events, each counted as round(2^20 * 2^(-k / half_life)), half up, k being the whole days from its day to that of
    the key's newest event.
    """

    _: KW_ONLY
    half_life: int = 0

    filled = True
    recent = True
    phrase = "Events, each counted half for every {half_life} days before the newest"

    def weights(self, count: int) -> tuple[int, ...]:
        """Of an event k days before the newest, for k = 0 up to count - 1."""
        return tuple(floor(WEIGHT_OF_NEWEST * 2 ** (-k / self.half_life) + 0.5) for k in range(count))


@dataclass(frozen=True)
class Ratio(Aggregation):
    """`part` / `whole` as a double, both exact, over the same window; `empty` where whole is 0. They are a `Sum`,
    `Count` or `Distinct` without name and windows.
    """

    _: KW_ONLY
    part: Aggregation = field(default_factory=Count)
    whole: Aggregation = field(default_factory=Count)
    empty: float | None = 0.0

    phrase = "{part} / {whole}"


# --- what else a feature table reads


class AsOf(StrEnum):
    """Which row of a dimension an event is joined to."""

    NEWEST = "newest"
    """The newest row of its key: a change rewrites the past of the keys it concerns."""
    EVENT = "event"
    """The newest row of its key that was valid at the event: `valid_from` is not after its time."""


@dataclass(frozen=True)
class Dimension:
    """A table of which each event gets the columns `take`, by equal `on`; NULL where it has no row. A change of a row
    concerns the events of its key.

    `on` names columns that events and table share, or maps a column of the events to one of the table.
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
    def rank(self) -> tuple[str, ...]:
        """The columns that say which of several rows is the newest, the first one first: the table's time, then its
        key.
        """
        time = (self.table.time_column,) if self.table.time_column else ()
        return (*time, *self.table.key)


@dataclass(frozen=True)
class MappedInTime:
    """A table that the transform joins to the events. Its rows concern the events with the same values of the columns
    `by`, such as a week, and no other.
    """

    table: Table
    by: tuple[str, ...]

    @property
    def pairs(self) -> dict[str, str]:
        """Column of the events -> column of the table: the same names."""
        return {name: name for name in self.by}


Joined = Dimension | MappedInTime


@dataclass(frozen=True)
class Aggregates:
    """The declaration of a feature table: one row per key and midnight at which a window's content changes.

    `prepared` are columns that the table's transform adds to the events: `events(events, *mapped) -> DataFrame`, a row
    per event.
    """

    events: Table
    key: tuple[Column, ...]
    aggregations: tuple[Aggregation, ...]
    joined: tuple[Joined, ...] = ()
    prepared: tuple[Column, ...] = ()

    @property
    def time_column(self) -> str:
        """The events' time."""
        return self.events.time_column or ""

    @property
    def trailing(self) -> tuple[int, ...]:
        """The lengths of the trailing windows in days, shortest first."""
        return tuple(
            sorted({window.days for part in self.aggregations for window in part.windows if isinstance(window, Window)})
        )

    @property
    def recent(self) -> int:
        """Days that are looked back from the newest event; 0 where nothing looks back from it."""
        return max(
            (window.days for part in self.aggregations for window in part.windows if isinstance(window, Recent)),
            default=0,
        )

    @property
    def reach(self) -> int | None:
        """Days: an event may decide rows up to so many days after the midnight at which it becomes knowable; None where
        it may decide any later row.
        """
        return None if self.remembers else max(self.trailing, default=0) + self.recent

    @property
    def remembers(self) -> bool:
        """Whether a value may be older than every window: the newest of any age, where the newest event need not have
        one.
        """
        columns = self.columns()

        def always_there(part: Aggregation) -> bool:
            source = columns.get(part.of or self.time_column)
            return not part.where and source is not None and (source.required or source.name == self.time_column)

        return any(
            isinstance(part, Latest) and not part.windows and not always_there(part) for part in self.aggregations
        )

    @property
    def dimensions(self) -> tuple[Dimension, ...]:
        """The tables that are joined by declaration."""
        return tuple(other for other in self.joined if isinstance(other, Dimension))

    @property
    def mapped(self) -> tuple[MappedInTime, ...]:
        """The tables that the transform gets after the events."""
        return tuple(other for other in self.joined if isinstance(other, MappedInTime))

    @property
    def needs_transform(self) -> bool:
        """Whether a PySpark function prepares the events."""
        return bool(self.prepared or self.mapped)

    def columns(self) -> dict[str, Column]:
        """What an expression may name: columns of the events, of dimensions, and prepared ones."""
        taken = [column for other in self.dimensions for column in other.table.columns if column.name in other.take]
        # A dimension may have no row for an event.
        optional = [replace(column, required=False) for column in taken]
        return {column.name: column for column in (*self.events.columns, *optional, *self.prepared)}

    def features(self) -> Iterator[tuple[Aggregation, Window | Recent | None, Column]]:
        """Each feature's aggregation, window and column, in the table's order."""
        for part in self.aggregations:
            for window in part.windows or (None,):
                yield part, window, self._column(part, window)

    def _column(self, part: Aggregation, window: Window | Recent | None) -> Column:
        source = (
            self.columns().get(part.of or self.time_column) if not isinstance(part, (Count, Decayed, Ratio)) else None
        )
        takes_value = isinstance(part, (Min, Max, Mean, Latest, First))
        kept = takes_value and source and self.type_of(part) == source.type and source.severity == Severity.CRITICAL
        low, high = (source.minimum, source.maximum) if source and kept else (None, None)
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
        """Of the feature; ContractError where it must be declared."""
        if isinstance(part, (Count, Distinct, Decayed)):
            return LONG
        if isinstance(part, (Ratio, Mean)):
            return DOUBLE
        value = self.value_type(part)
        if isinstance(part, Sum) and isinstance(value, DecimalType):
            return decimal(min(value.precision + SUM_DIGITS, MOST_DIGITS), value.scale)
        return value

    def value_type(self, part: Aggregation) -> Type:
        """Of what `of` is of one event."""
        if part.type:
            return part.type
        columns = self.columns()
        names = _terms(part.of or self.time_column)
        types = {columns[name].type for _, name in names if name in columns}
        if not names or any(name not in columns for _, name in names) or len(types) != 1:
            raise ContractError(
                f"{part.name or 'a part of a ratio'}: say by `type` what {part.of!r} is, such as type=LONG. It is"
                " derived only where columns of one type are added up"
            )
        [kind] = types
        more = len(str(len(names) - 1)) if len(names) > 1 else 0
        return (
            decimal(min(kind.precision + more, MOST_DIGITS), kind.scale)
            if more and isinstance(kind, DecimalType)
            else kind
        )

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
        """Promises that follow from the declaration: a shorter window holds no more than a longer one, and what is
        newest lies in the past.
        """
        nested = [
            f"{part.feature(shorter)} <= {part.feature(longer)}"
            for part in self.aggregations
            if isinstance(part, (Sum, Count, Distinct)) and not self._may_be_negative(part)
            for shorter, longer in _neighbours(part)
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


def _neighbours(part: Aggregation) -> list[tuple[Window, Window]]:
    ordered = sorted(window for window in part.windows if isinstance(window, Window))
    return [*pairwise(ordered)]


def _terms(expression: str) -> list[tuple[str, str]]:
    """The columns that an expression adds up, with their signs; none where it does anything else."""
    found: list[tuple[str, str]] = []
    position = 0
    while position < len(expression):
        match = TERM.match(expression, position)
        if not match or (found and not match[1]):
            return []
        found.append((match[1] or "+", match[2]))
        position = match.end()
    return found


def _length(window: Window | Recent | None) -> str:
    return f"{window.days} days" if isinstance(window, Recent) else window.words if window else ""


def _span(window: Window | Recent | None) -> str:
    if window is None:
        return "before event_timestamp, of any age"
    if isinstance(window, Recent):
        return f"in the {window.days} days that end with the day of the newest event"
    return f"in the last {window.words}"


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
) -> Table:
    """The contract of `gold.<name>`: `key`, `event_timestamp`, then a column per aggregation and window."""
    declared = Aggregates(events, key, aggregations, joined, prepared)
    for problem in problems(declared):
        raise ContractError(f"gold.{name}: {problem}")
    keys = tuple(column.name for column in key)
    return Table(
        layer=Layer.GOLD,
        name=name,
        doc=doc,
        grain=grain or f"one row per {' and '.join(keys)} and midnight at which a window changes",
        owner=owner,
        freshness=freshness,
        columns=(*key, EVENT_TIMESTAMP, *(column for _, _, column in declared.features())),
        key=(*keys, EVENT_TIMESTAMP.name),
        time_column=EVENT_TIMESTAMP.name,
        references=references,
        rules=(AT_MIDNIGHT, *declared.rules(), *rules),
        inputs=tuple(dict.fromkeys((events.qualified, *(other.table.qualified for other in joined)))),
        max_quarantine_share=max_quarantine_share,
        aggregates=declared,
    )


def problems(declared: Aggregates) -> Iterator[str]:
    """What is wrong with a declaration, each with its remedy."""
    yield from _problems_of_events(declared)
    yield from _problems_of_joins(declared)
    names = [part.feature(window) for part in declared.aggregations for window in part.windows or (None,)]
    for twice in sorted({name for name in names if names.count(name) > 1}):
        yield f"two features are called {twice}. Rename one of the aggregations"
    for part in declared.aggregations:
        yield from _problems_of(declared, part)


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
            yield f"the key {column.name} is no column of {events.qualified}; it has {', '.join(columns)}"
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
    events, bringers = declared.events, dict.fromkeys(declared.events.column_names, declared.events.qualified)
    for other in declared.joined:
        table, pairs = other.table, other.pairs
        if isinstance(other, Dimension) and not table.key:
            yield f"{table.qualified} has no key, so an event could meet several of its rows. Give it one"
        if not pairs:
            yield f"{table.qualified} is joined by nothing. Name the columns that its rows and the events share"
        there = tuple(pairs.values())
        if isinstance(other, Dimension):
            if (other.as_of == AsOf.EVENT) != (other.valid_from is not None):
                yield (
                    f"{table.qualified} is joined as of the {other.as_of}: name the column since when a row is valid in"
                    " `valid_from` for AsOf.EVENT, and only then"
                )
            there = (*there, *other.take, *([other.valid_from] if other.valid_from else []))
            for name in sorted(bringers.keys() & set(other.take)):
                yield f"{table.qualified} brings {name}, which {bringers[name]} has, too. Rename it in silver"
            bringers |= dict.fromkeys(other.take, table.qualified)
        for name in pairs:
            if name not in events.column_names:
                yield f"{table.qualified} is joined by {name}, which is no column of {events.qualified}"
        for name in there:
            if name not in table.column_names:
                yield f"{table.qualified} has no column {name}; it has {', '.join(table.column_names)}"
        yield from _problems_of_types(events, other, pairs)
    for name in sorted(bringers.keys() & {column.name for column in declared.prepared}):
        yield f"the transform adds {name}, which {bringers[name]} has, too. Call the prepared column otherwise"


def _problems_of_types(events: Table, other: Joined, pairs: Mapping[str, str]) -> Iterator[str]:
    table = other.table
    for here, there in pairs.items():
        ours, theirs = (
            side.column(name).type if name in side.column_names else None
            for side, name in ((events, here), (table, there))
        )
        if ours and theirs and ours != theirs:
            yield (
                f"{table.qualified} is joined by {there}, which is {theirs.spark}, and {here} of {events.qualified} is"
                f" {ours.spark}. Make them one type in silver"
            )
    since = other.valid_from if isinstance(other, Dimension) else None
    if since in table.column_names and table.column(since or "").type not in (TIMESTAMP, DATE):
        yield (
            f"{table.qualified}: valid_from={since} is {table.column(since or '').type.spark}, and says since when a"
            " row is valid. Name a timestamp or a date"
        )


def _problems_of(declared: Aggregates, part: Aggregation) -> Iterator[str]:
    kind = type(part).__name__
    if not NAME.fullmatch(part.name):
        yield f"{kind}({part.name!r}): a name is lower case letters, digits and underscores, such as spend"
    if not part.windows and not part.any_age:
        yield f"{part.name}: say over which windows, such as windows=days(7, 30)"
    for window in part.windows:
        if isinstance(window, Recent) and not part.recent:
            yield f"{part.name}: before_latest is for Count, First and Decayed"
        if isinstance(window, Window) and window.length % DAY:
            yield (
                f"{part.name}: a window of {window.words} is for streams, and a batch has midnights only. Give whole"
                " days"
            )
        if isinstance(window, Window) and isinstance(part, Decayed):
            yield f"{part.name}: Decayed counts back from the newest event. Give windows=before_latest(365)"
    if len([window for window in part.windows if isinstance(window, Recent)]) > 1:
        yield (
            f"{part.name}: one before_latest gives one feature of this name. Declare another aggregation for the other"
        )
    if isinstance(part, Decayed) and part.half_life < 1:
        yield f"{part.name}: say by half_life after how many days an event counts half"
    if isinstance(part, Ratio) and (part.of or part.where or part.type):
        yield f"{part.name}: a ratio has no `of`, `where` or `type` of its own. Give them to its part and its whole"
    for value in (part.part, part.whole) if isinstance(part, Ratio) else (part,):
        yield from _problems_of_value(declared, part, value)


def _problems_of_value(declared: Aggregates, part: Aggregation, value: Aggregation) -> Iterator[str]:
    if isinstance(part, Ratio):
        if not isinstance(value, (Sum, Count, Distinct)):
            yield f"{part.name}: a ratio is of a Sum, Count or Distinct, not of a {type(value).__name__}"
        if value.name or value.windows:
            yield f"{part.name}: the parts of a ratio have its windows, and no name"
    if isinstance(value, (Count, Decayed, Ratio)):
        return
    if not value.of and not isinstance(value, (Latest, First)):
        yield f"{part.name}: say by `of` which column of the events"
        return
    try:
        kind = declared.value_type(value)
    except ContractError as error:
        yield str(error)
        return
    if isinstance(value, (Sum, Mean)) and kind != LONG and not isinstance(kind, DecimalType):
        yield (
            f"{part.name}: a sum of {kind.spark} depends on the order of its terms, so training and serving would"
            " differ. Make the column a decimal or a bigint in silver, or give `type`"
        )

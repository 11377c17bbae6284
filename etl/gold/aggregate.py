"""A declaration of aggregations -> the rows of its feature table: prepare the events, ask the windows, name the
features.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import and_

from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F

from contracts import aggregations
from contracts.aggregations import Aggregates, Aggregation, AsOf, Dimension
from contracts.interval import Interval
from contracts.model import TIMESTAMP, Table
from etl.gold import windows
from etl.gold.windows import AT, NEWEST, Measures

Prepare = Callable[..., DataFrame]


def features(
    table: Table, midnights: Sequence[Interval], inputs: Mapping[str, DataFrame], prepare: Prepare | None = None
) -> DataFrame:
    """One row per key and midnight at which a window changes, in the contract's columns.

    `inputs` has the table's inputs by name; the events must reach back as far as `windows.history_for` says for the
    declaration's `reach`. `prepare` is the transform's function `events`.
    """
    declared = table.aggregates
    if declared is None:
        raise ValueError(f"{table.qualified} declares no aggregations")
    keys = [column.name for column in declared.key]
    plan = _Plan(declared)
    wanted = plan.results()
    events = _not_null(declared, inputs[declared.events.qualified], [declared.time_column]).withColumn(
        AT, F.col(declared.time_column).cast("timestamp")
    )
    # The keys of an event are its own where nothing prepares them, so that the keys without a change can be left out
    # first: joins are then small.
    own = {column.name for column in declared.events.columns}
    narrow = own.issuperset(keys)
    chosen = windows.concerned(events, keys, midnights, declared.trailing) if narrow else events
    prepared = prepared_events(declared, chosen, inputs, prepare)
    prepared = _not_null(declared, prepared, keys)
    chosen = prepared if narrow else windows.concerned(prepared, keys, midnights, declared.trailing)
    inner = {
        name: f"_k{n}" for n, name in enumerate(keys)
    }  # a key may be called as a column of the windows, such as day
    renamed = chosen.select(*(F.col(name).alias(alias) for name, alias in inner.items()), AT, *plan.columns())
    found = windows.contents(renamed, midnights, [*inner.values()], plan.measures())
    outer = [F.col(alias).alias(name) for name, alias in inner.items()]
    return found.select(
        *outer, "event_timestamp", *(wanted[name].cast(table.column(name).type.spark).alias(name) for name in wanted)
    )


def _not_null(declared: Aggregates, events: DataFrame, names: Sequence[str]) -> DataFrame:
    """Without the events that have no value there: they are nobody's, or of no time. What a contract requires needs no
    look.
    """
    columns = declared.columns()
    optional = [F.col(name).isNotNull() for name in names if not columns[name].required]
    return events.filter(reduce(and_, optional)) if optional else events


def prepared_events(
    declared: Aggregates, events: DataFrame, inputs: Mapping[str, DataFrame], prepare: Prepare | None
) -> DataFrame:
    """The events with the columns of their dimensions, and those that the transform adds."""
    for dimension in declared.dimensions:
        events = _joined(events, dimension, inputs[dimension.table.qualified])
    if declared.needs_transform:
        if prepare is None:
            raise ValueError("the declaration names tables or columns for a transform to prepare, and there is none")
        events = prepare(events, *(inputs[other.table.qualified] for other in declared.mapped))
        events = events.withColumn(
            AT, F.col(declared.time_column).cast("timestamp")
        )  # which a transform may have left out
    return events


def _joined(events: DataFrame, dimension: Dimension, rows: DataFrame) -> DataFrame:
    """Each event once, with the columns that the dimension brings."""
    on = {here: f"_dimension_{there}" for here, there in dimension.pairs.items()}
    if dimension.as_of == AsOf.NEWEST:
        newest = _one_per_key(rows, dimension)
        chosen = newest.select(
            *(F.col(there).alias(on[here]) for here, there in dimension.pairs.items()), *dimension.take
        )
        return events.join(chosen, [F.col(here) == F.col(there) for here, there in on.items()], "left").drop(
            *on.values()
        )
    since = "_dimension_valid_from"
    columns = (*(F.col(there).alias(on[here]) for here, there in dimension.pairs.items()), *dimension.take)
    valid = _one_per_key(rows, dimension).select(
        *columns, F.col(dimension.valid_from or "").cast("timestamp").alias(since)
    )
    # Until when a row is valid is known from the next row of its key, so each event meets one row at most.
    until = F.lead(since).over(Window.partitionBy(*on.values()).orderBy(since)).alias("_dimension_valid_until")
    spans = valid.select("*", until)
    inside = (F.col(AT) >= F.col(since)) & (
        F.col("_dimension_valid_until").isNull() | (F.col(AT) < F.col("_dimension_valid_until"))
    )
    same = [F.col(here) == F.col(there) for here, there in on.items()]
    return events.join(spans, [*same, inside], "left").drop(*on.values(), since, "_dimension_valid_until")


def _one_per_key(rows: DataFrame, dimension: Dimension) -> DataFrame:
    """The newest row of each key, or of each key and `valid_from`: by the table's time, then the rest of its key. Of
    equal ones every engine takes the same.
    """
    keys = [*dimension.pairs.values(), *([dimension.valid_from] if dimension.valid_from else [])]
    if set(dimension.table.key) <= set(keys):
        return rows
    order = [name for name in (*dimension.rank, *dimension.table.column_names) if name not in keys]
    ranked = rows.withColumn(
        "_nth",
        F.row_number().over(Window.partitionBy(*keys).orderBy(*(F.col(name).desc() for name in dict.fromkeys(order)))),
    )
    return ranked.filter("_nth = 1").drop("_nth")


# --- aggregations -> measures


@dataclass
class _Plan:
    """Measures that several features share are computed once; each has a column of the events."""

    declared: Aggregates
    _columns: dict[str, Column] = field(default_factory=dict)
    _names: dict[tuple[str, str], str] = field(default_factory=dict)
    _sums: dict[str, set[int]] = field(default_factory=dict)
    _distinct: dict[str, set[int]] = field(default_factory=dict)
    _extremes: dict[str, tuple[bool, set[int]]] = field(default_factory=dict)
    _any_age: set[str] = field(default_factory=set)
    _recent: dict[str, windows.Recent] = field(default_factory=dict)
    _newest: bool = False

    def columns(self) -> list[Column]:
        return [column.alias(name) for name, column in self._columns.items()]

    def measures(self) -> Measures:
        return Measures(
            sums={name: sorted(lengths) for name, lengths in self._sums.items()},
            distinct={name: sorted(lengths) for name, lengths in self._distinct.items()},
            extremes={
                name: windows.Extreme(largest, sorted(lengths), name in self._any_age)
                for name, (largest, lengths) in self._extremes.items()
            },
            recent=self._recent,
            newest=self._newest or bool(self._recent),
            trailing=self.declared.trailing,
        )

    def results(self) -> dict[str, Column]:
        """Each feature, from the columns of the windows."""
        return {column.name: self._result(part, window) for part, window, column in self.declared.features()}

    def _result(self, part: Aggregation, window: aggregations.Window | aggregations.Recent | None) -> Column:
        if isinstance(window, aggregations.Recent):
            return self._look_back(part, window.days)
        days = window.days if window else None
        if isinstance(part, aggregations.Ratio):
            return windows.share(self._amount(part.part, days), self._amount(part.whole, days), part.empty)
        if isinstance(part, aggregations.Mean):
            return windows.share(self._amount(part, days), F.col(self._sum(self._counted(part), days)), None)
        if isinstance(part, (aggregations.Sum, aggregations.Count, aggregations.Distinct)):
            return self._amount(part, days)
        return self._extreme(part, days)

    def _amount(self, part: Aggregation, days: int | None) -> Column:
        if isinstance(part, aggregations.Distinct):
            name = self._name("distinct", part, self._value(part))
            self._distinct.setdefault(name, set()).add(days or 0)
            return F.col(f"{name}_{days}d")
        return F.col(
            self._sum(self._counted(part) if isinstance(part, aggregations.Count) else self._summed(part), days)
        )

    def _sum(self, name: str, days: int | None) -> str:
        self._sums.setdefault(name, set()).add(days or 0)
        return f"{name}_{days}d"

    def _extreme(self, part: Aggregation, days: int | None) -> Column:
        largest = isinstance(part, (aggregations.Max, aggregations.Latest))
        is_timestamp = self.declared.events.column(self.declared.time_column).type == TIMESTAMP
        if (
            isinstance(part, aggregations.Latest)
            and self._is_instant(part)
            and is_timestamp
            and days is None
            and not part.where
        ):
            self._newest = True
            return F.col(NEWEST)
        name = self._ordered(part, largest)
        self._extremes.setdefault(name, (largest, set()))
        if days is None:
            self._any_age.add(name)
        else:
            self._extremes[name][1].add(days)
        return self._value_of(part, name if days is None else f"{name}_{days}d")

    def _is_instant(self, part: Aggregation) -> bool:
        return not part.of or part.of == self.declared.time_column

    def _is_pair(self, part: Aggregation) -> bool:
        """Whether it is the extreme of (instant, value)."""
        return isinstance(part, (aggregations.Latest, aggregations.First)) and not self._is_instant(part)

    def _ordered(self, part: Aggregation, largest: bool) -> str:
        """The measure whose smallest or largest value is looked for."""
        value, kind = self._value(part), "largest" if largest else "smallest"
        if not self._is_pair(part):
            return self._name(kind, part, value)
        pair = F.when(value.isNotNull(), F.struct(F.col(AT).alias("at"), value.alias("value")))
        return self._name(kind, part, pair, "in time")

    def _value_of(self, part: Aggregation, result: str) -> Column:
        return F.col(result)["value"] if self._is_pair(part) else F.col(result)

    def _look_back(self, part: Aggregation, days: int) -> Column:
        result = f"_r{len(self._recent)}"
        if isinstance(part, aggregations.First):
            self._recent[result] = windows.Recent(self._ordered(part, largest=False), days, smallest=True)
            return self._value_of(part, result)
        half_life = part.half_life if isinstance(part, aggregations.Decayed) else 0
        self._recent[result] = windows.Recent(self._counted(part), days, half_life)
        return F.col(result)

    def _summed(self, part: Aggregation) -> str:
        kind = self.declared.value_type(part).spark
        return self._name("sum", part, F.coalesce(self._value(part).cast(kind), F.lit(0).cast(kind)), kind)

    def _counted(self, part: Aggregation) -> str:
        there = F.expr(part.of).isNotNull() if part.of else F.lit(True)
        if part.where:
            there = there & F.expr(part.where)
        return self._name("count", part, F.when(there, 1).otherwise(0).cast("bigint"))

    def _value(self, part: Aggregation) -> Column:
        value = F.expr(part.of or self.declared.time_column)
        if part.type and part.of:
            value = value.cast(part.type.spark)
        return F.when(F.expr(part.where), value) if part.where else value

    def _name(self, kind: str, part: Aggregation, column: Column, detail: str = "") -> str:
        """The measure's column, a new one where no other feature asked for the same."""
        name = self._names.setdefault(
            (f"{kind} {detail}", f"{part.of} AS {part.type} WHERE {part.where}"), f"_m{len(self._names)}"
        )
        self._columns.setdefault(name, column)
        return name

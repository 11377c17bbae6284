"""From declared aggregations to the rows of the feature table: prepare the events, compute the windows, name the
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
from contracts.expressions import portable
from contracts.interval import Interval
from contracts.model import LONG, TIMESTAMP, Table
from etl.gold import windows
from etl.gold.measures import AT, NEWEST, Extreme, Measures, Recent

Prepare = Callable[..., DataFrame]
EXACT_LONG = "decimal(20,0)"


def features(
    table: Table, midnights: Sequence[Interval], inputs: Mapping[str, DataFrame], prepare: Prepare | None = None
) -> DataFrame:
    """One row per key and midnight at which a window changes, in the contract's columns.

    `inputs` maps the names of the table's inputs to their rows; the events must go back as far as
    `windows.history_for` says for the declaration's `reach`. `prepare` is the function `events` of the transform.
    """
    declared = table.aggregates
    if declared is None:
        raise ValueError(f"{table.qualified} declares no aggregations")
    keys = [column.name for column in declared.key]
    builder = _MeasureBuilder(declared)
    results = builder.results()
    events = _not_null(inputs[declared.events.qualified], [declared.time_column]).withColumn(
        AT, F.col(declared.time_column).cast("timestamp")
    )
    # where the events have the keys before they are prepared, drop keys without a change first, to keep joins small
    has_keys = {column.name for column in declared.events.columns}.issuperset(keys)
    if has_keys:
        events = windows.keep_changing_keys(events, keys, midnights, declared.trailing)
    events = _not_null(prepared_events(declared, events, inputs, prepare), keys)
    if not has_keys:
        events = windows.keep_changing_keys(events, keys, midnights, declared.trailing)
    # a key may have the name of a column of the windows, such as `day`
    aliases = {name: f"_k{n}" for n, name in enumerate(keys)}
    renamed = events.select(*(F.col(name).alias(alias) for name, alias in aliases.items()), AT, *builder.columns())
    rows = windows.contents(renamed, midnights, [*aliases.values()], builder.measures())
    named_keys = [F.col(alias).alias(name) for name, alias in aliases.items()]
    values = [result.cast(table.column(name).type.spark).alias(name) for name, result in results.items()]
    return rows.select(*named_keys, "event_timestamp", *values)


def _not_null(events: DataFrame, names: Sequence[str]) -> DataFrame:
    """Drop events with a NULL in these columns: they have no key, or no time."""
    return events.filter(reduce(and_, (F.col(name).isNotNull() for name in names)))


def prepared_events(
    declared: Aggregates, events: DataFrame, inputs: Mapping[str, DataFrame], prepare: Prepare | None
) -> DataFrame:
    """The events with the columns of their dimensions and those that the transform adds.

    ValueError where a declaration that needs a transform has none.
    """
    for dimension in declared.dimensions:
        events = _join_dimension(events, dimension, inputs[dimension.table.qualified])
    if declared.needs_transform:
        if prepare is None:
            raise ValueError("the declaration names tables or columns for a transform to prepare, and there is none")
        events = prepare(events, *(inputs[other.table.qualified] for other in declared.mapped))
        # the transform may have dropped it
        events = events.withColumn(AT, F.col(declared.time_column).cast("timestamp"))
    return events


def _join_dimension(events: DataFrame, dimension: Dimension, rows: DataFrame) -> DataFrame:
    """Each event once, with the columns that the dimension adds."""
    aliases = {event_column: f"_dimension_{column}" for event_column, column in dimension.pairs.items()}
    same_key = [F.col(event_column) == F.col(alias) for event_column, alias in aliases.items()]
    columns = [F.col(column).alias(aliases[event_column]) for event_column, column in dimension.pairs.items()]
    newest = _newest_rows(rows, dimension)
    if dimension.as_of == AsOf.NEWEST:
        return events.join(newest.select(*columns, *dimension.take), same_key, "left").drop(*aliases.values())
    start, end = "_dimension_valid_from", "_dimension_valid_until"
    valid_from = F.col(dimension.valid_from or "").cast("timestamp").alias(start)
    valid = newest.select(*columns, *dimension.take, valid_from)
    # a row is valid until the next row of its key starts, so each event joins one row at most
    next_start = F.lead(start).over(Window.partitionBy(*aliases.values()).orderBy(start)).alias(end)
    inside = (F.col(AT) >= F.col(start)) & (F.col(end).isNull() | (F.col(AT) < F.col(end)))
    joined = events.join(valid.select("*", next_start), [*same_key, inside], "left")
    return joined.drop(*aliases.values(), start, end)


def _newest_rows(rows: DataFrame, dimension: Dimension) -> DataFrame:
    """The newest row of each key, or of each key and `valid_from`: by the table's time, then the rest of its key, then
    all other columns, so that every engine takes the same.
    """
    if dimension.is_unique:
        return rows
    order = [name for name in (*dimension.rank, *dimension.table.column_names) if name not in dimension.identity]
    newest_first = Window.partitionBy(*dimension.identity).orderBy(
        *(F.col(name).desc() for name in dict.fromkeys(order))
    )
    ranked = rows.withColumn("_rank", F.row_number().over(newest_first))
    return ranked.filter("_rank = 1").drop("_rank")


# --- aggregations -> measures


@dataclass
class _MeasureBuilder:
    """The measures of the features. Features share a measure, a column of the events, where they can."""

    declared: Aggregates
    _columns: dict[str, Column] = field(default_factory=dict)
    _names: dict[tuple[str, str], str] = field(default_factory=dict)
    _sums: dict[str, set[int]] = field(default_factory=dict)
    _distinct: dict[str, set[int]] = field(default_factory=dict)
    _extremes: dict[str, tuple[bool, set[int]]] = field(default_factory=dict)
    _any_age: set[str] = field(default_factory=set)
    _recent: dict[str, Recent] = field(default_factory=dict)
    _newest: bool = False

    def columns(self) -> list[Column]:
        """The columns of the events that the measures need."""
        return [column.alias(name) for name, column in self._columns.items()]

    def measures(self) -> Measures:
        """What the windows compute. Complete after `results`."""
        return Measures(
            sums={name: sorted(lengths) for name, lengths in self._sums.items()},
            distinct={name: sorted(lengths) for name, lengths in self._distinct.items()},
            extremes={
                name: Extreme(largest, sorted(lengths), name in self._any_age)
                for name, (largest, lengths) in self._extremes.items()
            },
            recent=self._recent,
            newest=self._newest or bool(self._recent),
            trailing=self.declared.trailing,
        )

    def results(self) -> dict[str, Column]:
        """Each feature by name, as an expression over the columns of the windows."""
        return {column.name: self._result(part, window) for part, window, column in self.declared.features()}

    def _result(self, part: Aggregation, window: aggregations.Window | aggregations.Recent | None) -> Column:
        if isinstance(window, aggregations.Recent):
            return self._recent_value(part, window.days)
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
        name = self._counted(part) if isinstance(part, aggregations.Count) else self._summed(part)
        return F.col(self._sum(name, days))

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
        """Whether the aggregation is an extreme of pairs (instant, value)."""
        return isinstance(part, (aggregations.Latest, aggregations.First)) and not self._is_instant(part)

    def _ordered(self, part: Aggregation, largest: bool) -> str:
        """The measure whose largest or smallest value is the result."""
        value, kind = self._value(part), "largest" if largest else "smallest"
        if not self._is_pair(part):
            return self._name(kind, part, value)
        pair = F.when(value.isNotNull(), F.struct(F.col(AT).alias("at"), value.alias("value")))
        return self._name(kind, part, pair, "in time")

    def _value_of(self, part: Aggregation, result: str) -> Column:
        return F.col(result)["value"] if self._is_pair(part) else F.col(result)

    def _recent_value(self, part: Aggregation, days: int) -> Column:
        result = f"_r{len(self._recent)}"
        if isinstance(part, aggregations.First):
            self._recent[result] = Recent(self._ordered(part, largest=False), days, smallest=True)
            return self._value_of(part, result)
        half_life = part.half_life if isinstance(part, aggregations.Decayed) else 0
        self._recent[result] = Recent(self._counted(part), days, half_life)
        return F.col(result)

    def _summed(self, part: Aggregation) -> str:
        kind = self.declared.value_type(part)
        value = self._value(part).cast(kind.spark)
        # a sum of bigints would wrap around; as decimals it grows, and a result beyond bigint fails the run
        summed_as = EXACT_LONG if kind == LONG else kind.spark
        return self._name("sum", part, F.coalesce(value.cast(summed_as), F.lit(0).cast(summed_as)), kind.spark)

    def _counted(self, part: Aggregation) -> str:
        counts = _expression(part.of).isNotNull() if part.of else F.lit(True)
        if part.where:
            counts = counts & _expression(part.where)
        return self._name("count", part, F.when(counts, 1).otherwise(0).cast("bigint"))

    def _value(self, part: Aggregation) -> Column:
        value = _expression(part.of or self.declared.time_column)
        if part.type and part.of:
            value = value.cast(part.type.spark)
        return F.when(_expression(part.where), value) if part.where else value

    def _name(self, kind: str, part: Aggregation, column: Column, detail: str = "") -> str:
        """The name of the measure's column, shared by features with the same measure."""
        name = self._names.setdefault(
            (f"{kind} {detail}", f"{part.of} AS {part.type} WHERE {part.where}"), f"_m{len(self._names)}"
        )
        self._columns.setdefault(name, column)
        return name


def _expression(sql: str) -> Column:
    return F.expr(portable(sql))

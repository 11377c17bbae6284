"""Features at each label's instant, looked up by Spark over any Spark Connect session, for events that need a cluster.

Events and labels become one frame, with a row of the label at its instant and one before each window. So all running
sums come from one shuffle by key and one sort by time, and no label is paired with its key's history. What is no sum
takes a sort more, without a shuffle. DuckDB computes the features from what was found, as it does from its own lookups.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from feast import FeatureView

from features import queries
from features.instants.lookups import TIME, Lookups, Running, lookups, values
from features.source import GoldTable

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

IS_EVENT, IS_LABEL = "__row IS NULL", "__row IS NOT NULL"


def find(
    session: SparkSession,
    history: DataFrame,
    labels: pa.Table,
    source: GoldTable,
    view: FeatureView,
    requested: Sequence[str],
) -> pa.Table:
    """`__row` and the lookups of these features, of each label whose key has an event before its instant, in any order.

    NULL matches nothing, neither as a key nor as an instant.
    """
    return _Search(lookups(view, requested)).plan(session, history, labels, source, view).toArrow()


def computed(view: FeatureView, requested: Sequence[str]) -> str:
    """DuckDB SQL of `__row` and the features of each row of the table `matches`, which `find` gave."""
    needed = lookups(view, requested)
    typed = ", ".join(f"coalesce(CAST({name} AS {kind}), 0) AS {name}" for name, kind in needed.types())
    extremes = "".join(
        f", {'least' if extreme.function == 'min' else 'greatest'}({name}b, {name}e) AS {name}"
        for extreme, name in needed.extremes.items()
    )
    found = f"SELECT * REPLACE ({typed}){extremes} FROM matches"
    return f"SELECT __row, {values(needed, view, requested)} FROM ({found})"


class _Search:
    """Adds the lookups to a frame of events and labels, one after the other."""

    def __init__(self, needed: Lookups) -> None:
        self._needed = needed
        self._at_labels: dict[str, tuple[int, Any]] = {}
        """Name of a lookup -> the row of the label that has it, as microseconds before its instant, and an expression
        there.
        """

    def plan(
        self, session: SparkSession, history: DataFrame, labels: pa.Table, source: GoldTable, view: FeatureView
    ) -> DataFrame:
        """See `find`."""
        from pyspark.sql import functions as F

        names = queries.label_keys(view)
        self._keys = [f"__k{n}" for n in range(len(names))]
        requests = session.createDataFrame(
            labels.select([*names, "__at", "__row"]).rename_columns([*self._keys, "__at", "__row"])
        )
        rows = self._union(self._events(history, requests, source, view), requests).repartition(*self._keys)
        for step in (self._add_neighbors, self._add_sums, self._add_newest, self._add_oldest, self._add_extremes):
            rows = step(rows)
        found = [
            F.max(F.when(F.col("__before") == microseconds, value)).alias(name)
            for name, (microseconds, value) in self._at_labels.items()
        ]
        grouped = rows.where(IS_LABEL).groupBy(*self._keys, "__row").agg(*found)
        return grouped.where(f"{self._needed.events} > 0").drop(*self._keys)

    # --- events and labels in one frame

    def _events(self, history: DataFrame, requests: DataFrame, source: GoldTable, view: FeatureView) -> DataFrame:
        """The events of the labels' keys: keys in the labels' types, instant, columns."""
        from pyspark.sql import functions as F

        keys = [
            history[source.column(key.name)].cast(requests.schema[name].dataType).alias(name)
            for name, key in zip(self._keys, view.entity_columns, strict=True)
        ]
        columns = [history[source.column(column)].alias(name) for column, name in self._needed.columns.items()]
        events = history.select(*keys, F.unix_micros(history[source.event_column]).alias(TIME), *columns)
        return events.where(f"{TIME} IS NOT NULL").join(requests.select(*self._keys), self._keys, "left_semi")

    def _union(self, events: DataFrame, requests: DataFrame) -> DataFrame:
        """Events, without `__row`, and a row of each label at its instant and before each window."""
        from pyspark.sql import functions as F

        before = F.explode(F.expr(f"array({', '.join(f'{bound}L' for bound in self._bounds)})")).alias("__before")
        labels = requests.where("__at IS NOT NULL").select(*self._keys, "__row", "__at", before)
        nothing = [F.lit(None).cast(events.schema[name].dataType).alias(name) for name in self._needed.columns.values()]
        instant = (F.col("__at") - F.col("__before")).alias(TIME)
        none = [F.lit(None).cast("bigint").alias(name) for name in ("__row", "__before")]
        return events.select("*", *none).unionByName(labels.select(*self._keys, instant, *nothing, "__row", "__before"))

    @cached_property
    def _bounds(self) -> list[int]:
        """How many microseconds before the label its rows are."""
        needed = self._needed
        windows = [oldest.window for oldest in needed.oldest] + [extreme.window for extreme in needed.extremes]
        return sorted({0, *needed.at, *windows})

    def _until(self, *order: Any, within: Sequence[Any] = ()) -> Any:
        """The rows of the key up to the current one."""
        from pyspark.sql import Window

        by_key = Window.partitionBy(*self._keys, *within).orderBy(*order)
        return by_key.rowsBetween(Window.unboundedPreceding, Window.currentRow)

    # --- the lookups

    def _add_neighbors(self, rows: DataFrame) -> DataFrame:
        from pyspark.sql import Window
        from pyspark.sql import functions as F

        for column, (before, after) in self._needed.members.items():
            member = Window.partitionBy(*self._keys, column).orderBy(TIME)
            rows = rows.withColumns({before: F.lag(TIME).over(member), after: F.lead(TIME).over(member)})
        return rows

    def _add_sums(self, rows: DataFrame) -> DataFrame:
        """Of rows at the same instant, labels come first: their window ends before the event."""
        from pyspark.sql import functions as F

        until = self._until(TIME, F.expr(IS_EVENT))
        for microseconds, names in self._needed.at.items():
            for running, name in names.items():
                self._at_labels[name] = microseconds, F.col(running)
        return rows.withColumns(
            {name: F.sum(F.expr(_term(running))).over(until) for running, name in self._needed.running.items()}
        )

    def _add_newest(self, rows: DataFrame) -> DataFrame:
        from pyspark.sql import functions as F

        for newest, name in self._needed.newest.items():
            value = F.when(F.expr(IS_EVENT), F.expr(newest.value))
            order = [TIME, F.expr(IS_EVENT), *([] if newest.value == TIME else [value.asc_nulls_first()])]
            rows = rows.withColumns(_last(name, value, self._until(*order)))
            self._at_labels[f"{name}v"] = 0, F.col(f"{name}v")
            self._at_labels[f"{name}a"] = 0, F.col(TIME) - F.col(f"{name}t")
        return rows

    def _add_oldest(self, rows: DataFrame) -> DataFrame:
        """Backwards in time, from the beginning of the window, at which an event is inside."""
        from pyspark.sql import functions as F

        columns: dict[str, str] = {}
        for oldest, name in self._needed.oldest.items():
            if oldest.value not in columns:
                columns[oldest.value] = name
                value = F.when(F.expr(IS_EVENT), F.expr(oldest.value))
                order = [F.desc(TIME), F.expr(IS_LABEL), value.desc_nulls_first()]
                rows = rows.withColumns(_last(name, value, self._until(*order)))
            column = columns[oldest.value]
            inside = F.col(f"{column}t") < F.col(TIME) + oldest.window
            self._at_labels[name] = oldest.window, F.when(inside, F.col(f"{column}v"))
        return rows

    def _add_extremes(self, rows: DataFrame) -> DataFrame:
        """Time is cut into blocks as long as the window, which so lies in two of them: the end of one, from the
        window's beginning, and the beginning of the next, up to the label.
        """
        from pyspark.sql import functions as F

        for extreme, name in self._needed.extremes.items():
            block = F.expr(f"{TIME} - pmod({TIME}, {extreme.window}L)")
            forwards = self._until(TIME, F.expr(IS_EVENT), within=[block])
            backwards = self._until(F.desc(TIME), F.expr(IS_LABEL), within=[block])
            function = F.min if extreme.function == "min" else F.max
            rows = rows.withColumns(
                {
                    f"{name}b": function(extreme.column).over(forwards),
                    f"{name}e": function(extreme.column).over(backwards),
                }
            )
            self._at_labels[f"{name}b"] = 0, F.col(f"{name}b")
            self._at_labels[f"{name}e"] = extreme.window, F.col(f"{name}e")
        return rows


def _term(running: Running) -> str:
    """What a row adds to the sum. A bigint becomes a decimal: the sum of all events may be larger than a bigint."""
    if running.amount:
        return f"CAST({running.amount} AS DECIMAL(19, 0))" if running.type == "HUGEINT" else running.amount
    return f"CASE WHEN {IS_EVENT} AND ({running.condition}) THEN 1L END"


def _last(name: str, value: Any, until: Any) -> dict[str, Any]:
    """The newest value that is not NULL, and its instant."""
    from pyspark.sql import functions as F

    instant = F.when(value.isNotNull(), F.col(TIME))
    return {
        f"{name}v": F.last(value, ignorenulls=True).over(until),
        f"{name}t": F.last(instant, ignorenulls=True).over(until),
    }

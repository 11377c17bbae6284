"""Which days of events a change of a feature table's other inputs concerns, and which rows of its inputs some midnights
need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING

from contracts import catalog
from contracts.aggregations import Aggregates, Dimension, Joined
from contracts.interval import Interval, days_of, merged
from contracts.model import DATE, LONG, Load, Table
from etl import table_reader
from etl.gold import windows
from lake import delta, settings, storage
from lake.publishing import days_sql

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Days = tuple[Interval, ...]
Versions = Mapping[str, int]


def read_days(name: str, version: int, days: Sequence[Interval]) -> DataFrame:
    """A table's rows of these days."""
    table = catalog.table(name)
    return table_reader.read(name, version, delta.on_days(table.time_column, days)).filter(days_sql(table, days))


def changed_event_days(
    declared: Aggregates, before: Versions, now: Versions, changed: Mapping[str, Days | None]
) -> Days | None:
    """The days of events whose features can change since the inputs were at the versions `before`; None where nobody
    can tell any more.

    `changed` has the days of each input whose rows were replaced since then; a snapshot is replaced whole, and names
    none.
    """
    concerned = [*(changed.get(declared.events.qualified) or ())]
    for other in declared.joined:
        name = other.table.qualified
        if not _has_changed(other, before, changed):
            continue
        if not _is_readable(name, before[name]):
            return None
        values = _changed_values(other, before[name], now[name], changed[name] or ())
        concerned += _days_of_events_with(declared, other, values, now[declared.events.qualified])
    return merged(concerned)


def _has_changed(other: Joined, before: Versions, changed: Mapping[str, Days | None]) -> bool:
    name = other.table.qualified
    if other.table.load != Load.SNAPSHOT:
        return bool(changed[name])
    source = delta.open_table(name)
    return source is not None and delta.rows_changed_since(source, before[name])


def _is_readable(name: str, version: int) -> bool:
    """Whether the files of an older version are all there: `vacuum` removes them in the end, and an engine may read a
    file that is gone as if it were empty.
    """
    try:
        table = delta.open_table(name, version)
    except delta.LakeError:
        return False
    if table is None:
        return False
    root = settings.table_path(name)
    there = {str(path) for path in storage.tree(root, ".parquet")}
    return all(str(root / file["path"]) in there for file in delta.data_files(table))


def _changed_values(other: Joined, before: int, now: int, days: Days) -> DataFrame:
    """The values by which the changed rows are joined, a row each, named as in the table: of rows that are new, other,
    or gone.
    """
    name = other.table.qualified
    by = tuple(other.pairs.values())
    if other.table.load == Load.SNAPSHOT:
        old, new = table_reader.read(name, before), table_reader.read(name, now)
    else:
        old, new = read_days(name, before, days), read_days(name, now, days)
        if not isinstance(
            other, Dimension
        ):  # days are narrow enough, and comparing their rows would cost more than it saves
            return old.select(*by).unionAll(new.select(*by)).distinct()
    columns = _columns_that_matter(other)
    return _differing(old.select(*columns), new.select(*columns)).select(*by).distinct()


def _columns_that_matter(other: Joined) -> tuple[str, ...]:
    if not isinstance(other, Dimension):
        return other.table.column_names
    valid_from = [other.valid_from] if other.valid_from else []
    return tuple(dict.fromkeys((*other.pairs.values(), *other.take, *valid_from, *other.rank)))


def _differing(old: DataFrame, new: DataFrame) -> DataFrame:
    """The rows that one of two frames has more often than the other."""
    from pyspark.sql import functions as F

    signed = old.withColumn("_sign", F.lit(-1)).unionAll(new.withColumn("_sign", F.lit(1)))
    return signed.groupBy(*new.columns).agg(F.sum("_sign").alias("_sign")).filter("_sign <> 0").drop("_sign")


def _days_of_events_with(declared: Aggregates, other: Joined, values: DataFrame, version: int) -> Days:
    from pyspark.sql import functions as F

    named = values.select(*(F.col(there).alias(here) for here, there in other.pairs.items()))
    events = table_reader.read(declared.events.qualified, version)
    found = (
        events.join(named, list(other.pairs), "left_semi")
        .select(F.to_date(declared.time_column).alias("day"))
        .distinct()
    )
    return days_of(row["day"] for row in found.collect())


# --- what some midnights need


def history(table: Table, midnights: Sequence[Interval], versions: Versions) -> dict[str, DataFrame]:
    """The rows of each input of a table with aggregations that decide its rows at these midnights."""
    declared = table.aggregates
    if declared is None:
        raise ValueError(f"{table.qualified} declares no aggregations")
    days = merged(windows.history_for(interval, declared.reach) for interval in midnights)
    events = read_days(declared.events.qualified, versions[declared.events.qualified], days)
    found = {declared.events.qualified: events}
    for other in declared.joined:
        name = other.table.qualified
        found[name] = (
            table_reader.read(name, versions[name])
            if isinstance(other, Dimension)
            else _within_range(other.table, other.by, events, versions[name])
        )
    return found


def _within_range(table: Table, by: Sequence[str], events: DataFrame, version: int) -> DataFrame:
    """The rows of a table between the smallest and the largest value that the events have, so that the others need not
    be read.
    """
    from pyspark.sql import functions as F

    ranged = [name for name in by if table.column(name).type in (LONG, DATE)]
    if not ranged:
        return table_reader.read(table.qualified, version)
    found = events.agg(*map(F.min, ranged), *map(F.max, ranged)).collect()[0]
    bounds = {name: (found[n], found[n + len(ranged)]) for n, name in enumerate(ranged)}
    known = {name: [pair] for name, pair in bounds.items() if pair[0] is not None}
    if len(known) < len(ranged):
        return table_reader.read(table.qualified, version).filter("false")
    rows = table_reader.read(table.qualified, version, known)
    return reduce(lambda frame, name: frame.filter(F.col(name).between(*bounds[name])), ranged, rows)

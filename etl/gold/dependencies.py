"""Which days of events change with a feature table's inputs, and which rows of the inputs decide given midnights."""

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
    """The rows of a table on these days."""
    table = catalog.table(name)
    return table_reader.read(name, version, delta.on_days(table.time_column, days)).filter(days_sql(table, days))


def changed_event_days(
    declared: Aggregates, before: Versions, now: Versions, changed: Mapping[str, Days | None]
) -> Days | None:
    """The days of events whose features can have changed since the inputs were at the versions `before`; None where
    that can no longer be known.

    `changed` maps each input to the days that were replaced since then. A snapshot is replaced as a whole and has none.
    """
    days = [*(changed.get(declared.events.qualified) or ())]
    for other in declared.joined:
        name = other.table.qualified
        if not _has_changed(other, before, changed):
            continue
        if not _is_readable(name, before[name]):
            return None
        values = _changed_values(other, before[name], now[name], changed[name] or ())
        days += _days_of_events_with(declared, other, values, now[declared.events.qualified])
    return merged(days)


def _has_changed(other: Joined, before: Versions, changed: Mapping[str, Days | None]) -> bool:
    name = other.table.qualified
    if other.table.load != Load.SNAPSHOT:
        return bool(changed[name])
    source = delta.open_table(name)
    return source is not None and delta.rows_changed_since(source, before[name])


def _is_readable(name: str, version: int) -> bool:
    """Whether all files of an older version still exist: `vacuum` deletes them in time, and an engine may read a
    missing file as an empty one.
    """
    try:
        table = delta.open_table(name, version)
    except delta.LakeError:
        return False
    if table is None:
        return False
    root = settings.table_path(name)
    existing = {str(path) for path in storage.tree(root, ".parquet")}
    return all(str(root / file["path"]) in existing for file in delta.data_files(table))


def _changed_values(other: Joined, before: int, now: int, days: Days) -> DataFrame:
    """The join keys of rows that were added, changed or removed: one row each, in columns named as in the table."""
    name = other.table.qualified
    key = tuple(other.pairs.values())
    if other.table.load == Load.SNAPSHOT:
        old, new = table_reader.read(name, before), table_reader.read(name, now)
    else:
        old, new = read_days(name, before, days), read_days(name, now, days)
        if not isinstance(other, Dimension):  # its days are few rows; comparing these would cost more than it saves
            return old.select(*key).unionAll(new.select(*key)).distinct()
    columns = _used_columns(other)
    return _differing(old.select(*columns), new.select(*columns)).select(*key).distinct()


def _used_columns(other: Joined) -> tuple[str, ...]:
    if not isinstance(other, Dimension):
        return other.table.column_names
    return tuple(dict.fromkeys((*other.identity, *other.take, *other.rank)))


def _differing(old: DataFrame, new: DataFrame) -> DataFrame:
    """The rows that occur more often in one of the frames than in the other."""
    from pyspark.sql import functions as F

    signed = old.withColumn("_sign", F.lit(-1)).unionAll(new.withColumn("_sign", F.lit(1)))
    return signed.groupBy(*new.columns).agg(F.sum("_sign").alias("_sign")).filter("_sign <> 0").drop("_sign")


def _days_of_events_with(declared: Aggregates, other: Joined, values: DataFrame, version: int) -> Days:
    from pyspark.sql import functions as F

    renamed = values.select(*(F.col(column).alias(event_column) for event_column, column in other.pairs.items()))
    events = table_reader.read(declared.events.qualified, version).join(renamed, list(other.pairs), "left_semi")
    days = events.select(F.to_date(declared.time_column).alias("day")).distinct()
    return days_of(row["day"] for row in days.collect())


# --- the rows that decide some midnights


def history(table: Table, midnights: Sequence[Interval], versions: Versions) -> dict[str, DataFrame]:
    """The rows of each input, by name, that decide a table's rows at these midnights, or on these days in a table of
    instants. ValueError for a table without aggregations.
    """
    declared = table.aggregates
    if declared is None:
        raise ValueError(f"{table.qualified} declares no aggregations")
    if declared.is_of_instants:
        days = tuple(midnights)
    else:
        days = merged(windows.history_for(interval, declared.reach) for interval in midnights)
    events = read_days(declared.events.qualified, versions[declared.events.qualified], days)
    inputs = {declared.events.qualified: events}
    for other in declared.joined:
        name = other.table.qualified
        inputs[name] = (
            table_reader.read(name, versions[name])
            if isinstance(other, Dimension)
            else _within_range(other.table, other.by, events, versions[name])
        )
    return inputs


def _within_range(table: Table, by: Sequence[str], events: DataFrame, version: int) -> DataFrame:
    """The rows of a table between the smallest and the largest values of the events, so that others are not read."""
    from pyspark.sql import functions as F

    ranged = [name for name in by if table.column(name).type in (LONG, DATE)]
    if not ranged:
        return table_reader.read(table.qualified, version)
    extremes = events.agg(*map(F.min, ranged), *map(F.max, ranged)).collect()[0]
    bounds = {name: (extremes[n], extremes[n + len(ranged)]) for n, name in enumerate(ranged)}
    known = {name: [pair] for name, pair in bounds.items() if pair[0] is not None}
    if len(known) < len(ranged):
        return table_reader.read(table.qualified, version).filter("false")
    rows = table_reader.read(table.qualified, version, known)
    return reduce(lambda frame, name: frame.filter(F.col(name).between(*bounds[name])), ranged, rows)

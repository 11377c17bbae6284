"""The current rows of a bronze table whose rows are states of rows of a database: changes, or snapshots by pulls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pyspark.sql import Column as SparkColumn
from pyspark.sql import DataFrame, Window
from pyspark.sql import functions as F

from contracts.interval import Interval, days_of
from contracts.model import Load, Table
from etl.silver import PROVENANCE
from lake.publishing import days_sql


def current(source: Table, rows: DataFrame) -> DataFrame:
    """One row per key that was not deleted, its newest state; of snapshots by pulls, the rows of the newest one. Rows
    of any other table as they are.
    """
    if source.load == Load.CHANGES:
        return _newest_states(source, rows)
    return _newest_snapshot(rows) if source.is_replaced_by_pulls else rows


def _newest_states(source: Table, rows: DataFrame) -> DataFrame:
    window = Window.partitionBy(*source.key).orderBy(*_newest_first(source))
    ranked = rows.withColumn("_rank", F.row_number().over(window)).filter("_rank = 1")
    alive = ranked.filter("_op IS NULL OR _op <> 'd'") if source.is_change_stream else ranked
    return alive.drop("_rank")


def _newest_first(source: Table) -> list[SparkColumn]:
    """By the position in the database's log, then its clock, whenever the change arrived; then by delivery. The names
    of a partition's messages sort by offset. Rows of files have no position, and are older than any change.
    """
    positions = []
    if source.is_change_stream:
        positions = [F.col("_lsn").desc_nulls_last(), F.col("_source_at").desc_nulls_last()]
    return [*positions, *(F.col(name).desc() for name in PROVENANCE)]


def _newest_snapshot(rows: DataFrame) -> DataFrame:
    files = rows.select(*PROVENANCE).distinct().orderBy(*(F.col(name).desc() for name in PROVENANCE)).head(1)
    return rows.filter(F.col("_file") == files[0]["_file"]) if files else rows


def days_of_arrivals(source: Table, rows: DataFrame, arrived: Sequence[Interval]) -> tuple[Interval, ...]:
    """The days on which keys with a change that arrived on the days `arrived` have a state, now or earlier."""
    on_arrival = days_sql(replace(source, time_column="_landed_date"), arrived)
    keys = rows.filter(on_arrival).select(*source.key).distinct()
    days = rows.join(keys, list(source.key), "left_semi").select(F.to_date(source.time_column or "").alias("day"))
    return days_of(row["day"] for row in days.filter("day IS NOT NULL").distinct().collect())


def of_keys_on(source: Table, rows: DataFrame, days: Sequence[Interval]) -> DataFrame:
    """All rows of the keys that have a state on these days."""
    keys = rows.filter(days_sql(source, days)).select(*source.key).distinct()
    return rows.join(keys, list(source.key), "left_semi")

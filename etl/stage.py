"""Stage: compute what a plan names and write it to files that readers do not see until they are published."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from contracts import catalog
from contracts.interval import Interval, days_of, merged
from contracts.model import DATE, LONG, Layer, Load, Table
from contracts.report import RowAccount
from etl import staged, table_reader
from etl.bronze import spark_stream, stream
from etl.bronze.load import Loaded, load
from etl.bronze.stream import LoadedMessages
from etl.deduplicate import count_keys, deduplicate, keys_are_unique, passes_critical_checks
from etl.gold import aggregate, dependencies, instants, windows
from etl.gold.dependencies import read_days
from etl.planning import Plan, drivers, reach
from etl.silver import PROVENANCE, select, states
from etl.sources.messages import Message
from etl.sources.offsets import Start
from etl.staged import Staged, count_rows, new_folder, write, write_by_month
from etl.transforms import StageError, ensure_columns, has_transform, transform
from lake import delta, storage
from lake.publishing import days_sql, nullable_schema

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

MANY_MONTHS = 240
"""More than this are written in one job instead of one each."""


def stage(planned: Plan) -> Staged:
    """Compute what the plan names and stage it."""
    folder = new_folder(planned.table)
    if planned.table.layer == Layer.BRONZE:
        return _stage_bronze(planned, folder)
    if planned.table.layer == Layer.SILVER:
        return _stage_silver(planned, folder)
    return _stage_gold(planned, folder)


def stage_rows(planned: Plan, rows: pa.Table, rows_in: int) -> Staged:
    """Stage rows that were computed elsewhere, with at least the contract's columns.

    `rows_in` is how many rows the caller expects, counted from their inputs.
    """
    import pyarrow.parquet as pq

    table, folder = planned.table, new_folder(planned.table)
    storage.make_folder(folder)
    rows = rows.select(table.column_names).cast(nullable_schema(table))
    with (folder / "part-0.parquet").open("wb") as output:
        pq.write_table(rows, output, compression="zstd")
    keys = rows.group_by([*table.key]).aggregate([]).num_rows if table.key else None
    return Staged(planned, folder, rows_in, count_rows(folder), 0, distinct_keys=keys)


def stage_messages(planned: Plan, batch: Sequence[Message], identity: int, starts: Mapping[int, Start]) -> Staged:
    """Stage the messages of a topic that the bronze table has not read; see `etl.bronze.stream.load`."""
    folder = new_folder(planned.table)
    return _staged_messages(planned, folder, stream.load(planned.table, batch, folder, identity, starts))


def stage_offsets(
    planned: Plan, identify: Callable[[], int], starts: Mapping[int, Start], ends: Mapping[int, int]
) -> Staged:
    """Stage the messages of a topic from `starts` to `ends` on a cluster; see `etl.bronze.spark_stream.load`."""
    folder = new_folder(planned.table)
    return _staged_messages(planned, folder, spark_stream.load(planned.table, folder, identify, starts, ends))


def _staged_messages(planned: Plan, folder: Path, loaded: LoadedMessages) -> Staged:
    return Staged(
        planned,
        folder,
        loaded.rows_in,
        loaded.staged,
        0,
        rejected=loaded.rejected,
        changed_days=loaded.changed_days,
        transactions=loaded.transactions,
        spans=loaded.spans,
    )


def _stage_bronze(planned: Plan, folder: Path) -> Staged:
    loaded: Loaded = load(planned.table, planned.interval, folder)
    return Staged(
        planned,
        folder,
        loaded.rows_in,
        loaded.staged,
        loaded.duplicates,
        rejected=loaded.rejected,
        files=loaded.files,
        changed_days=loaded.changed_days,
    )


# --- silver


def _stage_silver(planned: Plan, folder: Path) -> Staged:
    table, superseded = planned.table, 0
    if catalog.table(table.inputs[0]).load == Load.CHANGES:
        planned, incoming, superseded = _incoming_states(planned)
        cleaned = clean(table, incoming, *_other_inputs(planned))
    else:
        incoming, cleaned = _incoming_and_cleaned(planned)
        while displaced := _days_of_later_duplicates(planned, cleaned):
            planned = replace(planned, days=merged((*planned.days, *displaced)))
            incoming, cleaned = _incoming_and_cleaned(planned)
    _ensure_days_are_kept(planned, cleaned)
    rows_in = incoming.count()
    unique = keys_are_unique(table, cleaned, rows_in)
    rows = cleaned if unique else deduplicate(table, cleaned)
    if planned.base is not None and planned.days:
        rows = rows.join(_published_on_other_days(planned, cleaned).select(*table.key), list(table.key), "left_anti")
    if unique and table.time_column and sum(1 for span in planned.days for _ in span.months()) <= MANY_MONTHS:
        write_by_month(table, rows, planned.days, folder)
    else:
        write(table, rows.select(*table.column_names), folder)
    count = count_rows(folder)
    if count != rows_in:  # fewer rows may only mean duplicates: the transform itself must keep every row
        RowAccount(rows_in, cleaned.count(), 0, 0).verify(table.qualified)
    keys = rows_in if unique and count == rows_in else count_keys(table, staged.read(table, folder), count)
    duplicates = rows_in - count + superseded
    return Staged(
        planned, folder, rows_in + superseded, count, duplicates, distinct_keys=keys, changed_days=planned.days
    )


def _incoming_states(planned: Plan) -> tuple[Plan, DataFrame, int]:
    """The current rows of an input of changes, and how many rows of their keys are earlier states or deleted.

    The plan has the days on which changes arrived; the one that is returned has those on which their keys have had a
    state. So a row that moves to another day leaves its old one.
    """
    source = catalog.table(planned.table.inputs[0])
    rows = table_reader.read(source.qualified, planned.inputs[source.qualified])
    if planned.whole:
        current = states.current(source, rows)
        return planned, current, rows.count() - current.count()
    planned = replace(planned, days=states.days_of_arrivals(source, rows, planned.days))
    rows = states.of_keys_on(source, rows, planned.days)
    current = states.current(source, rows)
    on_other_days = current.filter(f"NOT coalesce({days_sql(source, planned.days)}, false)").count()
    superseded = rows.count() - current.count()
    return planned, current.filter(days_sql(source, planned.days)), superseded + on_other_days


def _incoming_and_cleaned(planned: Plan) -> tuple[DataFrame, DataFrame]:
    """The input's rows, and what the transform makes of them."""
    source = catalog.table(planned.table.inputs[0])
    version = planned.inputs[source.qualified]
    incoming = (
        table_reader.read(source.qualified, version)
        if planned.whole
        else read_days(source.qualified, version, planned.days)
    )
    incoming = states.current(source, incoming)
    return incoming, clean(planned.table, incoming, *_other_inputs(planned))


def _other_inputs(planned: Plan) -> list[DataFrame]:
    """The inputs that a transform gets beside its rows."""
    return [
        states.current(catalog.table(name), table_reader.read(name, planned.inputs[name]))
        for name in planned.table.inputs[1:]
    ]


def clean(table: Table, incoming: DataFrame, *others: DataFrame) -> DataFrame:
    """A silver table's columns and bronze's audit columns, from the rows of its inputs: by the project's transform, or
    as its columns are declared.
    """
    if not has_transform(table):
        return select.clean(table, catalog.table(table.inputs[0]), incoming)
    cleaned: DataFrame = transform(table).clean(incoming, *others)
    ensure_columns(table, cleaned, PROVENANCE)
    return cleaned


def _ensure_days_are_kept(planned: Plan, cleaned: DataFrame) -> None:
    """StageError where a transform moves a row to another day than its bronze row has. A run replaces whole days: it
    would replace that one without this row, or with this row alone.
    """
    table = planned.table
    if not has_transform(table) or not table.time_column or not planned.days:
        return
    moved = cleaned.filter(f"{table.time_column} IS NOT NULL AND NOT ({days_sql(table, planned.days)})").count()
    if moved:
        raise StageError(
            f"{table.qualified}: its transform moves {moved:,} rows to other days than {table.inputs[0]} has them"
            f" under. A row's day must be the same in both: declare in bronze the time_column that {table.time_column}"
            " is made of, and keep its day"
        )


def _published_on_other_days(planned: Plan, cleaned: DataFrame) -> DataFrame:
    """The table's published rows of days that this run does not replace. An incoming row with one of their keys is a
    duplicate.

    Rows whose key is outside the range of the incoming keys match none of them and are left out, so that files of a
    long past are skipped by their statistics.
    """
    table, version = planned.table, planned.base or 0
    other_days = f"NOT ({days_sql(table, planned.days)})"
    ranged = [name for name in table.key if table.column(name).type in (LONG, DATE)]
    if not ranged:
        return table_reader.read(table.qualified, version).filter(other_days)
    bounds = cleaned.agg(*map(F.min, ranged), *map(F.max, ranged)).collect()[0]
    ranges = {
        name: (low, high) for name, low, high in zip(ranged, bounds[: len(ranged)], bounds[len(ranged) :], strict=True)
    }
    within = {name: [(low, high)] for name, (low, high) in ranges.items() if low is not None}
    published = table_reader.read(table.qualified, version, within).filter(other_days)
    for name, (low, high) in ranges.items():  # a key that is NULL in every incoming row matches none
        published = published.filter(F.col(name).between(low, high))
    return published


def _days_of_later_duplicates(planned: Plan, cleaned: DataFrame) -> tuple[Interval, ...]:
    """Days with published rows whose key now arrives under an earlier day, which wins. They are computed again, so that
    the order of the runs does not matter.
    """
    table = planned.table
    published = delta.open_table(table.qualified, planned.base) if planned.base is not None and planned.days else None
    extent = delta.extent(published, table) if published else None
    if extent is None or extent.end <= min(span.end for span in planned.days):
        return ()
    day = F.to_date(F.col(table.time_column or ""))
    arriving = cleaned.filter(passes_critical_checks(table)).select(*table.key, day.alias("_day"))
    existing = _published_on_other_days(planned, cleaned).select(*table.key, day.alias("_later"))
    later = existing.join(arriving, list(table.key)).filter("_day < _later").select("_later").distinct()
    return days_of(row["_later"] for row in later.collect())


# --- gold


def _stage_gold(planned: Plan, folder: Path) -> Staged:
    table = planned.table
    if table.load == Load.SNAPSHOT:
        inputs = (table_reader.read(name, version) for name, version in planned.inputs.items())
        rows = transform(table).features(*inputs)
        ensure_columns(table, rows)
    else:
        rows = _features(planned)
    if planned.whole or planned.days:
        write(table, rows.select(*table.column_names), folder)
    count = count_rows(folder)
    keys = count_keys(table, staged.read(table, folder), count)
    return Staged(planned, folder, count, count, 0, distinct_keys=keys, changed_days=planned.days)


def _features(planned: Plan) -> DataFrame:
    """The rows of the planned midnights."""
    table, versions = planned.table, planned.inputs
    if table.aggregates:
        prepare = transform(table).events if table.aggregates.needs_transform else None
        inputs = (
            {name: table_reader.read(name, version) for name, version in versions.items()}
            if planned.whole
            else dependencies.history(table, planned.days, versions)
        )
        if table.is_of_instants:
            return instants.rows(table, table.aggregates, inputs, prepare)
        return aggregate.features(table, planned.days, inputs, prepare)
    needed = merged(windows.history_for(span, reach(table)) for span in planned.days)
    by_day = () if planned.whole else drivers(table)
    frames = [
        read_days(name, version, needed) if name in by_day else table_reader.read(name, version)
        for name, version in versions.items()
    ]
    rows: DataFrame = transform(table).features(planned.days, *frames)
    ensure_columns(table, rows)
    return rows

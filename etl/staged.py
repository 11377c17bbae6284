"""Staged rows: parquet files on the table's own file system that readers do not see until they are published."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pyspark.sql import functions as F

from contracts.interval import Interval
from contracts.model import DATE, Table
from etl import engine
from etl.planning import Plan
from etl.sources.landing import Rejected
from etl.transforms import StageError
from lake import settings, storage
from lake.publishing import days_sql

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


@dataclass
class Staged:
    """What a run has staged under `folder`.

    `rows_in` is counted before anything is dropped; `rejected` are rows whose cells do not fit the columns.
    """

    plan: Plan
    folder: Path
    rows_in: int
    rows: int
    duplicates: int
    distinct_keys: int | None = None
    rejected: list[Rejected] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    changed_days: tuple[Interval, ...] = ()
    transactions: dict[str, int] = field(default_factory=dict)
    """Delta application transactions to commit with the rows: how far a topic was read (see `etl.sources.offsets`)."""
    spans: tuple[tuple[str, str], ...] = ()
    """The first and last name of the messages of each partition, where there are messages instead of files."""

    @property
    def table(self) -> Table:
        """The contract."""
        return self.plan.table

    def frame(self) -> DataFrame:
        """The staged rows, in the contract's columns."""
        return read(self.table, self.folder)

    def paths(self) -> list[Path]:
        """The parquet files to publish, without empty ones.

        StageError unless they hold as many rows as were staged: the engine reads a missing file as an empty one.
        """
        rows = _rows_by_file(self.folder)
        if sum(rows.values()) != self.rows:
            raise StageError(
                f"{self.table.qualified}: {self.rows} rows were staged, and {sum(rows.values())} are there. Nothing was"
                " published. See that nobody removes files below the lake, then run again"
            )
        return [path for path, count in rows.items() if count]

    def keep(self, good: DataFrame) -> None:
        """Replace the staged rows by these, which may be computed from them."""
        folder = self.folder.parent / uuid.uuid4().hex
        write(self.table, good, folder)
        storage.remove_tree(self.folder)  # only now: `good` reads it
        self.folder, self.rows = folder, count_rows(folder)

    def discard(self) -> None:
        """Delete the staged files."""
        storage.remove_tree(self.folder)


def new_folder(table: Table) -> Path:
    """An empty stage on the table's own file system, so that publishing can move files instead of copying them.

    Deletes what a killed run left. The caller holds the table's lock.
    """
    root = settings.table_path(table.qualified) / "_stage"
    storage.remove_tree(root)
    return root / uuid.uuid4().hex


def read(table: Table, folder: Path) -> DataFrame:
    """The rows staged under a folder, in the contract's columns."""
    paths = [path for path, count in _rows_by_file(folder).items() if count]
    if not paths:
        return engine.empty(", ".join(f"{column.name} {column.type.spark}" for column in table.columns))
    return engine.session().read.parquet(*(str(path) for path in paths)).select(*table.column_names)


def write(table: Table, rows: DataFrame, folder: Path) -> None:
    """Stage rows in files by month of the time column, so that replacing a day later rewrites one month at most."""
    if not table.time_column:
        rows.write.mode("overwrite").parquet(str(folder))
        return
    day = F.col(table.time_column) if table.column(table.time_column).type == DATE else F.to_date(table.time_column)
    by_month = rows.withColumn("part", F.year(day) * 100 + F.month(day))  # formatting costs three times as much
    by_month.write.partitionBy("part").mode("overwrite").parquet(str(folder))


def write_by_month(table: Table, rows: DataFrame, days: Sequence[Interval], folder: Path) -> None:
    """Stage rows as `write` does, with one job per month. Where rows are only read, filtered and written, that is
    cheaper than sorting each row into its month.

    Each job partitions by a constant: Sail then writes one file instead of 4 per partition of the plan. Fewer files
    matter, because every later plan goes through all files of a long past.
    """
    for month in (month for span in days for month in span.months()):
        part = F.lit(month.start.year * 100 + month.start.month).alias("part")
        selected = rows.filter(days_sql(table, [month])).select(*table.column_names, part)
        selected.write.partitionBy("part").mode("overwrite").parquet(str(folder / str(month.start)))


def count_rows(folder: Path) -> int:
    """How many rows are staged under a folder, by the files' footers."""
    return sum(_rows_by_file(folder).values())


def _rows_by_file(folder: Path) -> dict[Path, int]:
    return {path: storage.footer(path).num_rows for path in storage.tree(folder, ".parquet")}

"""Stage the landed files of an interval for a bronze table: each file once, each row with its file and load time.

Arrow reads the files, not Spark: a landing zone is many small files, whose errors must be found by file and cell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from contracts.columns import AUDIT_COLUMNS
from contracts.interval import Interval, days_of
from contracts.model import Load, Table
from etl.sources import landing
from etl.sources.landing import LandedFile, Rejected
from lake import delta, settings, storage
from lake.publishing import arrow_type

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

Piece: TypeAlias = "tuple[LandedFile, pa.Table]"
"""Some rows of a landed file."""
READERS = 2
ROW_GROUP = 1 << 20
TICK = timedelta(milliseconds=1)
"""Least time between two loads of a table: bounds in a Delta log may be truncated to milliseconds."""


@dataclass
class Loaded:
    """The result of loading an interval. `rows_in` is counted from the files, independently of the staged rows."""

    rows_in: int = 0
    duplicates: int = 0
    staged: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    changed_days: tuple[Interval, ...] = ()


def load(table: Table, interval: Interval, stage: Path) -> Loaded:
    """Stage the new files in `stage`, one parquet file per month of landing. The caller holds the table's lock.

    A file whose content was loaded for the same day is skipped; under another name its rows count as duplicates. For
    another day it is loaded: an unchanged snapshot is that day's snapshot, too, and silver removes repeated events,
    however the days are split into runs.
    """
    published = delta.open_table(table.qualified)
    loaded = _known_files(table, published, interval) if published else {}
    result, new = Loaded(), []
    digests: dict[str, str] = {}
    for file, digest in landing.digests(table, _landed(table, interval)):
        if (loaded_as := loaded.get((digest, file.day))) is None:
            loaded[digest, file.day] = file.name
            digests[file.name] = digest
            new.append(file)
        elif loaded_as != file.name:
            result.duplicates += sum(content.total for content in landing.parts(table, file))
            result.files.append(file.name)
    result.rows_in = result.duplicates
    days: set[date] = set()
    staging = Staging(table, digests, load_time(table, published), stage)
    with ThreadPoolExecutor(READERS) as pool:
        for month in pool.map(lambda group: staging.month(*group), landing.months(new)):
            result.rows_in += month.rows_in
            result.staged += month.staged
            result.rejected += month.rejected
            days |= month.days
    result.files += [file.name for file in new]
    result.changed_days = days_of(days)
    return result


def _landed(table: Table, interval: Interval) -> list[LandedFile]:
    """The files of the interval; none without a landing zone for a table that has a topic."""
    if table.topic and not storage.is_folder(settings.landing()):
        return []
    return landing.files(table, interval)


def _known_files(table: Table, published: DeltaTable, interval: Interval) -> dict[tuple[str, date], str]:
    """(content hash, day) -> name of each file in the interval, by its newest load. So a file that was corrected and
    then restored is new again.
    """
    import duckdb

    root = settings.table_path(table.qualified)
    within = delta.on_days("_landed_date", [interval])
    files = [str(root / file["path"]) for file in delta.data_files(published, within=within)]
    if not files:
        return {}
    # files of before the table had a topic lack the column
    rows = "FROM read_parquet(?, union_by_name = true) UNION ALL BY NAME SELECT NULL::BIGINT AS _offset WHERE false"
    query = (
        f"SELECT max_by(_file_hash, _loaded_at), _landed_date, _file FROM ({rows}) WHERE _landed_date >= ? AND"
        " _landed_date < ? AND _offset IS NULL GROUP BY ALL"
    )
    with storage.readable(duckdb.connect(), root) as con:
        return {
            (digest, day): name
            for digest, day, name in con.execute(query, [files, interval.start, interval.end]).fetchall()
        }


def load_time(table: Table, published: DeltaTable | None) -> datetime:
    """The time of this load: now, but always after all earlier loads, because it orders deliveries and the clock may be
    set back.
    """
    now = datetime.now(UTC)
    newest = delta.newest_instant(table, published, "_loaded_at") if published else None
    return max(now, newest + TICK) if newest else now


@dataclass
class Month:
    """The result of loading the files of one month, with the days of their rows."""

    rows_in: int = 0
    staged: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    days: set[date] = field(default_factory=set)


@dataclass(frozen=True)
class Staging:
    """The context of a load. `digests` maps each file's name to the hash of its bytes."""

    table: Table
    digests: dict[str, str]
    loaded_at: datetime
    stage: Path

    def month(self, month: str, files: list[LandedFile]) -> Month:
        """Write the rows of these files to one parquet file, file by file: a month may be larger than memory."""
        import pyarrow.parquet as pq

        result = Month()
        with ExitStack() as stack:
            writer = None
            for pieces in _row_groups(self._read(files, result)):
                rows = self._with_audit_columns(pieces)
                if writer is None:
                    storage.make_folder(self.stage)
                    output = stack.enter_context((self.stage / f"{month}.parquet").open("wb"))
                    writer = stack.enter_context(
                        pq.ParquetWriter(output, rows.schema, compression="zstd", store_schema=False)
                    )
                writer.write_table(rows, row_group_size=ROW_GROUP)
        return result

    def _read(self, files: list[LandedFile], result: Month) -> Iterator[Piece]:
        for file, content in landing.read_each(self.table, files):
            result.rows_in += content.total
            result.staged += content.rows.num_rows
            result.rejected += content.rejected
            result.days |= _days(self.table, content.rows, file)
            yield file, content.rows

    def _with_audit_columns(self, pieces: list[Piece]) -> pa.Table:
        """The rows of a row group, with dictionary-encoded constants per file: 20 million hashes would take 1 GB."""
        import pyarrow as pa

        rows = pa.concat_tables([rows for _, rows in pieces])
        positions = np.repeat(np.arange(len(pieces), dtype=np.int32), [rows.num_rows for _, rows in pieces])
        constants = [(file.name, self.digests[file.name], file.day, self.loaded_at) for file, _ in pieces]
        for column, values in zip(AUDIT_COLUMNS, zip(*constants, strict=True), strict=True):
            distinct = pa.array(values, arrow_type(column.type)).dictionary_encode()
            indices = distinct.indices.take(pa.array(positions))
            rows = rows.append_column(column.name, pa.DictionaryArray.from_arrays(indices, distinct.dictionary))
        for column in landing.columns_of_messages(self.table):
            rows = rows.append_column(column.name, pa.nulls(rows.num_rows, arrow_type(column.type)))
        return rows


def _row_groups(pieces: Iterable[Piece]) -> Iterator[list[Piece]]:
    """Combine small files and split large ones into row groups of ROW_GROUP rows."""
    group: list[Piece] = []
    room = ROW_GROUP
    for file, rows in pieces:
        offset = 0
        while offset < rows.num_rows:
            part = rows.slice(offset, room)
            group.append((file, part))
            offset, room = offset + part.num_rows, room - part.num_rows
            if not room:
                yield group
                group, room = [], ROW_GROUP
    if group:
        yield group


def _days(table: Table, rows: pa.Table, file: LandedFile) -> set[date]:
    """The days of the rows; of changes those of their arrival, because they concern other days, too."""
    if table.time_column == "_landed_date" or table.load == Load.CHANGES:
        return {file.day} if rows.num_rows else set()
    return days_in(table, rows)


def days_in(table: Table, rows: pa.Table) -> set[date]:
    """The days in the table's time column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return {day for day in pc.unique(pc.cast(rows[table.time_column], pa.date32())).to_pylist() if day}

"""Load the landed files of an interval into a bronze table's stage: each file once, each row with its file and load time.

Reading is Arrow, not Spark: a landing zone is many small files whose faults must be told apart file by file and cell by cell.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from contracts import settings, storage
from contracts.interval import Interval, days_of
from contracts.model import Table
from etl import delta
from etl.sources import landing
from etl.sources.landing import Content, LandedFile, Rejected

if TYPE_CHECKING:
    import pyarrow as pa

READERS = 2


@dataclass
class Loaded:
    """What the files of an interval came to. `rows_in` is counted from the files themselves, apart from what was staged."""

    rows_in: int = 0
    duplicates: int = 0
    staged: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    touched: tuple[Interval, ...] = ()

    @property
    def anything(self) -> bool:
        """Whether any file was new."""
        return bool(self.files)


def load(table: Table, interval: Interval, stage: Path) -> Loaded:
    """Stage the new files under `stage`, a parquet file per month of landing.

    A file whose content the table holds under the same day already is passed over: in silence under its own name, as duplicates under another. Under another
    day it is loaded: an unchanged snapshot is a snapshot of that day too, and events that come again are duplicates to silver, however the days are cut into runs.
    """
    known = _known_files(table, interval)
    result, fresh = Loaded(), []
    for file in landing.files(table, interval):
        digest = landing.digest(table, file)
        if (known_as := known.get((digest, file.day))) is None:
            known[digest, file.day] = file.name
            fresh.append((file, digest))
        elif known_as != file.name:
            result.duplicates += landing.read(table, file).total
            result.files.append(file.name)
    result.rows_in = result.duplicates
    digests = {file.name: digest for file, digest in fresh}
    days: set[date] = set()
    now = datetime.now(UTC)
    with ThreadPoolExecutor(READERS) as pool:
        groups = list(landing.months([file for file, _ in fresh]))
        for staged, touched, contents in pool.map(lambda group: _stage_month(table, group[0], group[1], digests, now, stage), groups):
            result.staged += staged
            days |= touched
            result.rows_in += sum(content.total for content in contents)
            result.rejected += [row for content in contents for row in content.rejected]
    result.files += [file.name for file, _ in fresh]
    result.touched = days_of(days)
    return result


def _known_files(table: Table, interval: Interval) -> dict[tuple[str, date], str]:
    """Content hash and day -> name, of each file's newest load from folders of the interval. A file that was corrected and then put back is new again."""
    import duckdb

    found = delta.open_table(table.qualified)
    if found is None:
        return {}
    root = settings.table_path(table.qualified)
    files = [str(root / one["path"]) for one in delta.data_files(found, within=delta.on_days("_landed_date", [interval]))]
    if not files:
        return {}
    query = "SELECT max_by(_file_hash, _loaded_at), _landed_date, _file FROM read_parquet(?) WHERE _landed_date >= ? AND _landed_date < ? GROUP BY ALL"
    with storage.readable(duckdb.connect(), root) as con:
        return {(digest, day): name for digest, day, name in con.execute(query, [files, interval.start, interval.end]).fetchall()}


def _stage_month(
    table: Table, month: str, files: list[LandedFile], digests: dict[str, str], now: datetime, stage: Path
) -> tuple[int, set[date], list[Content]]:
    import pyarrow.parquet as pq

    target = stage / f"{month}.parquet"
    contents, days, staged = [], set(), 0
    batches = []
    for file in files:
        content = landing.read(table, file)
        rows = _with_audit_columns(content.rows, file, digests[file.name], now)
        days |= _days(table, rows)
        contents.append(Content(rows.slice(0, 0), content.rejected, content.total))
        batches.append(rows)
        staged += rows.num_rows
    if staged:
        storage.make_folder(stage)
        with target.open("wb") as output, pq.ParquetWriter(output, batches[0].schema, compression="zstd", store_schema=False) as writer:
            for rows in _large(batches):
                writer.write_table(rows, row_group_size=1 << 20)
    return staged, days, contents


def _large(batches: list[pa.Table]) -> Iterator[pa.Table]:
    """Many small files become few row groups, few large ones stay as they are."""
    import pyarrow as pa

    if sum(rows.num_rows for rows in batches) <= 1 << 20:
        yield pa.concat_tables([rows.unify_dictionaries() for rows in batches]).unify_dictionaries()
    else:
        yield from batches


def _with_audit_columns(rows: pa.Table, file: LandedFile, digest: str, now: datetime) -> pa.Table:
    """Constants of a file, dictionary-encoded: 20 million times the same hash would be a gigabyte."""
    import pyarrow as pa

    for name, value in zip(landing.AUDIT_NAMES, (file.name, digest, file.day, now), strict=True):
        kind = pa.timestamp("us", tz="UTC") if name == "_loaded_at" else None
        once = pa.array([value], type=kind)
        rows = rows.append_column(name, pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int8()), rows.num_rows), once))
    return rows


def _days(table: Table, rows: pa.Table) -> set[date]:
    import pyarrow as pa
    import pyarrow.compute as pc

    return {day for day in pc.unique(pc.cast(rows[table.time_column], pa.date32())).to_pylist() if day}

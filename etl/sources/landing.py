"""The landing zone: `<landing>/<table>/<YYYY-MM-DD>/<file>.parquet|csv`. Find the files of an interval and read each into typed rows.

A file that cannot be trusted as a whole (torn, a column missing, a column of another kind) stops the table. A cell that does not fit its column only rejects its row.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts import settings
from contracts.bronze import AUDIT_COLUMNS
from contracts.interval import DAY, Interval
from contracts.model import Column, Table
from etl.publishing import arrow_type

if TYPE_CHECKING:
    import pyarrow as pa

FORMATS = (".parquet", ".csv")
AUDIT_NAMES = tuple(column.name for column in AUDIT_COLUMNS)


class LandingError(RuntimeError):
    """The landing zone, or a file in it, cannot be loaded; the message names table, file and remedy."""


@dataclass(frozen=True)
class LandedFile:
    """One file: `name` is its path relative to the landing zone, `day` its folder's date."""

    path: Path
    name: str
    day: date

    def digest(self) -> str:
        """SHA-256 of the bytes, in hex."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Rejected:
    """A row that has a cell which does not fit: the row as JSON, and why."""

    file: str
    day: date
    row: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Content:
    """What is in a file: the rows that fit, typed as the contract says, the others, and how many there were."""

    rows: pa.Table
    rejected: tuple[Rejected, ...]
    total: int


def require() -> Path:
    """The landing zone, or an error that says how to get one."""
    root = settings.landing()
    if not root.is_dir():
        raise LandingError(
            f"there is no landing zone at {root}. Run `make sample` to land the sample, or set MILLRACE_LANDING to the folder that holds <table>/<YYYY-MM-DD>/<file>"
        )
    return root


def files(table: Table, interval: Interval | None = None) -> list[LandedFile]:
    """The files of a table that landed under a date of the interval (or any), oldest folder first. Hidden and half-written files (.x, _x, x.tmp) are passed over."""
    root = require()
    folder = root / table.name
    found = []
    for day_folder in sorted(folder.iterdir()) if folder.is_dir() else []:
        if not _visible(day_folder):
            continue
        day = _folder_day(table, day_folder)
        if interval is None or day in interval:
            found += [LandedFile(path, str(path.relative_to(root)), day) for path in sorted(day_folder.iterdir()) if _visible(path)]
    for file in found:
        if file.path.suffix not in FORMATS:
            raise LandingError(
                f"{table.qualified}: {file.name} is neither .parquet nor .csv. Land it in one of these formats, or move it out of the landing zone"
            )
    return found


def _visible(path: Path) -> bool:
    return not path.name.startswith((".", "_")) and path.suffix != ".tmp"


def _folder_day(table: Table, folder: Path) -> date:
    try:
        return date.fromisoformat(folder.name)
    except ValueError:
        raise LandingError(
            f"{table.qualified}: the folder {table.name}/{folder.name} is not a date such as {table.name}/2017-01-31. Rename it or move it away"
        ) from None


def coverage(tables: tuple[Table, ...]) -> Interval:
    """The days from the first folder of any of these tables to the last, so that a run outside of them can be refused."""
    days = [file.day for table in tables for file in files(table)]
    if not days:
        raise LandingError(
            f"the landing zone at {settings.landing()} is empty. Run `make sample` to land the sample, or drop files at <table>/<YYYY-MM-DD>/<file>"
        )
    return Interval(min(days), max(days) + DAY)


def read(table: Table, file: LandedFile) -> Content:
    """The file's rows in the contract's columns and types (without the audit columns)."""
    raw, unreadable, total = _read_csv(table, file) if file.path.suffix == ".csv" else _read_parquet(table, file)
    columns = [column for column in table.columns if column.name not in AUDIT_NAMES]
    _refuse_missing(table, file, columns, raw.column_names)
    return _typed(table, file, raw.select([column.name for column in columns]), columns, unreadable, total)


def _read_parquet(table: Table, file: LandedFile) -> tuple[pa.Table, list[Rejected], int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(file.path) as reader:
            return reader.read(), [], reader.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(table, file, "parquet", error) from error


def _read_csv(table: Table, file: LandedFile) -> tuple[pa.Table, list[Rejected], int]:
    """Every cell as text: types are judged later, cell by cell, so that one bad cell costs one row."""
    import pyarrow as pa
    from pyarrow import csv

    ragged: list[Rejected] = []

    def keep(row: Any) -> str:
        reason = f"the line has {row.actual_columns} fields, the header has {row.expected_columns}"
        ragged.append(Rejected(file.name, file.day, json.dumps({"line": row.text}), (reason,)))
        return "skip"

    names = [column.name for column in table.columns]
    convert = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""], quoted_strings_can_be_null=False)
    try:
        rows = csv.read_csv(file.path, convert_options=convert, parse_options=csv.ParseOptions(invalid_row_handler=keep, newlines_in_values=True))
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(table, file, "CSV", error) from error
    return rows, ragged, rows.num_rows + len(ragged)


def _unreadable(table: Table, file: LandedFile, kind: str, error: Exception) -> LandingError:
    return LandingError(
        f"{table.qualified}: {file.name} cannot be read as {kind} ({str(error).rstrip('.')}). Land the file again; nothing of this table was published"
    )


def _refuse_missing(table: Table, file: LandedFile, columns: list[Column], got: list[str]) -> None:
    missing = [column.name for column in columns if column.name not in got]
    if not missing:
        return
    extra = [name for name in got if name not in table.column_names]
    guesses = [f"{near[0]} instead of {name}" for name in missing if (near := difflib.get_close_matches(name, extra, 1, 0.5))]
    hint = f" Renamed? It has {', '.join(guesses)}." if guesses else ""
    raise LandingError(
        f"{table.qualified}: {file.name} lacks {len(missing)} column{'s' * (len(missing) > 1)}: {', '.join(missing)}. Got: {', '.join(got)}.{hint}"
        f" Land the file again with the columns of contracts/bronze/{table.name}.py; nothing of this table was published"
    )


def _typed(table: Table, file: LandedFile, raw: pa.Table, columns: list[Column], unreadable: list[Rejected], total: int) -> Content:
    import pyarrow as pa

    reasons: dict[int, list[str]] = {}
    arrays = []
    for column in columns:
        values, bad = _cast(table, file, raw.column(column.name), column)
        arrays.append(values)
        for row, text in bad:
            reasons.setdefault(row, []).append(f"{column.name} is {text!r}, not a {column.type.spark}")
    rows = pa.table(arrays, names=[column.name for column in columns])
    if not reasons:
        return Content(rows, tuple(unreadable), total)
    rejected = [Rejected(file.name, file.day, _as_json(raw.slice(row, 1)), tuple(why)) for row, why in sorted(reasons.items())]
    keep = pa.array([row not in reasons for row in range(rows.num_rows)])
    return Content(rows.filter(keep), (*unreadable, *rejected), total)


def _cast(table: Table, file: LandedFile, values: pa.ChunkedArray, column: Column) -> tuple[pa.ChunkedArray, list[tuple[int, Any]]]:
    """The column in its type, and the cells that do not fit (row, value); those become NULL."""
    import pyarrow as pa

    try:
        return _cast_all(values, column), []
    except pa.ArrowNotImplementedError as error:
        raise LandingError(
            f"{table.qualified}: {file.name} has {column.name} as {values.type}, and a {column.type.spark} is expected. Land the file again with that type; nothing of this table was published"
        ) from error
    except pa.ArrowInvalid:
        return _cast_each(values, column)


def _cast_all(values: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = arrow_type(column.type)
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    if pa.types.is_boolean(values.type) and not pa.types.is_boolean(wanted):
        raise pa.ArrowNotImplementedError(f"boolean is not {wanted}")
    if not pa.types.is_timestamp(wanted):
        return values.cast(wanted)
    if not pa.types.is_timestamp(values.type):
        values = _instants(values)
    if values.type.tz is None:
        values = pc.assume_timezone(values.cast(pa.timestamp("us"), safe=False), "UTC")
    return values.cast(wanted, safe=False)


def _instants(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """ISO dates or timestamps as text, with up to nine digits of a second."""
    import pyarrow as pa

    try:
        return values.cast(pa.timestamp("us"))
    except pa.ArrowInvalid:
        return values.cast(pa.timestamp("ns")).cast(pa.timestamp("us"), safe=False)


def _cast_each(values: pa.ChunkedArray, column: Column) -> tuple[pa.ChunkedArray, list[tuple[int, Any]]]:
    import pyarrow as pa

    cells, bad = [], []
    for row, cell in enumerate(values):
        try:
            cells.append(_cast_all(pa.chunked_array([[cell.as_py()]], type=values.type), column)[0].as_py())
        except pa.ArrowInvalid:
            cells.append(None)
            bad.append((row, cell.as_py()))
    return pa.chunked_array([pa.array(cells, type=arrow_type(column.type))]), bad


def _as_json(row: pa.Table) -> str:
    return json.dumps(row.to_pylist()[0], default=str)


def months(found: list[LandedFile]) -> Iterator[tuple[str, list[LandedFile]]]:
    """The files in groups by the month in which they landed, such as `2017-01`."""
    groups: dict[str, list[LandedFile]] = {}
    for file in found:
        groups.setdefault(f"{file.day:%Y-%m}", []).append(file)
    yield from groups.items()

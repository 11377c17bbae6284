"""The landing zone: `<landing>/<table>/<YYYY-MM-DD>/<file>.parquet|csv`, in a folder or in a bucket.

Find the files of an interval and read each into typed rows. A file that cannot be trusted (cut short, a missing column,
a column of another type) stops the table. A cell that does not fit its column only rejects its row.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal, InvalidOperation
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np

from contracts.columns import AUDIT_COLUMNS, CHANGE_COLUMNS, STREAM_COLUMNS
from contracts.interval import DAY, Interval
from contracts.model import BOOLEAN, DATE, DOUBLE, LONG, STRING, TIMESTAMP, Column, DecimalType, Table, Type
from etl.sources import csv_lines
from etl.sources.csv_lines import LineError, Lines
from lake import settings, storage
from lake.publishing import arrow_type
from lake.storage import Mark, Source

if TYPE_CHECKING:
    import pyarrow as pa

    from lake.storage import AnyEntry

FORMATS = (".parquet", ".csv")
MAGIC = {b"PAR1": "it is a parquet file, so its name should end in .parquet", b"\x1f\x8b": "it is compressed by gzip"}
"""First bytes of files that are not CSV -> what they are."""
BLOCK = 1 << 20
"""Block size of the CSV parser in bytes, unless a record needs more: its own default."""
LARGEST_BLOCK = 2**31 - 1
"""The parser's limit."""
CACHE_BYTES = 32 << 20
"""Bytes of small objects that a load caches between hashing and reading them."""
NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
LONGEST_NUMBER = 4000
"""Characters of a number, at most: Python takes no more digits, and time with the square of them."""
LONGEST_SHOWN = 100
"""Characters of a cell in a reason."""
PART_ROWS = 1 << 20
"""Rows of a parquet file that are in memory at a time, or those of one row group."""
FEW_CELLS = 64
"""Up to this many cells, of which one does not fit, are cast one by one."""
ADDED_NAMES = tuple(column.name for column in (*AUDIT_COLUMNS, *STREAM_COLUMNS, *CHANGE_COLUMNS))
YEARS = (1900, 2199)
"""First and last year of folders and of time columns. Dates outside are placeholders (0001-01-01, 9999-12-31) or in
the wrong unit, and must not enter date arithmetic.
"""


class LandingError(RuntimeError):
    """The landing zone, or a file in it, cannot be loaded; the message names table, file and remedy."""


@dataclass(frozen=True)
class LandedFile:
    """One file: `name` is its path relative to the landing zone, `day` its folder's date.

    `source` is the version of the file that was hashed; None if it was not hashed.
    """

    path: Path
    name: str
    day: date
    source: Source | None = None


@dataclass(frozen=True)
class Rejected:
    """A row with a cell that does not fit its column: the row as JSON, and the reasons."""

    file: str
    day: date
    row: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Content:
    """The content of a file: valid rows in the contract's types, rejected rows, and the number of all."""

    rows: pa.Table
    rejected: tuple[Rejected, ...]
    total: int


Raw: TypeAlias = "tuple[pa.Table, list[Rejected], int]"
"""Rows before the cast to the contract's types, rows that could not be parsed, and the number of all."""


def require() -> Path:
    """The path of the landing zone; LandingError when there is none."""
    root = settings.landing()
    if not storage.is_folder(root):
        raise LandingError(
            f"there is no landing zone at {root}. Run `make sample` to land the sample, or set MILLRACE_LANDING to the"
            " folder that holds <table>/<YYYY-MM-DD>/<file>"
        )
    return root


def files(table: Table, interval: Interval | None = None) -> list[LandedFile]:
    """The files of a table that landed on a day of the interval (or any day), oldest folder first.

    Hidden and unfinished files (.x, _x, x.tmp) are skipped. Symbolic links are only followed within the landing zone.
    """
    root = require()
    days = _days(root, table, interval)
    folders = [folder for _, folder in days]
    landed = []
    listings = _visible_contents(table, root, folders, storage.entries_of(folders))
    for (day, folder), listing in zip(days, listings, strict=True):
        name = _relative(root, folder)
        for entry in sorted(listing, key=lambda entry: entry.name):
            file = LandedFile(_as_path(root, entry.path), f"{name}/{entry.name}", day)
            landed.append((entry, file))
    for entry, file in landed:
        _ensure_format(table, file, entry)
    return [file for _, file in landed]


def marks(table: Table) -> dict[date, dict[str, Mark]]:
    """The mark of each file that a run would load, by its path in the table's folder, for each day with files. Nothing
    is refused here.
    """
    days: dict[date, dict[str, Mark]] = {}
    for path, mark in storage.marks(settings.landing() / table.name).items():
        folder, _, name = path.partition("/")
        day = _day_of(folder)
        if day and _visible(folder) and _visible(name):
            days.setdefault(day, {})[path] = mark
    return days


def _as_path(root: Path, path: str) -> Path:
    """The path of an entry, in the class of the landing zone's path."""
    return type(root)(path)


def columns_of_messages(table: Table) -> tuple[Column, ...]:
    """The columns of a table with a topic that rows of files leave NULL."""
    return (*(STREAM_COLUMNS if table.topic else ()), *(CHANGE_COLUMNS if table.is_change_stream else ()))


def digest(table: Table, file: LandedFile) -> tuple[str, Source]:
    """SHA-256 of the file's bytes, in hex, and the version of the file that has it."""
    try:
        return storage.digest(file.path)
    except OSError as error:
        raise _unreadable(table, file, "a file", error.strerror or str(error)) from error


def digests(table: Table, landed: Sequence[LandedFile]) -> Iterator[tuple[LandedFile, str]]:
    """Each file, in order, with the SHA-256 of its bytes.

    Each file's `source` is the version that was hashed: `read` raises ChangedError if the file has changed since. Small
    objects are cached, up to CACHE_BYTES, and not fetched again.
    """
    cached_bytes = 0
    hashes = storage.map_concurrently(partial(digest, table), landed, settings.landing())
    for file, (sha256, source) in zip(landed, hashes, strict=True):
        cached_bytes += source.cached_bytes
        if cached_bytes > CACHE_BYTES:
            source.release()
        yield LandedFile(file.path, file.name, file.day, source), sha256


def _days(root: Path, table: Table, interval: Interval | None = None) -> list[tuple[date, str]]:
    """The day folders of a table, oldest first: as strings and with cached dates, because there can be thousands."""
    start, end = (interval.start, interval.end) if interval else (date.min, date.max)
    days = []
    folder = root / table.name
    if not storage.is_remote(root):
        if folder.is_symlink():
            _ensure_inside(table, root, str(folder))
        if not folder.is_dir():
            return []
    for entry in _visible_entries(table, root, str(folder)):
        day = _day_of(entry.name)
        if not day or not entry.is_dir():
            _raise_for_folder(table, entry)
        if start <= day < end:
            days.append((day, entry.path))
    return sorted(days)


def _visible_entries(table: Table, root: Path, folder: str) -> list[AnyEntry]:
    """The contents of a folder, without hidden and unfinished files."""
    return next(_visible_contents(table, root, [folder], map(storage.entries, [folder])))


def _visible_contents(
    table: Table,
    root: Path,
    folders: Sequence[str],
    listings: Iterator[Sequence[AnyEntry]],
) -> Iterator[list[AnyEntry]]:
    """The contents of each folder, without hidden and unfinished files.

    Raises LandingError for a name that is not UTF-8, and for a link out of the landing zone.
    """
    for folder in folders:
        try:
            listing = next(listings)
        except OSError as error:
            raise LandingError(
                f"{table.qualified}: the folder {_relative(root, folder)} cannot be listed ({error.strerror}). Let this"
                " user read it, then run again"
            ) from error
        visible = [entry for entry in listing if _visible(entry.name)]
        for entry in visible:
            if not entry.name.isascii():
                _ensure_utf8(table, root, entry.path)
            if entry.is_symlink():
                _ensure_inside(table, root, entry.path)
        yield visible


def _prefix(root: Path) -> str:
    return str(root).rstrip("/") + "/"


def _relative(root: Path, path: str) -> str:
    """The path relative to the landing zone."""
    return path.removeprefix(_prefix(root))


def _ensure_utf8(table: Table, root: Path, path: str) -> None:
    """Raise LandingError for a name that is not UTF-8: Python's surrogates fit in no table or log."""
    name = _relative(root, path)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise LandingError(
            f"{table.qualified}: the name {os.fsencode(name)!r} in the landing zone is not UTF-8. Rename it, then run"
            " again"
        ) from None


def _ensure_inside(table: Table, root: Path, link: str) -> None:
    """Raise LandingError for a symbolic link out of the landing zone, which may be a link itself. The target is not
    opened.
    """
    name = _relative(root, link)
    try:
        target = os.path.realpath(link, strict=True)
    except OSError as error:
        raise LandingError(
            f"{table.qualified}: {name} is a symbolic link that cannot be followed ({error.strerror}). Land the file or"
            " folder itself, or remove the link"
        ) from None
    zone = os.path.realpath(root)
    if os.path.commonpath((zone, target)) != zone:
        raise LandingError(
            f"{table.qualified}: {name} is a symbolic link out of the landing zone, which is not followed. Land the"
            " file or folder itself, or remove the link"
        )


def _ensure_format(table: Table, file: LandedFile, entry: AnyEntry) -> None:
    if not entry.is_file():
        raise LandingError(
            f"{table.qualified}: {file.name} is not a file. Land files at {table.name}/{file.day}/<file>, or move it"
            " out of the landing zone"
        )
    if file.path.suffix.lower() in FORMATS and file.path.suffix not in FORMATS:
        raise LandingError(
            f"{table.qualified}: {file.name} ends in {file.path.suffix}. Rename it to end in"
            f" {file.path.suffix.lower()}, in small letters"
        )
    if file.path.suffix not in FORMATS:
        raise LandingError(
            f"{table.qualified}: {file.name} is neither .parquet nor .csv. Land it in one of these formats, or move it"
            " out of the landing zone"
        )


def _visible(name: str) -> bool:
    return not name.startswith((".", "_")) and not name.endswith(".tmp")


@lru_cache(1 << 16)
def _day_of(name: str) -> date | None:
    """The day that a folder's name stands for; None when it is not a date in YEARS."""
    try:
        day = date.fromisoformat(name)
    except ValueError:
        return None
    return day if YEARS[0] <= day.year <= YEARS[1] else None


def _raise_for_folder(table: Table, entry: AnyEntry) -> NoReturn:
    """Raise LandingError: the entry is not the folder of a day."""
    name = f"{table.name}/{entry.name}"
    if not entry.is_dir():
        raise LandingError(
            f"{table.qualified}: {name} lies outside of any day. Move it to the folder of its day, such as"
            f" {table.name}/2017-01-31/{entry.name}"
        )
    try:
        date.fromisoformat(entry.name)
    except ValueError:
        raise LandingError(
            f"{table.qualified}: the folder {name} is not a date such as {table.name}/2017-01-31. Rename it or move it"
            " away"
        ) from None
    raise LandingError(
        f"{table.qualified}: the folder {name} is not a date between {YEARS[0]} and {YEARS[1]}. Rename it or move it"
        " away"
    )


def coverage(tables: tuple[Table, ...], streamed: Sequence[Interval] = ()) -> Interval:
    """The days from the first to the last folder of these tables, and those that are `streamed`. LandingError when
    there is none.
    """
    if streamed and not storage.is_folder(settings.landing()):
        return Interval(min(span.start for span in streamed), max(span.end for span in streamed))
    _ensure_tables_are_spelled_right(tables)
    ends = [day for table in tables for day in _ends(table)]
    ends += [day for span in streamed for day in (span.start, span.end - DAY)]
    if not ends:
        raise LandingError(
            f"the landing zone at {settings.landing()} is empty. Run `make sample` to land the sample, or drop files at"
            " <table>/<YYYY-MM-DD>/<file>"
        )
    return Interval(min(ends), max(ends) + DAY)


def _ends(table: Table) -> Iterator[date]:
    """The first and the last day with a file of the table. The folders in between are not listed."""
    root = require()
    days = _days(root, table)
    for outside_in in (days, reversed(days)):
        yield from islice((day for day, folder in outside_in if _visible_entries(table, root, folder)), 1)


def _ensure_tables_are_spelled_right(tables: tuple[Table, ...]) -> None:
    """Raise LandingError for a folder whose name is close to a table's: it would silently never be loaded."""
    names = [table.name for table in tables]
    for folder in sorted(storage.entries(str(require())), key=lambda entry: entry.name):
        near = difflib.get_close_matches(folder.name, names, 1, 0.8)
        if _visible(folder.name) and near and folder.name not in names:
            raise LandingError(
                f"the landing zone has {_printable(folder.name)}, which is the name of no table. Rename it to"
                f" {near[0]}, or move it away, then run again"
            )


def _printable(name: str) -> str:
    """The name, with escapes for bytes that are not UTF-8."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def read(table: Table, file: LandedFile) -> Content:
    """The file's rows in the contract's columns and types (without the audit columns)."""
    return _read(table, file, file.source or storage.source(file.path))


def read_each(table: Table, landed: Sequence[LandedFile]) -> Iterator[tuple[LandedFile, Content]]:
    """Each file, in order, with its rows: large parquet files in several parts. Small objects are prefetched."""
    sources = (file.source or storage.source(file.path) for file in landed)
    fetched = storage.map_concurrently(lambda source: source.fetch(), sources, settings.landing())
    for file, source in zip(landed, fetched, strict=True):
        for content in parts(table, file, source):
            yield file, content
        source.release()


def parts(table: Table, file: LandedFile, source: Source | None = None) -> Iterator[Content]:
    """`read` in parts of some PART_ROWS rows, where a parquet file has more than one row group."""
    source = source or file.source or storage.source(file.path)
    if file.path.suffix == ".csv":
        yield _read(table, file, source)
        return
    columns = [column for column in table.columns if column.name not in ADDED_NAMES]
    for raw in _parquet_parts(table, file, source, columns):
        yield _typed(table, file, _renamed(raw, columns), columns, [], raw.num_rows)
    source.ensure_unchanged()


def _parquet_parts(table: Table, file: LandedFile, source: Source, columns: list[Column]) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(source.for_arrow()) as reader:
            _ensure_columns(table, file, columns, reader.schema_arrow.names)
            for groups in _groups(reader.metadata):
                yield reader.read_row_groups(groups)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(table, file, "parquet", error) from error


def _groups(metadata: Any) -> Iterator[list[int]]:
    """Row groups that have at least PART_ROWS rows together; one list, even if it is empty."""
    groups, rows = [], 0
    for number in range(metadata.num_row_groups):
        groups.append(number)
        rows += metadata.row_group(number).num_rows
        if rows >= PART_ROWS and number + 1 < metadata.num_row_groups:
            yield groups
            groups, rows = [], 0
    yield groups


def _renamed(raw: pa.Table, columns: Sequence[Column]) -> pa.Table:
    """The contract's columns, under its names; NULLs where the file has no such column."""
    import pyarrow as pa

    missing = pa.chunked_array([pa.nulls(raw.num_rows)])
    sources, got = [column.source_name for column in columns], {*raw.column_names}
    cells = [raw.column(name) if name in got else missing for name in sources]
    return pa.table(cells, names=[column.name for column in columns])


def _read(table: Table, file: LandedFile, source: Source) -> Content:
    columns = [column for column in table.columns if column.name not in ADDED_NAMES]
    raw, unreadable, total = (_read_csv if file.path.suffix == ".csv" else _read_parquet)(table, file, source, columns)
    source.ensure_unchanged()
    return _typed(table, file, _renamed(raw, columns), columns, unreadable, total)


def _read_parquet(table: Table, file: LandedFile, source: Source, columns: list[Column]) -> Raw:
    """The columns in the file's types. Rows of a parquet file cannot fail one by one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(source.for_arrow()) as reader:
            _ensure_columns(table, file, columns, reader.schema_arrow.names)
            return reader.read(), [], reader.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(table, file, "parquet", error) from error


def _read_csv(table: Table, file: LandedFile, source: Source, columns: list[Column]) -> Raw:
    """Every cell as text: casting comes later, cell by cell, so that one bad cell rejects one row.

    Raises LandingError unless the parser finds as many records as the lines have.
    """
    import pyarrow as pa
    from pyarrow import csv

    lines = _lines(table, file, source, columns)
    _ensure_columns(table, file, columns, lines.header)
    reason = "a cell goes on after its closing quote"
    malformed = csv_lines.text(source, lines.malformed)
    rejected = [Rejected(file.name, file.day, json.dumps({"line": line}), (reason,)) for line in malformed]

    def reject(row: Any) -> str:
        reason = f"the line has {row.actual_columns} fields, the header has {row.expected_columns}"
        rejected.append(Rejected(file.name, file.day, json.dumps({"line": row.text}), (reason,)))
        return "skip"

    names = [column.source_name for column in columns if column.source_name in lines.header]
    convert = csv.ConvertOptions(
        include_columns=names,
        column_types=dict.fromkeys(names, pa.string()),
        strings_can_be_null=True,
        null_values=[""],
        quoted_strings_can_be_null=False,
    )
    parse = csv.ParseOptions(invalid_row_handler=reject, newlines_in_values=lines.spanning)
    content = pa.BufferReader(csv_lines.without(source, lines.malformed)) if lines.malformed else source.for_arrow()
    try:
        rows = csv.read_csv(content, csv.ReadOptions(block_size=_block_size(table, file, lines)), parse, convert)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(table, file, "CSV", type(error).__name__) from None  # the parser's message may quote a cell
    if rows.num_rows + len(rejected) != lines.records:
        raise _unreadable(
            table,
            file,
            "CSV",
            f"its lines hold {lines.records:,} records, and {rows.num_rows + len(rejected):,} were read",
        )
    return rows, rejected, lines.records


def _block_size(table: Table, file: LandedFile, lines: Lines) -> int:
    """The parser's block size in bytes: at least a record, and the whole file where records span lines.

    Arrow drops the LF of a CR LF in a cell that spans two blocks (apache/arrow#51368).
    """
    needed = max(BLOCK, (lines.size if lines.spanning else lines.longest) + 1)
    if needed > LARGEST_BLOCK:
        raise _unreadable(
            table,
            file,
            "CSV",
            f"it holds cells of several lines and more than {LARGEST_BLOCK >> 20:,} MiB",
            " Split it.",
        )
    return needed


def _lines(table: Table, file: LandedFile, source: Source, columns: list[Column]) -> Lines:
    """Scan the file's lines; LandingError where they do not add up to records. The message has no cell of the file."""
    try:
        with source.open("rb") as content:
            start = content.read(4)
        if other_format := next((what for magic, what in MAGIC.items() if start.startswith(magic)), ""):
            raise _unreadable(table, file, "CSV", other_format)
        return csv_lines.scan(source, [column.source_name for column in columns if column.multiline])
    except LineError as error:
        remedy = ""
        if error.column is not None:
            where = (
                f"in column {error.column}"
                if error.column in {column.source_name for column in columns}
                else "in a column that the contract does not have"
            )
            remedy = (
                " Close the quote, or double it where it belongs to the cell; a cell may hold line breaks where"
                f" contracts/bronze/{table.name}.py says multiline=True."
            )
            raise _unreadable(table, file, "CSV", f"line {error.line} {error}, {where}", remedy) from None
        raise _unreadable(table, file, "CSV", f"line {error.line} {error}") from None
    except OSError as error:
        raise _unreadable(table, file, "CSV", error.strerror or str(error)) from error


def _unreadable(
    table: Table, file: LandedFile, file_format: str, error: Exception | str, remedy: str = ""
) -> LandingError:
    message = " ".join(str(error).split()).rstrip(".")
    return LandingError(
        f"{table.qualified}: {file.name} cannot be read as {file_format} ({message}).{remedy} Land the file again;"
        " nothing of this table was published"
    )


def _ensure_columns(table: Table, file: LandedFile, columns: list[Column], got: Sequence[str]) -> None:
    _ensure_none_is_missing(table, file, columns, got)
    _ensure_no_duplicates(table, file, columns, got)


def _ensure_none_is_missing(table: Table, file: LandedFile, columns: list[Column], got: Sequence[str]) -> None:
    """Raise LandingError for a required column that is missing, and for an optional one that looks renamed. Other
    optional columns may be missing: files of before they were declared do not have them.
    """
    expected = [column.source_name for column in columns]
    extra = {name.strip().lower(): name for name in got if name not in expected}
    missing = [
        column.source_name
        for column in columns
        if column.source_name not in got
        and (column.required or difflib.get_close_matches(column.source_name.lower(), extra, 1, 0.8))
    ]
    if not missing and not any(name in got for name in expected):
        missing = expected
    if not missing:
        return
    guesses = [
        f"{extra[near[0]]} instead of {name}"
        for name in missing
        if (near := difflib.get_close_matches(name, extra, 1, 0.5))
    ]
    hint = f" Got: {', '.join(got)}." + (f" Renamed? It has {', '.join(guesses)}." if guesses else "")
    if blank := [name for name in got if name != name.strip() and name.strip() in missing]:
        hint = (
            f" Got: {', '.join(map(repr, got))}. Remove the blanks around {', '.join(name.strip() for name in blank)}"
            " in its header."
        )
    if file.path.suffix == ".csv" and not any(
        difflib.get_close_matches(name.strip().lower(), [name.lower() for name in expected], 1, 0.8) for name in got
    ):
        # Without a header the first line is data, which no message may show.
        hint = " Its first line names no column of the contract. Is the header missing?"
        if len(got) == 1 and len(columns) > 1:
            hint = " Its first line has no comma. Separated by something else? A comma is expected."
    raise LandingError(
        f"{table.qualified}: {file.name} lacks {len(missing)} column{'s' * (len(missing) > 1)}:"
        f" {', '.join(missing)}.{hint} Land the file again with the columns of contracts/bronze/{table.name}.py;"
        " nothing of this table was published"
    )


def _ensure_no_duplicates(table: Table, file: LandedFile, columns: list[Column], got: Sequence[str]) -> None:
    duplicates = [column.source_name for column in columns if got.count(column.source_name) > 1]
    if duplicates:
        raise LandingError(
            f"{table.qualified}: {file.name} has {', '.join(duplicates)} more than once. Got: {', '.join(got)}. Land"
            f" the file again with the columns of contracts/bronze/{table.name}.py; nothing of this table was published"
        )


def _typed(
    table: Table, file: LandedFile, raw: pa.Table, columns: list[Column], unreadable: list[Rejected], total: int
) -> Content:
    import pyarrow as pa

    rows, reasons = cast_cells(table, file, raw, columns)
    if not reasons:
        return Content(rows, tuple(unreadable), total)
    by_row = sorted(reasons.items())
    texts = _as_json(raw.take(pa.array([row for row, _ in by_row])))
    rejected = [
        Rejected(file.name, file.day, text, tuple(causes)) for text, (_, causes) in zip(texts, by_row, strict=True)
    ]
    keep = pa.array([row not in reasons for row in range(rows.num_rows)])
    return Content(rows.filter(keep), (*unreadable, *rejected), total)


def cast_cells(
    table: Table, file: LandedFile, raw: pa.Table, columns: Sequence[Column]
) -> tuple[pa.Table, dict[int, list[str]]]:
    """The rows in the columns' types, and why some of them do not fit: row -> reasons. Such a row has NULLs."""
    import pyarrow as pa

    reasons: dict[int, list[str]] = {}
    arrays = []
    for column in columns:
        values, bad = _cast(table, file, raw.column(column.name), column)
        arrays.append(values)
        for row, value in bad:
            reasons.setdefault(row, []).append(f"{column.name} is {_shown(value)}, not a {_expected(table, column)}")
    return pa.table(arrays, names=[column.name for column in columns]), reasons


def _cast(
    table: Table, file: LandedFile, values: pa.ChunkedArray, column: Column
) -> tuple[pa.ChunkedArray, list[tuple[int, Any]]]:
    """The column in its type, with NULL where a cell does not fit, and those cells as (row, value)."""
    import pyarrow as pa

    try:
        return _cast_cells(table, values, column)
    except pa.ArrowNotImplementedError as error:
        raise LandingError(
            f"{table.qualified}: {file.name} has {column.name} as {values.type}, and a {column.type.spark} is expected."
            " Land the file again with that type; nothing of this table was published"
        ) from error


def _cast_cells(table: Table, values: pa.ChunkedArray, column: Column) -> tuple[pa.ChunkedArray, list[tuple[int, Any]]]:
    """`_cast` in one step; where that fails, each distinct value once."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values, unfit = _decoded(values), np.zeros(len(values), bool)
    try:
        typed = _cast_text(_cast_all(values, column), column)
    except pa.ArrowInvalid:
        distinct = pc.unique(values)
        typed, fails = _cast_distinct(distinct, column)
        positions = pc.index_in(values, value_set=distinct)
        typed, unfit = typed.take(positions), fails[positions.to_numpy()]
    fits = _fits(table, typed, column)
    if fits is not None:
        unfit |= ~pc.fill_null(fits, True).to_numpy()
    if not unfit.any():
        return typed, []
    rows = np.flatnonzero(unfit)
    cells = _plain_cells(values.take(pa.array(rows)))
    return pc.if_else(pa.array(unfit), pa.scalar(None, typed.type), typed), list(zip(rows.tolist(), cells, strict=True))


def _cast_distinct(cells: pa.Array, column: Column) -> tuple[pa.ChunkedArray, np.ndarray]:
    """The cells in the column's type, with NULL where they do not fit, and the mask of those cells.

    A regular expression sorts out most bad cells. The others are found by bisection: one bad cell among a million costs
    some eighty casts, many bad cells one cast each.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if isinstance(column.type, DecimalType) and _is_text(cells.type):
        return _decimals(pa.chunked_array([cells]), column.type)
    unfit = _impossible(cells, column)
    cells = pc.if_else(pa.array(unfit), pa.scalar(None, cells.type), cells)
    parts, waiting = [], [(0, len(cells))]
    while waiting:
        start, stop = waiting.pop()
        part = pa.chunked_array([cells.slice(start, stop - start)])
        try:
            parts += _cast_text(_cast_all(part, column), column, whole=False).chunks
        except pa.ArrowInvalid:
            if stop - start == 1:
                unfit[start] = True
                parts.append(pa.nulls(1, arrow_type(column.type)))
            elif stop - start <= FEW_CELLS:
                waiting += [(at, at + 1) for at in reversed(range(start, stop))]
            else:
                middle = (start + stop) // 2
                waiting += [(middle, stop), (start, middle)]
    return pa.chunked_array([pa.concat_arrays(parts)], type=arrow_type(column.type)), unfit


def _impossible(cells: pa.Array, column: Column) -> np.ndarray:
    """The mask of text cells that cannot be a value of the type; all false for cells that are not text."""
    import pyarrow.compute as pc

    pattern = _pattern(column.type)
    if pattern is None or not _is_text(cells.type):
        return np.zeros(len(cells), bool)
    matched: np.ndarray = pc.fill_null(pc.match_substring_regex(cells, pattern), True).to_numpy(zero_copy_only=False)
    return ~matched


def _pattern(column_type: Type) -> str | None:
    """A regular expression that matches all text which Arrow casts to the type, and some that it does not cast."""
    leap = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29"
    day = (
        "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
        rf"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{leap})"
    )
    clock = r"(?:[01][0-9]|2[0-3])(?::[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,9})?)?)?(?:Z|[+-][0-9:]+)?"
    patterns = {
        LONG: "-?0*(?:[0-9]{1,18}|[1-8][0-9]{18}|9[0-2][0-9]{17})",
        DOUBLE: NUMBER.pattern,
        BOOLEAN: "(?i:true|false|0|1)",
        DATE: day,
        TIMESTAMP: f"{day}(?:[ T]{clock})?",
    }
    return rf"^(?:{patterns[column_type]})$" if column_type in patterns else None


def _decimals(values: pa.ChunkedArray, column_type: DecimalType) -> tuple[pa.ChunkedArray, np.ndarray]:
    """The text cells as decimals, with NULL where they do not fit, and the mask of those cells.

    Arrow only gets text of few digits: it casts 307.0 to a decimal(38,38), and 50 nines to a decimal(12,2), as another
    number, and reads beyond its tables for an exponent such as e-1000.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    target, (whole, scale) = arrow_type(column_type), (column_type.precision - column_type.scale, column_type.scale)
    plain = rf"^[+-]?(?:[0-9]{{1,{whole}}}\.?" if whole else r"^[+-]?(?:0\.?"
    plain += rf"|[0-9]{{0,{whole}}}\.[0-9]{{1,{scale}}})$" if scale else ")$"
    is_plain = pc.fill_null(pc.match_substring_regex(values, plain), True)
    if pc.all(is_plain, min_count=0).as_py():
        return values.cast(target), np.zeros(len(values), bool)
    others = pc.unique(values.filter(pc.invert(is_plain)))
    exact = [_exact(text, column_type) for text in _plain_cells(pa.chunked_array([others]))]
    positions = pc.index_in(values, value_set=others)
    typed = pc.coalesce(
        pc.if_else(is_plain, values, pa.scalar(None, values.type)).cast(target),
        pa.chunked_array([pa.array(exact, target).take(positions.combine_chunks())]),
    )
    unfit: np.ndarray = (pc.is_null(typed).to_numpy()) & ~pc.is_null(values).to_numpy()
    return typed, unfit


def _exact(text: str, column_type: DecimalType) -> Decimal | None:
    """The number that the text is, in a type that holds all of its digits; None where there is none."""
    if len(text) > LONGEST_NUMBER or not NUMBER.fullmatch(text):
        return None
    try:
        sign, digits, exponent = Decimal(text).as_tuple()
    except InvalidOperation:  # an exponent of more than 18 digits
        return None
    number, shift = int("".join(map(str, digits))), int(exponent) + column_type.scale
    if not number:
        return Decimal(0)
    if shift > column_type.precision or -shift > len(digits):
        return None
    scaled, rest = divmod(number * 10 ** max(shift, 0), 10 ** max(-shift, 0))
    if rest or scaled >= 10**column_type.precision:
        return None
    return Decimal((sign, tuple(map(int, str(scaled))), -column_type.scale))


def _is_text(data_type: pa.DataType) -> bool:
    from pyarrow import types

    return bool(types.is_string(data_type) or types.is_large_string(data_type))


def _decoded(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values without dictionary encoding."""
    import pyarrow as pa

    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def _cast_text(values: pa.ChunkedArray, column: Column, *, whole: bool = True) -> pa.ChunkedArray:
    """The values; ArrowInvalid for text that is not UTF-8, which a parquet file may contain."""
    if column.type == STRING and not (whole and _is_ascii(values)):  # `_is_ascii` sees the whole buffers of a slice
        values.validate(full=True)
    return values


def _fits(table: Table, values: pa.ChunkedArray, column: Column) -> pa.ChunkedArray | None:
    """The mask of values that are finite numbers or dates in YEARS; None where the column has no such limit."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.type == DOUBLE:
        return pc.is_finite(values)
    if column.name == table.time_column:
        low, high = (pa.scalar(datetime(year, 1, 1, tzinfo=UTC), values.type) for year in (YEARS[0], YEARS[1] + 1))
        return pc.and_(pc.greater_equal(values, low), pc.less(values, high))
    if column.type in (DATE, TIMESTAMP):  # Arrow knows a year 0 and a year 10000, which Python and JSON do not
        low, high = (
            pa.scalar(bound if column.type == DATE else datetime.combine(bound, clock, UTC), values.type)
            for bound, clock in ((date.min, time.min), (date.max, time.max))
        )
        return pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high))
    return None


def _is_ascii(values: pa.ChunkedArray) -> bool:
    """Whether the text buffers are ASCII: a quick check."""
    contents = (chunk.buffers()[2] for chunk in values.chunks)
    return all(np.frombuffer(content, np.uint8).max(initial=0) < 128 for content in contents if content is not None)


def _expected(table: Table, column: Column) -> str:
    if column.name == table.time_column:
        return f"{column.type.spark} between {YEARS[0]} and {YEARS[1]}"
    return column.type.spark + {DOUBLE: " that is finite", STRING: " in UTF-8"}.get(column.type, "")


def _cast_all(values: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    target = arrow_type(column.type)
    values = _decoded(values)
    if isinstance(column.type, DecimalType) and _is_text(values.type):
        typed, unfit = _decimals(values, column.type)
        if unfit.any():
            raise pa.ArrowInvalid("not a decimal")
        return typed
    if _changes_meaning(values.type, target):
        raise pa.ArrowNotImplementedError(f"{values.type} is not {target}")
    if (
        pa.types.is_integer(target)
        and _is_text(values.type)
        and pc.any(pc.match_substring(values, "x", ignore_case=True)).as_py()
    ):
        raise pa.ArrowInvalid("hexadecimal")  # Arrow would read 0x10 as 16
    if not pa.types.is_timestamp(target):
        return values.cast(target)
    if not pa.types.is_timestamp(values.type):
        values = _instants(values)
    if values.type.tz is None:
        values = pc.assume_timezone(values.cast(pa.timestamp("us"), safe=False), "UTC")
    return values.cast(target, safe=False)


def _changes_meaning(got: pa.DataType, target: pa.DataType) -> bool:
    """Whether Arrow casts, but to another meaning: true to 1, a duration to a number, a number to an instant in an
    unknown unit.
    """
    from pyarrow import types

    if types.is_boolean(got):
        return not types.is_boolean(target)
    if types.is_temporal(target):
        return _is_number(got)
    return types.is_temporal(got) and _is_number(target)


def _is_number(data_type: pa.DataType) -> bool:
    from pyarrow import types

    return bool(types.is_integer(data_type) or types.is_floating(data_type) or types.is_decimal(data_type))


def _instants(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Instants of ISO dates or timestamps, with or without a zone, with up to nine digits of a second."""
    import pyarrow as pa

    for zone in (None, "UTC"):
        for unit in ("us", "ns"):
            with suppress(pa.ArrowInvalid):
                return values.cast(pa.timestamp(unit, zone)).cast(pa.timestamp("us", zone), safe=False)
    raise pa.ArrowInvalid("not a timestamp")


def _plain(cell: pa.Scalar) -> Any:
    """The cell in Python: as text where Python has no such date, with escapes where it is not UTF-8."""
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        return cell.as_buffer().to_pybytes().decode(errors="backslashreplace")
    except (ValueError, OverflowError):
        import pyarrow as pa

        return cell.cast(pa.string()).as_py()


def _plain_cells(cells: pa.ChunkedArray) -> list[Any]:
    """`_plain` of each cell."""
    try:
        values: list[Any] = cells.to_pylist()
    except (ValueError, OverflowError):  # UnicodeDecodeError is a ValueError
        return [_plain(cell) for cell in cells]
    return values


def _shown(value: Any) -> str:
    """A cell for a reason: its beginning, where it is long."""
    shown = repr(str(value) if isinstance(value, date) else value)
    return shown if len(shown) <= LONGEST_SHOWN else f"{shown[:LONGEST_SHOWN]}... ({len(shown):,} characters)"


def _as_json(rows: pa.Table) -> list[str]:
    """The rows as JSON objects."""
    cells = [_plain_cells(column) for column in rows.columns]
    return [json.dumps(dict(zip(rows.column_names, row, strict=True)), default=str) for row in zip(*cells, strict=True)]


def months(landed: list[LandedFile]) -> Iterator[tuple[str, list[LandedFile]]]:
    """The files grouped by month of landing, such as `2017-01`."""
    groups: dict[str, list[LandedFile]] = {}
    for file in landed:
        groups.setdefault(f"{file.day:%Y-%m}", []).append(file)
    yield from groups.items()

"""The landing zone: `<landing>/<table>/<YYYY-MM-DD>/<file>.parquet|csv`, in a folder or in a bucket.

Find the files of an interval and read each into typed rows. A file that cannot be trusted as a whole (torn, a column
missing, a column of another kind) stops the table. A cell that does not fit its column only rejects its row.
"""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

import numpy as np

from contracts.columns import AUDIT_COLUMNS
from contracts.interval import DAY, Interval
from contracts.model import BOOLEAN, DATE, DOUBLE, LONG, STRING, TIMESTAMP, Column, DecimalType, Table, Type
from etl.sources import csv_lines
from etl.sources.csv_lines import LineError, Lines
from lake import settings, storage
from lake.publishing import arrow_type
from lake.storage import Source

if TYPE_CHECKING:
    import pyarrow as pa

    from lake.storage import AnyEntry

FORMATS = (".parquet", ".csv")
MAGIC = {b"PAR1": "it is a parquet file, so its name should end in .parquet", b"\x1f\x8b": "it is compressed by gzip"}
"""First bytes of files that are no CSV, and what they are."""
BLOCK = 1 << 20
"""Bytes that the CSV parser works on at a time, if no record needs more: its own default."""
LARGEST_BLOCK = 2**31 - 1
"""More bytes the parser cannot count."""
HELD = 32 << 20
"""Bytes of small objects that a load keeps in memory between hashing and reading them."""
FEW_CELLS = 64
"""Of so many cells that do not all fit, each is cast by itself."""
AUDIT_NAMES = tuple(column.name for column in AUDIT_COLUMNS)
YEARS = (1900, 2199)
"""First and last year of a folder and of a table's time column. A date outside is a placeholder (0001-01-01,
9999-12-31) or a unit mistaken, and days are computed from it.
"""


class LandingError(RuntimeError):
    """The landing zone, or a file in it, cannot be loaded; the message names table, file and remedy."""


@dataclass(frozen=True)
class LandedFile:
    """One file: `name` is its path relative to the landing zone, `day` its folder's date.

    `source` is the file in the state in which it was hashed; None if it was not.
    """

    path: Path
    name: str
    day: date
    source: Source | None = None


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


Raw: TypeAlias = "tuple[pa.Table, list[Rejected], int]"
"""Rows whose types are not judged yet, those that could not be read, and how many there were."""


def require() -> Path:
    """The landing zone, or an error that says how to get one."""
    root = settings.landing()
    if not storage.is_folder(root):
        raise LandingError(
            f"there is no landing zone at {root}. Run `make sample` to land the sample, or set MILLRACE_LANDING to the"
            " folder that holds <table>/<YYYY-MM-DD>/<file>"
        )
    return root


def files(table: Table, interval: Interval | None = None) -> list[LandedFile]:
    """The files of a table that landed under a date of the interval (or any), oldest folder first.

    Hidden and half-written files (.x, _x, x.tmp) are passed over. Symbolic links are followed within the landing zone
    only.
    """
    root = require()
    days = _days(root, table, interval)
    folders = [folder for _, folder in days]
    found = []
    for (day, folder), inside in zip(days, _checked(table, root, folders, storage.entries_of(folders)), strict=True):
        name = _within(root, folder)
        for entry in sorted(inside, key=lambda entry: entry.name):
            file = LandedFile(_as_path(root, entry.path), f"{name}/{entry.name}", day)
            found.append((entry, file))
    for entry, file in found:
        _ensure_format(table, file, entry)
    return [file for _, file in found]


def _as_path(root: Path, path: str) -> Path:
    """The path of an entry, in the class that the landing zone's has."""
    return type(root)(path)


def digest(table: Table, file: LandedFile) -> tuple[str, Source]:
    """SHA-256 of the file's bytes, in hex, and the file in the state that has it."""
    try:
        return storage.digest(file.path)
    except OSError as error:
        raise _unreadable(table, file, "a file", error.strerror or str(error)) from error


def digests(table: Table, found: Sequence[LandedFile]) -> Iterator[tuple[LandedFile, str]]:
    """Each file with the SHA-256 of its bytes, in their order.

    The files are in the states that were hashed: `read` raises ChangedError for one that is in another state by then.
    Of small objects the first HELD bytes stay in memory, and are not fetched again.
    """
    held = 0
    hashes = storage.side_by_side(partial(digest, table), found, settings.landing())
    for file, (sha256, source) in zip(found, hashes, strict=True):
        held += source.held
        if held > HELD:
            source.release()
        yield LandedFile(file.path, file.name, file.day, source), sha256


def _days(root: Path, table: Table, interval: Interval | None = None) -> list[tuple[date, str]]:
    """The day folders of a table, oldest first. A long past has thousands, so they are no `Path`s, and what a name
    means is found once.
    """
    start, end = (interval.start, interval.end) if interval else (date.min, date.max)
    found = []
    folder = root / table.name
    if not storage.is_remote(root):
        if folder.is_symlink():
            _ensure_inside(table, root, str(folder))
        if not folder.is_dir():
            return []
    for entry in _visible_entries(table, root, str(folder)):
        day = _day_of(entry.name)
        if not day or not entry.is_dir():
            _refuse_folder(table, entry)
        if start <= day < end:
            found.append((day, entry.path))
    return sorted(found)


def _visible_entries(table: Table, root: Path, folder: str) -> list[AnyEntry]:
    """What lies in a folder, without hidden and half-written files."""
    return next(_checked(table, root, [folder], map(storage.entries, [folder])))


def _checked(
    table: Table,
    root: Path,
    folders: Sequence[str],
    listings: Iterator[Sequence[AnyEntry]],
) -> Iterator[list[AnyEntry]]:
    """What lies in each folder, without hidden and half-written files.

    Raises LandingError for a name that is not UTF-8, and for a link out of the landing zone.
    """
    for folder in folders:
        try:
            inside = next(listings)
        except OSError as error:
            refusal = f"the folder {_within(root, folder)} cannot be listed ({error.strerror})"
            raise LandingError(f"{table.qualified}: {refusal}. Let this user read it, then run again") from error
        found = [entry for entry in inside if _visible(entry.name)]
        for entry in found:
            if not entry.name.isascii():
                _ensure_utf8(table, root, entry.path)
            if entry.is_symlink():
                _ensure_inside(table, root, entry.path)
        yield found


def _prefix(root: Path) -> str:
    return str(root).rstrip("/") + "/"


def _within(root: Path, path: str) -> str:
    """The path relative to the landing zone."""
    return path.removeprefix(_prefix(root))


def _ensure_utf8(table: Table, root: Path, path: str) -> None:
    """Raise LandingError for a name that Python holds with surrogates; neither a table nor a log can."""
    name = _within(root, path)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise LandingError(
            f"{table.qualified}: the name {os.fsencode(name)!r} in the landing zone is not UTF-8. Rename it, then run"
            " again"
        ) from None


def _ensure_inside(table: Table, root: Path, link: str) -> None:
    """Raise LandingError for a symbolic link whose target is not in the landing zone, which itself may be a link.

    The target is not opened.
    """
    name = _within(root, link)
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
    """The day that a folder's name says; None when it says none."""
    try:
        day = date.fromisoformat(name)
    except ValueError:
        return None
    return day if YEARS[0] <= day.year <= YEARS[1] else None


def _refuse_folder(table: Table, entry: AnyEntry) -> NoReturn:
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


def coverage(tables: tuple[Table, ...]) -> Interval:
    """The days from the first folder of any of these tables to the last, so that a run outside of them can be
    refused.
    """
    _refuse_misspelt_tables(tables)
    ends = [day for table in tables for day in _ends(table)]
    if not ends:
        raise LandingError(
            f"the landing zone at {settings.landing()} is empty. Run `make sample` to land the sample, or drop files at"
            " <table>/<YYYY-MM-DD>/<file>"
        )
    return Interval(min(ends), max(ends) + DAY)


def _ends(table: Table) -> Iterator[date]:
    """The first and the last day under which a file of the table lies; other folders are not looked into."""
    root = require()
    days = _days(root, table)
    for towards_the_middle in (days, reversed(days)):
        yield from islice((day for day, folder in towards_the_middle if _visible_entries(table, root, folder)), 1)


def _refuse_misspelt_tables(tables: tuple[Table, ...]) -> None:
    """A folder under nearly a table's name would never be loaded, and nobody would notice. Other folders are none of
    our business.
    """
    names = [table.name for table in tables]
    for folder in sorted(storage.entries(str(require())), key=lambda entry: entry.name):
        near = difflib.get_close_matches(folder.name, names, 1, 0.8)
        if _visible(folder.name) and near and folder.name not in names:
            raise LandingError(
                f"the landing zone has {_printable(folder.name)}, which is the name of no table. Rename it to"
                f" {near[0]}, or move it away, then run again"
            )


def _printable(name: str) -> str:
    """The name; bytes that are not UTF-8 as escapes."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def read(table: Table, file: LandedFile) -> Content:
    """The file's rows in the contract's columns and types (without the audit columns)."""
    return _read(table, file, file.source or storage.source(file.path))


def read_each(table: Table, found: Sequence[LandedFile]) -> Iterator[tuple[LandedFile, Content]]:
    """Each file with its rows, in their order. Small objects are fetched while those before them are read."""
    sources = (file.source or storage.source(file.path) for file in found)
    fetched = storage.side_by_side(lambda source: source.fetch(), sources, settings.landing())
    for file, source in zip(found, fetched, strict=True):
        content = _read(table, file, source)
        source.release()
        yield file, content


def _read(table: Table, file: LandedFile, source: Source) -> Content:
    columns = [column for column in table.columns if column.name not in AUDIT_NAMES]
    raw, unreadable, total = (_read_csv if file.path.suffix == ".csv" else _read_parquet)(table, file, source, columns)
    source.ensure_same()
    return _typed(
        table,
        file,
        raw.select([column.made_of for column in columns]).rename_columns([column.name for column in columns]),
        columns,
        unreadable,
        total,
    )


def _read_parquet(table: Table, file: LandedFile, source: Source, columns: list[Column]) -> Raw:
    """The columns as they are; no row of a parquet file is unreadable by itself."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(source.for_arrow()) as reader:
            _ensure_columns(table, file, columns, reader.schema_arrow.names)
            return reader.read(), [], reader.metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(table, file, "parquet", error) from error


def _read_csv(table: Table, file: LandedFile, source: Source, columns: list[Column]) -> Raw:
    """Every cell as text: types are judged later, cell by cell, so that one bad cell costs one row.

    Raises LandingError unless the parser comes to as many records as the lines do.
    """
    import pyarrow as pa
    from pyarrow import csv

    lines = _lines(table, file, source, columns)
    _ensure_columns(table, file, columns, lines.header)
    goes_on = "a cell goes on after its closing quote"
    malformed = csv_lines.text(source, lines.malformed)
    rejected = [Rejected(file.name, file.day, json.dumps({"line": line}), (goes_on,)) for line in malformed]

    def keep(row: Any) -> str:
        reason = f"the line has {row.actual_columns} fields, the header has {row.expected_columns}"
        rejected.append(Rejected(file.name, file.day, json.dumps({"line": row.text}), (reason,)))
        return "skip"

    names = [column.made_of for column in columns]
    convert = csv.ConvertOptions(
        include_columns=names,
        column_types=dict.fromkeys(names, pa.string()),
        strings_can_be_null=True,
        null_values=[""],
        quoted_strings_can_be_null=False,
    )
    parse = csv.ParseOptions(invalid_row_handler=keep, newlines_in_values=lines.spanning)
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
    """Bytes that the parser takes at a time: a record at least, and the whole file where records span lines.

    It drops the LF of a CR LF inside of a cell that lies across two blocks (apache/arrow#51368).
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
    """The account of the file's lines; LandingError where they do not add up. Its message holds no cell of the file."""
    try:
        with source.open("rb") as content:
            start = content.read(4)
        if other := next((what for magic, what in MAGIC.items() if start.startswith(magic)), ""):
            raise _unreadable(table, file, "CSV", other)
        return csv_lines.scan(source, [column.made_of for column in columns if column.multiline])
    except LineError as error:
        remedy = ""
        if error.column is not None:
            where = (
                f"in column {error.column}"
                if error.column in {column.made_of for column in columns}
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


def _unreadable(table: Table, file: LandedFile, kind: str, error: Exception | str, remedy: str = "") -> LandingError:
    message = " ".join(str(error).split()).rstrip(".")
    return LandingError(
        f"{table.qualified}: {file.name} cannot be read as {kind} ({message}).{remedy} Land the file again; nothing of"
        " this table was published"
    )


def _ensure_columns(table: Table, file: LandedFile, columns: list[Column], got: Sequence[str]) -> None:
    _refuse_missing(table, file, columns, got)
    _refuse_doubled(table, file, columns, got)


def _refuse_missing(table: Table, file: LandedFile, columns: list[Column], got: Sequence[str]) -> None:
    known = [column.made_of for column in columns]
    missing = [name for name in known if name not in got]
    if not missing:
        return
    extra = {name.strip().lower(): name for name in got if name not in known}
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
        difflib.get_close_matches(name.strip().lower(), [name.lower() for name in known], 1, 0.8) for name in got
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


def _refuse_doubled(table: Table, file: LandedFile, columns: list[Column], got: Sequence[str]) -> None:
    doubled = [column.made_of for column in columns if got.count(column.made_of) > 1]
    if doubled:
        raise LandingError(
            f"{table.qualified}: {file.name} has {', '.join(doubled)} more than once. Got: {', '.join(got)}. Land the"
            f" file again with the columns of contracts/bronze/{table.name}.py; nothing of this table was published"
        )


def _typed(
    table: Table, file: LandedFile, raw: pa.Table, columns: list[Column], unreadable: list[Rejected], total: int
) -> Content:
    import pyarrow as pa

    reasons: dict[int, list[str]] = {}
    arrays = []
    for column in columns:
        values, bad = _cast(table, file, raw.column(column.name), column)
        arrays.append(values)
        for row, value in bad:
            reasons.setdefault(row, []).append(f"{column.name} is {_shown(value)}, not a {_expected(table, column)}")
    rows = pa.table(arrays, names=[column.name for column in columns])
    if not reasons:
        return Content(rows, tuple(unreadable), total)
    why = sorted(reasons.items())
    texts = _as_json(raw.take(pa.array([row for row, _ in why])))
    rejected = [
        Rejected(file.name, file.day, text, tuple(causes)) for text, (_, causes) in zip(texts, why, strict=True)
    ]
    keep = pa.array([row not in reasons for row in range(rows.num_rows)])
    return Content(rows.filter(keep), (*unreadable, *rejected), total)


def _cast(
    table: Table, file: LandedFile, values: pa.ChunkedArray, column: Column
) -> tuple[pa.ChunkedArray, list[tuple[int, Any]]]:
    """The column in its type, and the cells that do not fit (row, value); those become NULL."""
    import pyarrow as pa

    try:
        return _cast_cells(table, values, column)
    except pa.ArrowNotImplementedError as error:
        raise LandingError(
            f"{table.qualified}: {file.name} has {column.name} as {values.type}, and a {column.type.spark} is expected."
            " Land the file again with that type; nothing of this table was published"
        ) from error


def _cast_cells(table: Table, values: pa.ChunkedArray, column: Column) -> tuple[pa.ChunkedArray, list[tuple[int, Any]]]:
    """The whole column at once; where that fails, each distinct value of it once."""
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
    """The cells in the column's type, NULL where they do not fit, and a mask of those.

    What cannot be of the type, by its characters, is not tried. The rest is halved until the cells are found: a bad
    cell among a million costs some eighty casts, not a million. Many bad ones cost a cast each.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

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
    """Which cells of text hold characters that no value of the type has; none of other cells."""
    import pyarrow.compute as pc

    pattern = _pattern(column.type)
    if pattern is None or not _is_text(cells.type):
        return np.zeros(len(cells), bool)
    matched: np.ndarray = pc.fill_null(pc.match_substring_regex(cells, pattern), True).to_numpy(zero_copy_only=False)
    return ~matched


def _pattern(kind: Type) -> str | None:
    """A regular expression that each text matches which Arrow casts to the type, and many that it does not."""
    number = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
    leap = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)-02-29"
    day = (
        "(?:[0-9]{4}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
        rf"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{leap})"
    )
    clock = r"(?:[01][0-9]|2[0-3])(?::[0-5][0-9](?::[0-5][0-9](?:\.[0-9]{1,9})?)?)?(?:Z|[+-][0-9:]+)?"
    patterns = {
        LONG: "-?0*(?:[0-9]{1,18}|[1-8][0-9]{18}|9[0-2][0-9]{17})",
        DOUBLE: number,
        BOOLEAN: "(?i:true|false|0|1)",
        DATE: day,
        TIMESTAMP: f"{day}(?:[ T]{clock})?",
    }
    if isinstance(kind, DecimalType):
        plain = rf"0*[0-9]{{0,{kind.precision - kind.scale}}}(?:\.[0-9]{{0,{kind.scale}}}0*)?"
        # Arrow takes several signs of an exponent, and more digits than its own arithmetic holds
        patterns[kind] = rf"[+-]?(?:{plain}|[0-9]*\.?[0-9]*[eE][+-]*[0-9]+|[0-9.]{{38,}})"
    return rf"^(?:{patterns[kind]})$" if kind in patterns else None


def _is_text(kind: pa.DataType) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind))


def _decoded(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values instead of numbers of values."""
    import pyarrow as pa

    return values.cast(values.type.value_type) if pa.types.is_dictionary(values.type) else values


def _cast_text(values: pa.ChunkedArray, column: Column, *, whole: bool = True) -> pa.ChunkedArray:
    """The values; ArrowInvalid for text that is not UTF-8: a parquet file may call any bytes text."""
    if column.type == STRING and not (whole and _is_ascii(values)):  # which looks at the buffers behind a slice
        values.validate(full=True)
    return values


def _fits(table: Table, values: pa.ChunkedArray, column: Column) -> pa.ChunkedArray | None:
    """Which values are finite numbers, and dates that days can be computed from; None where all are."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.type == DOUBLE:
        return pc.is_finite(values)
    if column.name == table.time_column:
        low, high = (pa.scalar(datetime(year, 1, 1, tzinfo=UTC), values.type) for year in (YEARS[0], YEARS[1] + 1))
        return pc.and_(pc.greater_equal(values, low), pc.less(values, high))
    return None


def _is_ascii(values: pa.ChunkedArray) -> bool:
    """Whether the buffers behind the text are ASCII, which is quick to see."""
    contents = (chunk.buffers()[2] for chunk in values.chunks)
    return all(np.frombuffer(content, np.uint8).max(initial=0) < 128 for content in contents if content is not None)


def _expected(table: Table, column: Column) -> str:
    if column.name == table.time_column:
        return f"{column.type.spark} between {YEARS[0]} and {YEARS[1]}"
    return column.type.spark + {DOUBLE: " that is finite", STRING: " in UTF-8"}.get(column.type, "")


def _cast_all(values: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    import pyarrow as pa
    import pyarrow.compute as pc

    wanted = arrow_type(column.type)
    values = _decoded(values)
    if _means_something_else(values.type, wanted):
        raise pa.ArrowNotImplementedError(f"{values.type} is not {wanted}")
    if (
        pa.types.is_integer(wanted)
        and _is_text(values.type)
        and pc.any(pc.match_substring(values, "x", ignore_case=True)).as_py()
    ):
        raise pa.ArrowInvalid("hexadecimal")  # Arrow would read 0x10 as 16
    if not pa.types.is_timestamp(wanted):
        return values.cast(wanted)
    if not pa.types.is_timestamp(values.type):
        values = _instants(values)
    if values.type.tz is None:
        values = pc.assume_timezone(values.cast(pa.timestamp("us"), safe=False), "UTC")
    return values.cast(wanted, safe=False)


def _means_something_else(got: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether Arrow would cast, and yet the value would not mean what it did: true is not 1, a duration no number, and
    a number no instant in a unit we know.
    """
    from pyarrow import types

    if types.is_boolean(got):
        return not types.is_boolean(wanted)
    number = types.is_integer, types.is_floating, types.is_decimal
    if types.is_temporal(wanted):
        return any(one(got) for one in number)
    return types.is_temporal(got) and any(one(wanted) for one in number)


def _instants(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """ISO dates or timestamps as text, with or without a zone, with up to nine digits of a second."""
    import pyarrow as pa

    for zone in (None, "UTC"):
        for unit in ("us", "ns"):
            with suppress(pa.ArrowInvalid):
                return values.cast(pa.timestamp(unit, zone)).cast(pa.timestamp("us", zone), safe=False)
    raise pa.ArrowInvalid("not a timestamp")


def _plain(cell: pa.Scalar) -> Any:
    """The cell in Python; as text where Python has no such date, with escapes where it is not UTF-8."""
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
    return repr(str(value) if isinstance(value, date) else value)


def _as_json(rows: pa.Table) -> list[str]:
    """Each row as JSON."""
    cells = [_plain_cells(column) for column in rows.columns]
    return [json.dumps(dict(zip(rows.column_names, row, strict=True)), default=str) for row in zip(*cells, strict=True)]


def months(found: list[LandedFile]) -> Iterator[tuple[str, list[LandedFile]]]:
    """The files in groups by the month in which they landed, such as `2017-01`."""
    groups: dict[str, list[LandedFile]] = {}
    for file in found:
        groups.setdefault(f"{file.day:%Y-%m}", []).append(file)
    yield from groups.items()

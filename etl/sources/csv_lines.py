"""Account for every line of a CSV file: count its records, and find the lines that cannot be trusted.

A parser does not notice lost lines: one unclosed quote turns the rest of a file into one cell. So this module counts
records from the bytes, independently of the parser, by RFC 4180 with LF, CR LF or CR as line end. A quote in an
unquoted cell is an ordinary character, and blank lines are not records.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import BinaryIO, Literal, Protocol

import numpy as np

BLOCK = 1 << 20
LONGEST = 64 << 20
"""Most bytes of a record: more is probably a file without line ends."""
BOM = b"\xef\xbb\xbf"
QUOTE, COMMA, LF, CR = b'",\n\r'
QUOTED = re.compile(rb'"(?:[^"]++|"")*+"')
UNQUOTED = re.compile(rb"[^,\r\n]*+")
CELL = rb'(?:"(?:[^"\r\n]++|"")*+"|(?!")[^,\r\n]*+)'
LINE = re.compile(CELL + rb"(?:," + CELL + rb")*+")
"""A record on one line with properly closed quotes."""
_BOUNDARY = np.zeros(256, bool)
_BOUNDARY[[QUOTE, COMMA, LF, CR]] = True
"""Bytes that may precede an opening quote or follow a closing one."""


class LineError(ValueError):
    """The lines of a file do not add up to records. The message has no contents of the file.

    `line` is the line of the error, from 1, and `column` its column, if a cell is at fault.
    """

    def __init__(self, message: str, line: int, column: str | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


class Content(Protocol):
    """A path, or anything else that can be opened repeatedly and read as bytes."""

    def open(self, mode: Literal["rb"]) -> BinaryIO:
        """The bytes as a file."""


@dataclass(frozen=True)
class Span:
    """The bytes [start, end) of a record, line ends included, and the number of its first line, from 1."""

    start: int
    end: int
    line: int


@dataclass
class Lines:
    """The result of a scan.

    `records` counts the records without the header, `physical` the lines. `malformed` are the records in which a cell
    goes on after its closing quote. `longest` is the size of the longest record in bytes.
    """

    header: tuple[str, ...] = ()
    records: int = 0
    physical: int = 0
    longest: int = 0
    size: int = 0
    """Bytes of the file."""
    spanning: bool = False
    """Whether a record spans more than one line."""
    malformed: list[Span] = field(default_factory=list)


def scan(content: Content, multiline: Collection[str] = ()) -> Lines:
    """Scan the file's lines. Quoted cells may only span lines in the columns `multiline`.

    Raises LineError for a quote that is not closed where it must be, a multi-line record with another number of cells
    than the header, bytes that are not UTF-8, a NUL, a record longer than LONGEST, and a file without a header.
    """
    with content.open("rb") as file:
        return _Scan(multiline).read(file)


def without(content: Content, spans: Collection[Span]) -> bytes:
    """The file's bytes without these records."""
    with content.open("rb") as file:
        data = file.read()
    edges = [0, *(edge for span in spans for edge in (span.start, span.end)), len(data)]
    return b"".join(data[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True))


def text(content: Content, spans: Collection[Span]) -> list[str]:
    """The text of each record, without its line end."""
    with content.open("rb") as file:
        return [_text(file, span) for span in spans]


def _text(file: BinaryIO, span: Span) -> str:
    file.seek(span.start)
    return file.read(span.end - span.start).decode().rstrip("\r\n")


@dataclass(frozen=True)
class _Record:
    """A record, by its quotes. `end` is the position of its last line end, or None where a quote stays open."""

    end: int | None
    cells: int
    malformed: bool
    multiline: tuple[tuple[int, int], ...]
    """Index and first byte of each cell with a line break; the last one stays open where `end` is None."""


def _walk(block: bytes, start: int, limit: int) -> _Record:
    """Parse the record that begins at `start`."""
    at, cells, malformed = start, 1, False
    multiline: list[tuple[int, int]] = []
    while True:
        if at < limit and block[at] == QUOTE:
            cell = QUOTED.match(block, at, limit)
            if cell is None:
                return _Record(None, cells, malformed, (*multiline, (cells - 1, at)))
            if block.find(b"\n", at, cell.end()) >= 0 or block.find(b"\r", at, cell.end()) >= 0:
                multiline.append((cells - 1, at))
            at = cell.end()
            malformed |= at < limit and block[at] not in (COMMA, LF, CR)
        at = UNQUOTED.match(block, at, limit).end()  # type: ignore[union-attr]  # it matches the empty string, too
        if at >= limit or block[at] != COMMA:
            return _Record(at, cells, malformed, tuple(multiline))
        at, cells = at + 1, cells + 1


class _Scan:
    """One pass over a file, a block of whole lines at a time."""

    def __init__(self, multiline: Collection[str]) -> None:
        self.multiline = multiline
        self.lines = Lines()
        self.offset = 0
        """Bytes of the file before the current block."""

    def read(self, file: BinaryIO) -> Lines:
        rest = b""
        while block := file.read(BLOCK):
            rest = self._take(rest + block, final=False)
            if len(rest) > LONGEST:
                raise LineError(f"begins a record of more than {LONGEST >> 20} MiB", self.lines.physical + 1)
        self._take(rest, final=True)
        self.lines.size = self.offset
        if not self.lines.header:
            raise LineError("should be the header, and the file is empty", 1)
        return self.lines

    def _take(self, block: bytes, *, final: bool) -> bytes:
        """Account for the complete lines of a block. Returns the rest, for the next block."""
        if self.offset == 0 and block.startswith(BOM):
            block, self.offset = block[len(BOM) :], len(BOM)
        codes = np.frombuffer(block, np.uint8)
        ends = _line_ends(block, codes, final=final)
        self._ensure_text(block, ends)
        size = self._account(block, codes, ends, final=final) if len(ends) else 0
        self.offset += size
        return block[size:]

    def _ensure_text(self, block: bytes, ends: np.ndarray) -> None:
        if (nul := block.find(b"\0")) >= 0:
            raise LineError("holds a NUL byte: the file is torn, or not text in UTF-8", self._line_at(ends, nul))
        if block.isascii():
            return
        try:
            str(memoryview(block)[: ends[-1] if len(ends) else 0], "utf-8")
        except UnicodeDecodeError as error:
            raise LineError("is not UTF-8", self._line_at(ends, error.start)) from None

    def _line_at(self, ends: np.ndarray, at: int) -> int:
        """The number, from 1, of the line with a byte of the block."""
        return self.lines.physical + int(np.searchsorted(ends, at, "right")) + 1

    def _account(self, block: bytes, codes: np.ndarray, ends: np.ndarray, *, final: bool) -> int:
        """Count the records of these lines. Returns their size, without a record that continues in the next block."""
        starts = np.concatenate(([0], ends[:-1]))
        stops = _stops(codes, starts, ends)
        filled = stops > starts
        headers = self._read_header(block, starts[filled], ends)
        count, following, continued = len(ends), 0, 0
        for number in _suspicious_lines(block, codes, starts, ends):
            if number < following or LINE.fullmatch(block, starts[number], stops[number]):
                continue  # part of an earlier record, or a valid record
            record = _walk(block, int(starts[number]), int(ends[-1]))
            if record.multiline:
                last = self._last_line(record, ends, final=final)
                if last is None:
                    count = number
                    break
                following = last + 1
                continued += int(filled[number + 1 : following].sum())
                self.lines.longest = max(self.lines.longest, int(ends[last] - starts[number]))
            elif record.malformed:
                start, end = (self.offset + int(at[number]) for at in (starts, ends))
                self.lines.malformed.append(Span(start, end, self.lines.physical + number + 1))
        self.lines.records += int(filled[:count].sum()) - continued - headers
        self.lines.longest = max(self.lines.longest, int((ends - starts)[:count].max(initial=0)))
        self.lines.physical += count
        return int(ends[count - 1]) if count else 0

    def _read_header(self, block: bytes, starts: np.ndarray, ends: np.ndarray) -> int:
        """Read the header from the first record, unless that is done. Returns how many of these lines are headers."""
        if self.lines.header or not len(starts):
            return 0
        start = int(starts[0])
        record = _walk(block, start, int(ends[-1]))
        if record.multiline or record.malformed:
            raise LineError(
                "is the header, and a quote in it is not closed where a name ends", self._line_at(ends, start)
            )
        try:
            self.lines.header = tuple(next(csv.reader([block[start : record.end].decode()])))
        except csv.Error:
            raise LineError("should be the header, and is not a list of names", self._line_at(ends, start)) from None
        return 1

    def _last_line(self, record: _Record, ends: np.ndarray, *, final: bool) -> int | None:
        """The line on which a multi-line record ends; None if it continues in the next block."""
        header = self.lines.header
        cells = [
            (header[position] if position < len(header) else "", self._line_at(ends, at))
            for position, at in record.multiline
        ]
        for column, line in cells:
            if column not in self.multiline:
                raise LineError("opens a quote that is not closed on that line", line, column)
        if record.end is None and not final:
            return None
        if record.end is None:
            raise LineError("opens a quote that is never closed", cells[-1][1], cells[-1][0])
        if record.malformed or record.cells != len(header):
            message = "opens a quote, and the record that ends on a later line does not have the cells of the header"
            raise LineError(message, cells[0][1], cells[0][0])
        self.lines.spanning = True
        return min(int(np.searchsorted(ends, record.end, "right")), len(ends) - 1)


def _line_ends(block: bytes, codes: np.ndarray, *, final: bool) -> np.ndarray:
    """The end of each line, after its line end. The last line of the file need not have one."""
    ends = np.flatnonzero(codes == LF) + 1
    if b"\r" in block:
        returns = np.flatnonzero(codes == CR)
        if not final:
            returns = returns[returns < len(codes) - 1]  # the next block may start with its line feed
        following = codes[np.minimum(returns + 1, len(codes) - 1)]
        ends = np.sort(np.concatenate((ends, returns[following != LF] + 1)))
    if final and len(codes) and (not len(ends) or ends[-1] < len(codes)):
        ends = np.append(ends, len(codes))
    return ends


def _stops(codes: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The end of each line, before its line end."""
    last = codes[ends - 1]
    before = codes[np.maximum(ends - 2, 0)]
    pair = (last == LF) & (before == CR) & (ends - 2 >= starts)
    stops: np.ndarray = ends - ((last == LF) | (last == CR)) - pair
    return stops


def _suspicious_lines(block: bytes, codes: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> list[int]:
    """The lines with quotes that are not pairs around whole cells (a doubled quote is where two pairs touch).

    On any other line a record that begins there also ends there, with all quotes closed at the end of their cells.
    """
    if b'"' not in block:
        return []
    quotes = np.flatnonzero(codes[: ends[-1]] == QUOTE)
    first = np.searchsorted(quotes, starts)
    counts = np.diff(np.append(first, len(quotes)))
    single = np.flatnonzero(counts % 2)
    if len(single):
        paired = np.repeat(counts % 2 == 0, counts)
        quotes = quotes[paired]
    opening, closing = quotes[::2], quotes[1::2]
    before = np.where(opening > 0, codes[opening - 1], LF)
    after = np.where(closing + 1 < len(codes), codes[np.minimum(closing + 1, len(codes) - 1)], LF)
    misplaced = np.concatenate((opening[~_BOUNDARY[before]], closing[~_BOUNDARY[after]]))
    return [int(number) for number in np.union1d(np.searchsorted(ends, misplaced, "right"), single)]

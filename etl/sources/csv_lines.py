"""Account for every line of a CSV file: how many records there are, and which lines cannot be trusted.

A parser cannot notice that it lost lines: one unclosed quote makes the rest of a file one cell. So records are counted
here from the bytes, with no code of the parser. The rules are those of RFC 4180, with LF, CR LF or CR as line end. A
quote inside of an unquoted cell is an ordinary character, and blank lines are no records.
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
"""Bytes of the longest record. More is no record, but a file without line ends."""
BOM = b"\xef\xbb\xbf"
QUOTE, COMMA, LF, CR = b'",\n\r'
QUOTED = re.compile(rb'"(?:[^"]++|"")*+"')
UNQUOTED = re.compile(rb"[^,\r\n]*+")
CELL = rb'(?:"(?:[^"\r\n]++|"")*+"|(?!")[^,\r\n]*+)'
LINE = re.compile(CELL + rb"(?:," + CELL + rb")*+")
"""A record of one line, each of whose quoted cells is closed where it ends."""
_BOUNDARY = np.zeros(256, bool)
_BOUNDARY[[QUOTE, COMMA, LF, CR]] = True
"""Bytes that may stand before a quote that opens a cell, and after one that closes it."""


class LineError(ValueError):
    """The lines of a file do not add up to records. The message holds no contents of the file.

    `line` is where, from 1, and `column` the name above the cell at fault, if it is a cell's.
    """

    def __init__(self, message: str, line: int, column: str | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


class Content(Protocol):
    """A path, or what else can be opened several times and read as bytes."""

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
    """What the lines of a file add up to.

    `records` counts all records but the header, `malformed` are those of them in which a cell goes on after its closing
    quote, `physical` counts lines, and `longest` is the size of the longest record in bytes.
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
    """The file's lines. A quoted cell may span lines in the columns named by `multiline` only.

    Raises LineError for a quote that is not closed where it must be, a record of several lines that does not have the
    cells of the header, bytes that are not UTF-8, a NUL, a record longer than LONGEST, and a file without a header.
    """
    with content.open("rb") as file:
        return _Scan(multiline).read(file)


def without(content: Content, spans: Collection[Span]) -> bytes:
    """The file's bytes but for these records."""
    with content.open("rb") as file:
        whole = file.read()
    edges = [0, *(edge for span in spans for edge in (span.start, span.end)), len(whole)]
    return b"".join(whole[start:end] for start, end in zip(edges[::2], edges[1::2], strict=True))


def text(content: Content, spans: Collection[Span]) -> list[str]:
    """Each record as text, without its line end."""
    with content.open("rb") as file:
        return [_text(file, span) for span in spans]


def _text(file: BinaryIO, span: Span) -> str:
    file.seek(span.start)
    return file.read(span.end - span.start).decode().rstrip("\r\n")


@dataclass(frozen=True)
class _Record:
    """A record as its quotes say. `end` is where its last line end begins, or None where a quote stays open."""

    end: int | None
    cells: int
    malformed: bool
    broken: tuple[tuple[int, int], ...]
    """Position and first byte of each cell that holds a line break; the last one stays open where `end` is None."""


def _walk(block: bytes, start: int, limit: int) -> _Record:
    """Follow the record that begins at `start`, byte by byte as far as regular expressions allow."""
    at, cells, malformed = start, 1, False
    broken: list[tuple[int, int]] = []
    while True:
        if at < limit and block[at] == QUOTE:
            cell = QUOTED.match(block, at, limit)
            if cell is None:
                return _Record(None, cells, malformed, (*broken, (cells - 1, at)))
            if block.find(b"\n", at, cell.end()) >= 0 or block.find(b"\r", at, cell.end()) >= 0:
                broken.append((cells - 1, at))
            at = cell.end()
            malformed |= at < limit and block[at] not in (COMMA, LF, CR)
        at = UNQUOTED.match(block, at, limit).end()  # type: ignore[union-attr]  # matches nothing, too
        if at >= limit or block[at] != COMMA:
            return _Record(at, cells, malformed, tuple(broken))
        at, cells = at + 1, cells + 1


class _Scan:
    """One pass over a file, a block of whole lines at a time."""

    def __init__(self, multiline: Collection[str]) -> None:
        self.multiline = multiline
        self.lines = Lines()
        self.offset = 0
        """Bytes of the file before the block at hand."""

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
        """Account for the whole lines of a block. Returns the rest, which belongs to the next block."""
        if self.offset == 0 and block.startswith(BOM):
            block, self.offset = block[len(BOM) :], len(BOM)
        codes = np.frombuffer(block, np.uint8)
        ends = _line_ends(block, codes, final=final)
        self._ensure_text(block, ends)
        taken = self._account(block, codes, ends, final=final) if len(ends) else 0
        self.offset += taken
        return block[taken:]

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
        """The number of the line that holds a byte of the block, from 1."""
        return self.lines.physical + int(np.searchsorted(ends, at, "right")) + 1

    def _account(self, block: bytes, codes: np.ndarray, ends: np.ndarray, *, final: bool) -> int:
        """Count the records of these lines. Returns the bytes they take, without a record that the block cuts off."""
        starts = np.concatenate(([0], ends[:-1]))
        stops = _stops(codes, starts, ends)
        filled = stops > starts
        headers = self._read_header(block, starts[filled], ends)
        count, following, continued = len(ends), 0, 0
        for number in _doubtful(block, codes, starts, ends):
            if number < following or LINE.fullmatch(block, starts[number], stops[number]):
                continue  # within a record that began on an earlier line, or whole after all
            record = _walk(block, int(starts[number]), int(ends[-1]))
            if record.broken:
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
        """Take the names from the first record, unless that is done. Returns how many of these lines are headers."""
        if self.lines.header or not len(starts):
            return 0
        start = int(starts[0])
        record = _walk(block, start, int(ends[-1]))
        if record.broken or record.malformed:
            raise LineError(
                "is the header, and a quote in it is not closed where a name ends", self._line_at(ends, start)
            )
        try:
            self.lines.header = tuple(next(csv.reader([block[start : record.end].decode()])))
        except csv.Error:
            raise LineError("should be the header, and is no list of names", self._line_at(ends, start)) from None
        return 1

    def _last_line(self, record: _Record, ends: np.ndarray, *, final: bool) -> int | None:
        """The line of the block on which a record of several lines ends; None if it goes on after the block."""
        header = self.lines.header
        cells = [
            (header[position] if position < len(header) else "", self._line_at(ends, at))
            for position, at in record.broken
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
    """Where each line ends, its line end included. The last line of the file need not have one."""
    ends = np.flatnonzero(codes == LF) + 1
    if b"\r" in block:
        returns = np.flatnonzero(codes == CR)
        if not final:
            returns = returns[returns < len(codes) - 1]  # the next block may begin with its line feed
        following = codes[np.minimum(returns + 1, len(codes) - 1)]
        ends = np.sort(np.concatenate((ends, returns[following != LF] + 1)))
    if final and len(codes) and (not len(ends) or ends[-1] < len(codes)):
        ends = np.append(ends, len(codes))
    return ends


def _stops(codes: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Where each line stops, its line end left out."""
    last = codes[ends - 1]
    before = codes[np.maximum(ends - 2, 0)]
    pair = (last == LF) & (before == CR) & (ends - 2 >= starts)
    stops: np.ndarray = ends - ((last == LF) | (last == CR)) - pair
    return stops


def _doubtful(block: bytes, codes: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> list[int]:
    """The lines whose quotes do not pair up, each pair around a whole cell; a doubled quote is where two pairs touch.

    Any other line, if a record begins on it, ends it, and each of its quoted cells is closed where the cell ends.
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
    odd = np.concatenate((opening[~_BOUNDARY[before]], closing[~_BOUNDARY[after]]))
    return [int(number) for number in np.union1d(np.searchsorted(ends, odd, "right"), single)]

"""Records are counted from the bytes of a file as a plain state machine and Python's `csv` count them, and a quote that
swallows a line is refused.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from contracts.model import STRING, Column, Layer, Table
from etl.sources import csv_lines, landing
from etl.sources.csv_lines import LineError, Lines
from etl.sources.landing import Content, LandedFile

QUICK = hypothesis(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def scan(folder: Path, content: bytes | str, *multiline: str) -> Lines:
    path = folder / "a.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return csv_lines.scan(path, multiline)


def refusal(folder: Path, content: bytes | str, *multiline: str) -> tuple[int, str]:
    """Line and message."""
    with pytest.raises(LineError) as caught:
        scan(folder, content, *multiline)
    return caught.value.line, str(caught.value)


# --- what is counted


@pytest.mark.parametrize(
    ("content", "records"),
    [
        ("a,b\n1,2\n3,4\n", 2),
        ("a,b\r\n1,2\r\n3,4\r\n", 2),
        ("a,b\r1,2\r3,4\r", 2),
        ("a,b\n1,2\n3,4", 2),
        ("\ufeffa,b\n1,2\n", 1),
        ('\ufeff"a",b\n"1",2\n', 1),
        ("\n\na,b\n\n1,2\r\n\r\n\r\n3,4\n\n", 2),
        ("a,b\n", 0),
        ("a,b", 0),
        ('"a","b"\n"1","2"\n', 1),
        ('a,b\n"say ""ah""",2\n"""",2\n"","""x"""\n', 3),
        ('a,b\n"1,5",2\n', 1),
        ('a,b\n5" pipe,"2"\n5" and 6",x\n', 2),
        ("a,b\n1\n1,2,3\n ,\n \n", 4),
        ("a,b\n\u2028,\x0b\x0c\x85\n", 1),
        ("a,b\nü,\U0001f600\n", 1),
    ],
)
def test_records_are_counted(tmp_path: Path, content: str, records: int) -> None:
    result = scan(tmp_path, content)
    assert (result.header, result.records, result.malformed, result.spanning) == (("a", "b"), records, [], False)


def test_a_record_may_be_longer_than_a_block(tmp_path: Path) -> None:
    long = "x" * (csv_lines.BLOCK + 5)
    result = scan(tmp_path, f"a,b\n{long},2\n3,4\n")
    assert (result.records, result.longest) == (2, len(long) + 3)


def test_a_record_without_an_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(csv_lines, "BLOCK", 1 << 20)
    monkeypatch.setattr(csv_lines, "LONGEST", 3 << 20)
    assert refusal(tmp_path, "a,b\n1,2\n" + "x" * (5 << 20)) == (3, "begins a record of more than 3 MiB")


# --- what is refused


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('a,b\n1,2\n3,"4\n5,6\n', 3),
        ('a,b\n\n1,2\n3,"4\n5,6\n7,8"\n9,9\n', 4),
        ('a,b\n"1,2\n3,4\n5",6\n', 2),
        ('a,b\n5" pipe,"\n6" pipe"\n', 2),
        ('a,b\r1,"\r2"\r', 2),
        ('a,b\r\n1,"x\r\n', 2),
        ('a,b\n1,"2""\n3,"4"\n', 2),
        ('a,b\n1,2\n"', 3),
        ('a,b\n"1"x,"\n', 2),
    ],
)
def test_a_quote_that_is_not_closed_on_its_line_is_refused_with_the_line_on_which_it_opens(
    tmp_path: Path, content: str, line: int
) -> None:
    assert refusal(tmp_path, content) == (line, "opens a quote that is not closed on that line")


@pytest.mark.parametrize("content", ['"a,b\n1,2\n', 'a,"b\nc"\n1,2\n', '"a"x,b\n1,2\n', '\n"a,b\n1,2\n'])
def test_a_header_that_is_not_one_line_is_refused(tmp_path: Path, content: str) -> None:
    line, message = refusal(tmp_path, content)
    assert (line, message[:13]) == (1 + content.startswith("\n"), "is the header")


@pytest.mark.parametrize("content", ["", "\n\r\n", "\ufeff"])
def test_a_file_without_a_header_is_refused(tmp_path: Path, content: str) -> None:
    assert refusal(tmp_path, content)[1] == "should be the header, and the file is empty"


def test_bytes_that_are_no_text_are_refused_with_their_line(tmp_path: Path) -> None:
    assert refusal(tmp_path, b"a,b\n1,2\n3,\xff\n") == (3, "is not UTF-8")
    assert refusal(tmp_path, b"a,b\n1,2\n3,\x00\n")[0] == 3
    assert refusal(tmp_path, "a,b\n1,2\n".encode("utf-16"))[0] == 1


def test_a_cell_that_goes_on_after_its_closing_quote_is_kept_apart(tmp_path: Path) -> None:
    content = '\ufeffa,b\r\n1,2\r\n"3"x,4\r\n5,6\r\n7,"8" \r\n'
    result = scan(tmp_path, content)
    path = tmp_path / "a.csv"
    assert (result.records, [span.line for span in result.malformed]) == (4, [3, 5])
    assert csv_lines.text(path, result.malformed) == ['"3"x,4', '7,"8" ']
    assert csv_lines.without(path, result.malformed).decode() == "\ufeffa,b\r\n1,2\r\n5,6\r\n"


# --- records of several lines, where the column may hold line breaks


def test_a_cell_may_hold_line_breaks_where_its_column_says_so(tmp_path: Path) -> None:
    result = scan(tmp_path, 'id,note,n\n1,"two\n\nlines, ""quoted""\r\n",3\n4,"5\n",6\n7,8,9\n', "note")
    assert (result.records, result.spanning, result.malformed) == (3, True, [])


def test_a_cell_of_another_column_may_not(tmp_path: Path) -> None:
    assert refusal(tmp_path, 'id,note,n\n1,"2\n3",4\n5,6,"7\n8"\n', "note")[0] == 4
    assert refusal(tmp_path, 'id,note\n1,"2\n3","4\n5"\n', "note")[0] == 3  # more cells than the header


def test_a_stray_quote_there_swallows_no_line_unseen(tmp_path: Path) -> None:
    message = "opens a quote, and the record that ends on a later line does not have the cells of the header"
    assert refusal(tmp_path, 'id,note\n1,"2\n3,4\n5,"6"\n7,8\n', "note") == (2, message)  # closed where another opens
    assert refusal(tmp_path, 'id,note,n\n1,"2,3\n4,5,6"\n', "note") == (2, message)  # a cell short
    assert refusal(tmp_path, 'id,note\n1,2\n3,"4\n5,6\n', "note") == (3, "opens a quote that is never closed")


# --- against other counts


class SwallowedError(Exception):
    """A quoted cell goes over the end of a line."""


def records(text: str) -> Iterator[bool]:
    """A state machine, character by character: of each record, whether a cell goes on after its closing quote."""
    state, malformed, empty = "start", False, True
    for at, char in enumerate([*text, "\n"]):
        if char in "\r\n":
            if state == "quoted":
                raise SwallowedError
            if not empty and not (char == "\n" and text[at - 1 : at] == "\r"):
                yield malformed
            state, malformed, empty = "start", False, True
            continue
        empty = False
        if state == "start":
            state = {'"': "quoted", ",": "start"}.get(char, "plain")
        elif state == "quoted":
            state = "closing" if char == '"' else "quoted"
        elif state == "closing":
            state = {'"': "quoted", ",": "start"}.get(char, "after")
            malformed |= state == "after"
        elif char == ",":
            state = "start"


@QUICK
@given(st.text('a,"\n\ré', max_size=40), st.integers(1, 9))
@example('"\r\n"', 2)
@example('a\r\r\n\n"a"\r', 1)
def test_whatever_the_bytes_the_count_is_that_of_a_state_machine(tmp_path: Path, text: str, block: int) -> None:
    content = f"h,i\n{text}"
    try:
        expected = [*records(content)][1:]
    except SwallowedError:
        expected = None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_lines, "BLOCK", block)
        if expected is None:
            assert "not closed" in refusal(tmp_path, content)[1]
        else:
            result = scan(tmp_path, content)
            assert (result.records, len(result.malformed)) == (len(expected), sum(expected))


def text_table(*names: str, multiline: bool = False) -> Table:
    columns = tuple(Column(name, STRING, "A cell", multiline=multiline) for name in names)
    return Table(
        layer=Layer.BRONZE,
        name="cells",
        doc="Cells",
        grain="one row per record",
        owner="me",
        freshness=timedelta(days=1),
        columns=columns,
    )


def read(folder: Path, content: str, table: Table) -> Content:
    path = folder / "a.csv"
    path.write_bytes(content.encode())
    return landing.read(table, LandedFile(path, "cells/2017-03-01/a.csv", date(2017, 3, 1)))


@QUICK
@given(st.text('a,"\n\ré', max_size=40), st.integers(1, 9))
def test_the_parser_reads_each_record_that_was_counted(tmp_path: Path, text: str, block: int) -> None:
    """Python's `csv` reads each line by itself, so it cannot swallow another."""
    try:
        malformed = [*records(text)]
    except SwallowedError:
        return
    cells = [next(csv.reader([line])) for line in re.split("[\r\n]", text) if line]
    expected = [row[0] for row, odd in zip(cells, malformed, strict=True) if len(row) == 2 and not odd]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(landing, "BLOCK", block)
        content = read(tmp_path, f"h,i\n{text}", text_table("h"))
    assert [cell or "" for cell in content.rows["h"].to_pylist()] == expected
    assert (content.total, len(content.rejected)) == (len(cells), len(cells) - len(expected))


CELLS = st.text('a ,"\n\ré', max_size=8)


@QUICK
@given(
    st.lists(st.tuples(CELLS, CELLS, CELLS), max_size=12),
    st.sampled_from([("\n", csv.QUOTE_ALL), ("\r\n", csv.QUOTE_MINIMAL), ("\r", csv.QUOTE_ALL)]),
    st.integers(1, 50),
)
def test_what_a_writer_quotes_is_counted_whole(
    tmp_path: Path, rows: list[tuple[str, ...]], style: tuple[str, int], block: int
) -> None:
    (end, quoting), written = style, io.StringIO(newline="")
    csv.writer(written, lineterminator=end, quoting=quoting).writerows([("a", "b", "c"), *rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_lines, "BLOCK", block)
        result = scan(tmp_path, written.getvalue(), "a", "b", "c")
        spanning = any(char in cell for char in "\r\n" for cell in itertools.chain(*rows))
        assert (result.records, result.spanning, result.malformed) == (len(rows), spanning, [])
        patch.setattr(landing, "BLOCK", block)
        content = read(tmp_path, written.getvalue(), text_table("a", "b", "c", multiline=True))
        assert [tuple(cell or "" for cell in row.values()) for row in content.rows.to_pylist()] == rows
        if spanning:
            assert "not closed on that line" in refusal(tmp_path, written.getvalue())[1]

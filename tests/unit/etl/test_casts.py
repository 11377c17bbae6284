"""Casting a column of a landed file: the same cells and reasons as by halving it until each bad cell stands alone, in a
number of casts that does not explode.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation, localcontext
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.model import BOOLEAN, DATE, DOUBLE, LONG, STRING, TIMESTAMP, Column, Layer, Table, decimal
from etl.sources import landing
from etl.sources.landing import LandedFile
from lake.publishing import arrow_type

COLUMNS = (
    Column("whole", LONG, "A number"),
    Column("real", DOUBLE, "A number"),
    Column("money", decimal(7, 2), "An amount"),
    Column("large", decimal(38, 0), "An amount"),
    Column("flag", BOOLEAN, "A flag"),
    Column("on", DATE, "A day"),
    Column("at", TIMESTAMP, "The time of the event"),
    Column("other", TIMESTAMP, "Another time"),
    Column("text", STRING, "A text"),
)
TABLE = Table(
    layer=Layer.BRONZE,
    name="things",
    doc="Things",
    grain="one row per thing",
    owner="nobody",
    freshness=timedelta(days=1),
    columns=COLUMNS,
    time_column="at",
)


def halved(values: pa.ChunkedArray, column: Column, first: int = 0) -> tuple[list[Any], list[tuple[int, Any]]]:
    """The oracle: what loads did up to issue 11, which took more than 40 s for 200,000 bad cells."""
    try:
        typed = landing._cast_all(values, column)
        ensure_fitting(typed, column)
    except pa.ArrowInvalid:
        if len(values) == 1:
            return [None], [(first, landing._plain(values[0]))]
        half = len(values) // 2
        left, right = halved(values[:half], column, first), halved(values[half:], column, first + half)
        return left[0] + right[0], left[1] + right[1]
    return comparable(typed), []


def comparable(values: pa.ChunkedArray) -> list[Any]:
    """Values in Python, instants and days as numbers: Arrow knows some that Python does not."""
    width = {pa.date32(): pa.int32(), pa.timestamp("us", "UTC"): pa.int64()}.get(values.type, values.type)
    return values.cast(width).to_pylist()


def ensure_fitting(values: pa.ChunkedArray, column: Column) -> None:
    fits = None
    if column.type == STRING:
        values.validate(full=True)
    elif column.type == DOUBLE:
        fits = pc.is_finite(values)
    elif column.name == "at":
        low, high = (pa.scalar(datetime(year, 1, 1, tzinfo=UTC), values.type) for year in (1900, 2200))
        fits = pc.and_(pc.greater_equal(values, low), pc.less(values, high))
    elif column.type in (DATE, TIMESTAMP):
        days = values.cast(pa.date32()).cast(pa.int32())
        low, high = ((day - date(1970, 1, 1)).days for day in (date.min, date.max))
        fits = pc.and_(pc.greater_equal(days, low), pc.less_equal(days, high))
    if fits is not None and not pc.all(fits, min_count=0).as_py():
        raise pa.ArrowInvalid("does not fit")


def same(values: pa.ChunkedArray, column: Column) -> None:
    expected, bad = halved(values, column)
    typed, unfit = landing._cast_cells(TABLE, values, column)
    assert typed.type == arrow_type(column.type)
    assert repr(comparable(typed)) == repr(expected)  # by repr: NaN, and 0.0 beside -0.0
    assert repr(unfit) == repr(bad)


DIGITS = st.text("0123456789", min_size=1, max_size=21)
NUMBERS = st.builds(
    "".join,
    st.tuples(
        st.sampled_from(["", "-", "+", " ", "0x"]),
        DIGITS,
        st.sampled_from(["", ".", ".5", ".50", ".500", ".505", "e2", "e-2", "E400", " "]),
    ),
)
DAYS = st.builds(
    "{:04}-{:02}-{:02}".format,
    st.sampled_from([0, 1, 4, 1677, 1899, 1900, 2000, 2016, 2017, 2199, 2200, 2262, 9999]),
    st.integers(0, 13),
    st.integers(0, 32),
)
CLOCKS = st.sampled_from(
    [
        "",
        "T",
        " ",
        "T10",
        " 10:30",
        " 24:00",
        "T10:30:59",
        "T10:30:60",
        " 10:30:59.5",
        "T10:30:59.123456",
        "T10:30:59.123456789",
        "T10:30:59.1234567891",
    ]
)
ZONES = st.sampled_from(["", "", "Z", "z", "+01", "+0130", "+01:30", "-23:59", "+24:00", " UTC"])
NOISE = st.sampled_from(
    [
        "",
        "n/a",
        "NULL",
        "nan",
        "NaN",
        "inf",
        "-Infinity",
        "true",
        "False",
        "TRUE",
        "yes",
        "1",
        "0",
        ".",
        "-",
        "1_0",
        "\uff11",
        "\n1",
        "1\n",
        "a\0b",
    ]
) | st.text(max_size=4)
TEXTS = st.lists(st.none() | NUMBERS | st.builds("{}{}{}".format, DAYS, CLOCKS, ZONES) | NOISE, max_size=150)


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
@settings(max_examples=60, deadline=None)
@given(
    cells=TEXTS,
    chunks=st.integers(1, 3),
    kind=st.sampled_from([pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]),
)
def test_text_is_cast_as_by_halving(column: Column, cells: list[str | None], chunks: int, kind: pa.DataType) -> None:
    size = len(cells) // chunks + 1
    parts = [
        pa.array(cells[start : start + size], pa.string()).cast(kind) for start in range(0, max(len(cells), 1), size)
    ]
    same(pa.chunked_array(parts, kind), column)


MANTISSAS = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "", "-", "+"]),
    st.text("0001239", max_size=45),
    st.sampled_from(["", "."]),
    st.text("0001239", max_size=45),
)
EXPONENTS = st.sampled_from(["", "", "e"]).flatmap(
    lambda e: st.builds("{}{}".format, st.just(e), st.integers(-60, 60)) if e else st.just("")
)


@pytest.mark.parametrize(("precision", "scale"), [(7, 2), (12, 2), (38, 0), (38, 10), (38, 38)])
@settings(max_examples=60, deadline=None)
@given(cells=st.lists(st.builds("{}{}".format, MANTISSAS, EXPONENTS), max_size=30))
def test_text_is_the_decimal_that_python_reads_or_unfit(precision: int, scale: int, cells: list[str]) -> None:
    """Arrow casts text of many digits, or beyond the type, to another number."""
    column = Column("amount", decimal(precision, scale), "An amount")
    expected = [as_decimal(cell, precision, scale) for cell in cells]
    typed, bad = landing._cast_cells(TABLE, pa.chunked_array([pa.array(cells, pa.string())]), column)
    assert typed.to_pylist() == expected
    assert bad == [(at, cells[at]) for at, value in enumerate(expected) if value is None]


def as_decimal(cell: str, precision: int, scale: int) -> Decimal | None:
    with localcontext() as context:
        context.prec = 300
        try:
            exact = Decimal(cell)
        except InvalidOperation:
            return None
        rounded = exact.quantize(Decimal(1).scaleb(-scale))
        return rounded if rounded == exact and abs(rounded) < Decimal(10) ** (precision - scale) else None


OTHERS = {
    "real": (pa.float64(), st.floats() | st.sampled_from([2.0**63, 2.0**53, -1.0])),
    "short": (pa.float32(), st.floats(width=32)),
    "unsigned": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "amount": (pa.decimal128(20, 3), st.decimals(-(10**6), 10**6, places=3)),
    "nanoseconds": (pa.timestamp("ns"), st.integers(-(2**63) + 1, 2**63 - 1)),
    "seconds": (pa.timestamp("s", "Europe/Berlin"), st.integers(-(2**40), 2**40)),
    "days": (pa.date32(), st.integers(-(2**20), 2**24)),
    "bytes": (pa.binary(), st.sampled_from([b"1", b"1.5", b"\xff", b"", b"2017-01-01", "é".encode()])),
    "nothing": (pa.null(), st.none()),
}


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
@pytest.mark.parametrize("given_as", OTHERS)
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_parquet_of_other_types_is_cast_as_by_halving(column: Column, given_as: str, data: Any) -> None:
    kind, cells = OTHERS[given_as]
    values = pa.chunked_array([pa.array(data.draw(st.lists(st.none() | cells, max_size=20)), kind)])
    try:
        halved(values, column)
    except pa.ArrowNotImplementedError:
        with pytest.raises(pa.ArrowNotImplementedError):
            landing._cast_cells(TABLE, values, column)
        return
    same(values, column)


def test_text_that_is_not_utf8_is_found_in_any_column() -> None:
    cells = [b"ok", b"\xff\xfe", "é".encode(), b"\xff\xfe", None] * 50
    offsets = np.cumsum([0, *(len(cell or b"") for cell in cells)]).astype(np.int32)
    valid = pa.array([cell is not None for cell in cells]).buffers()[1]
    text = pa.Array.from_buffers(
        pa.string(), len(cells), [valid, pa.py_buffer(offsets), pa.py_buffer(b"".join(cell or b"" for cell in cells))]
    )
    for column in COLUMNS:
        same(pa.chunked_array([text]), column)


@pytest.mark.parametrize(
    ("name", "cell", "most"),
    [
        ("whole", "abc{}", 10),
        ("whole", "1.{}", 10),
        ("money", "1.{:06}1", 10),
        ("money", "123456{:06}", 10),
        ("at", "31/12/2017 {}", 10),
        ("at", "2017-02-31 10:00:00.{:06}", 10),
        ("at", "0001-01-01 00:00:00.{:06}", 10),
        ("real", "1e999{}", 10),
        ("at", "2017-02-29 10:00:00.{:06}", 10),
        ("at", "2017-02-28 10:00:00.{:06}+25:00", 22_000),
        ("whole", "9300000000000{:06}", 10),
        ("whole", "9230000000000{:06}", 22_000),
    ],
)
def test_many_bad_cells_cost_few_casts_or_one_each(
    monkeypatch: pytest.MonkeyPatch, name: str, cell: str, most: int
) -> None:
    """20,000 different bad cells, and as many good ones. Casts are counted, not timed."""
    column, casts, cast = TABLE.column(name), 0, landing._cast_all

    def counted(*arguments: Any) -> Any:
        nonlocal casts
        casts += 1
        return cast(*arguments)

    monkeypatch.setattr(landing, "_cast_all", counted)
    good = {"at": "2017-02-28"}.get(name, "1")
    values = pa.chunked_array([pa.array([text for at in range(20_000) for text in (good, cell.format(at))])])
    typed, bad = landing._cast_cells(TABLE, values, column)
    assert bad == [(2 * at + 1, cell.format(at)) for at in range(20_000)]
    assert typed.null_count == 20_000
    assert casts <= most


def test_rejected_rows_are_written_as_they_were_read(tmp_path: Path) -> None:
    path = tmp_path / "things.csv"
    path.write_text(
        'whole,real,money,large,flag,on,at,other,text\nx,1,1,1,0,2017-01-01,2017-01-01,,"a'
        ' ""b"""\n2,y,1,1,0,2017-01-01,1800-01-01,,\n'
    )
    content = landing.read(TABLE, LandedFile(path, "things/2017-01-01/things.csv", date(2017, 1, 1)))
    assert [rejected.reasons for rejected in content.rejected] == [
        ("whole is 'x', not a bigint",),
        ("real is 'y', not a double that is finite", "at is '1800-01-01', not a timestamp between 1900 and 2199"),
    ]
    assert (
        content.rejected[0].row
        == '{"whole": "x", "real": "1", "money": "1", "large": "1", "flag": "0", "on": "2017-01-01", "at":'
        ' "2017-01-01", "other": null, "text": "a \\"b\\""}'
    )


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_a_hexadecimal_number_is_none_although_all_else_fits(kind: pa.DataType) -> None:
    """Arrow reads 0x10 as 16."""
    typed, bad = landing._cast_cells(
        TABLE, pa.chunked_array([pa.array(["12", "0x10", None, "7"]).cast(kind)]), TABLE.column("whole")
    )
    assert (typed.to_pylist(), bad) == ([12, None, None, 7], [(1, "0x10")])

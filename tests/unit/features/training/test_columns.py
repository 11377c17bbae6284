"""A digest says whether two columns hold the same values: however they are cut, whatever lies below a NULL, and nothing
else is the same.
"""

from __future__ import annotations

import io
import math
import struct
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.training import columns

INSTANT = pa.timestamp("us", tz="UTC")
VALUES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.int16(), st.integers(-3, 3)),
    (pa.float64(), st.floats(allow_nan=False) | st.sampled_from([0.0, -0.0, math.inf])),
    (pa.bool_(), st.booleans()),
    (pa.string(), st.sampled_from(["", "a", "ab", "b", "\0", "é", "\U0001f33e"])),
    (pa.binary(), st.binary(max_size=3)),
    (pa.decimal128(12, 2), st.integers(-300, 300).map(lambda cents: Decimal(cents) / 100)),
    (pa.date32(), st.dates()),
    (INSTANT, st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC))),
]
cases = st.sampled_from(VALUES).flatmap(
    lambda kind: st.tuples(
        st.just(kind[0]),
        st.lists(st.none() | kind[1], max_size=12),
        st.lists(st.none() | kind[1], max_size=12),
        st.integers(0, 12),
    )
)


def exactly(values: list[Any]) -> list[Any]:
    """The values as they are compared: 0.0 and -0.0 are two."""
    return [struct.pack("d", value) if isinstance(value, float) else value for value in values]


def cut(values: list[Any], type_: pa.DataType, at: int) -> pa.ChunkedArray:
    """The same column in two chunks, the second one a slice of a longer array."""
    return pa.chunked_array(
        [pa.array(values[:at], type_), pa.array([*values[:at], *values[at:]], type_).slice(min(at, len(values)))]
    )


@given(case=cases)
def test_equal_digests_are_equal_values(case: tuple[pa.DataType, list[Any], list[Any], int]) -> None:
    type_, values, other, at = case
    whole = pa.chunked_array([pa.array(values, type_)])
    assert columns.digest(cut(values, type_, at)) == columns.digest(whole)
    assert (columns.digest(pa.chunked_array([pa.array(other, type_)])) == columns.digest(whole)) == (
        exactly(values) == exactly(other)
    )
    table = pa.table({"a": cut(values, type_, at)})
    file = columns.parquet(table)
    assert file == columns.parquet(pa.table({"a": whole}))
    assert columns.digest(columns.plain(pq.read_table(io.BytesIO(file)))["a"]) == columns.digest(whole)


def test_what_lies_below_a_null_does_not_count() -> None:
    hidden = pa.Array.from_buffers(pa.int64(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer(struct.pack("qq", 5, 99))])
    assert hidden.to_pylist() == [5, None]
    assert columns.digest(pa.chunked_array([hidden])) == columns.digest(pa.chunked_array([pa.array([5, None])]))


def test_every_nan_is_the_same_and_no_null() -> None:
    odd = pa.array([struct.unpack("d", struct.pack("Q", 0xFFF8000000000001))[0]])
    digests = [
        columns.digest(pa.chunked_array([values]))
        for values in (odd, pa.array([math.nan]), pa.array([None], pa.float64()))
    ]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize(
    ("left", "other"),
    [
        (pa.array(["ab", "c"]), pa.array(["a", "bc"])),
        (pa.array(["a", None]), pa.array([None, "a"])),
        (pa.array([1, 2]), pa.array([1, 2], pa.int32())),
        (pa.array([], pa.string()), pa.array([None], pa.string())),
        (pa.array([1, 2]), pa.array([2, 1])),
    ],
)
def test_other_values_have_another_digest(left: pa.Array, other: pa.Array) -> None:
    assert columns.digest(pa.chunked_array([left])) != columns.digest(pa.chunked_array([other]))


def test_names_and_their_order_count_for_a_table() -> None:
    a, b = pa.array([1]), pa.array([2])
    tables = [
        pa.table({"a": a, "b": b}),
        pa.table({"b": b, "a": a}),
        pa.table({"a": b, "b": a}),
        pa.table({"x": a, "b": b}),
    ]
    assert len({columns.table_digest(columns.digests(table)) for table in tables}) == 4


@pytest.mark.parametrize(
    ("inputs", "kept"),
    [
        (pa.array(["a", "b", "a"]).dictionary_encode(), pa.string()),
        (pa.array(["a"], pa.large_string()), pa.string()),
        (pa.array([None]), pa.string()),
        (pa.array([b"a"], pa.binary(1)), pa.binary()),
        (pa.array([200], pa.uint8()), pa.int16()),
        (pa.array([2**32 - 1], pa.uint32()), pa.int64()),
        (pa.array([datetime(2017, 1, 1)], pa.timestamp("s")), INSTANT),
        (pa.array([datetime(2017, 1, 1)], pa.timestamp("ns", tz="Asia/Kolkata")), INSTANT),
        (pa.array([date(2017, 1, 1)], pa.date64()), pa.date32()),
    ],
)
def test_a_type_becomes_one_that_can_be_kept(inputs: pa.Array, kept: pa.DataType) -> None:
    result = columns.plain(pa.table({"a": inputs}))["a"]
    assert result.type == kept
    assert len(result) == len(inputs)
    assert columns.plain(pa.table({"a": result}))["a"] == result


def test_the_file_does_not_depend_on_how_many_rows_are_cut() -> None:
    """Few rows fit one page however they come; many do not."""
    table = pa.table({"text": [str(number * 7919 % 1_000_003) for number in range(300_000)]})
    parts = pa.concat_tables([table.slice(0, 7), table.slice(7, 100_000), table.slice(100_007)])
    assert columns.parquet(parts) == columns.parquet(table)

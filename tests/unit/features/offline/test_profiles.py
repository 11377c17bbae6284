"""Profiles by DuckDB and by data frames against plain Python, on hostile columns: both are the same, to the last digit
but for doubles.
"""

import json
import math
import statistics
from collections import Counter
from datetime import UTC, date, datetime
from decimal import Decimal, localcontext
from fractions import Fraction
from functools import cache
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.lake_reader import SourceError, published
from features.offline import frames
from features.offline.profiles import by_duckdb, by_frames, of
from features.offline.profiles.model import PERCENTS, ColumnProfile, Profile
from tests.unit.features.conftest import INSTANT, Lake, activity

EVERYONE = ["duckdb", *frames.available(), "tests.unit.features.offline.cudf_like"]
MIN, MAX = -(2**63), 2**63 - 1
wide = st.integers(1 - 10**38, 10**38 - 1)


def decimals(whole: st.SearchStrategy[int], scale: int) -> st.SearchStrategy[Decimal]:
    return whole.map(lambda number: Decimal((int(number < 0), tuple(map(int, str(abs(number)))), -scale)))


COLUMNS: dict[str, tuple[pa.DataType, st.SearchStrategy[Any]]] = {
    "int64": (
        pa.int64(),
        st.sampled_from([MIN, MIN + 1, -1, 0, 1, 2**31, 2**53, 2**53 + 1, MAX]) | st.integers(MIN, MAX),
    ),
    "int32": (pa.int32(), st.integers(-5, 5)),
    "money": (
        pa.decimal128(12, 2),
        decimals(st.sampled_from([-1, 0, 1, 10**12 - 1, 1 - 10**12]) | st.integers(-500, 500), 2),
    ),
    "eighteen": (pa.decimal128(18, 2), decimals(st.sampled_from([1 - 10**18, 10**18 - 1, 5]), 2)),
    "nineteen": (
        pa.decimal128(19, 4),
        decimals(st.sampled_from([1 - 10**19, 10**19 - 1, -1, 0, 2**63, -(2**63), 2**62]), 4),
    ),
    "wide": (pa.decimal128(38, 10), decimals(st.sampled_from([2**64, -(2**64), 2**32, -1, 0]) | wide, 10)),
    "share": (pa.decimal128(38, 38), decimals(wide, 38)),
    "double": (pa.float64(), st.floats(-1e6, 1e6) | st.sampled_from([0.0, -0.0, float("nan"), 0.1, 1e15, 1e15 + 1])),
    "huge": (pa.float64(), st.sampled_from([1e149, -1e149, 1e150, float("inf"), -float("inf"), float("nan"), 5e-324])),
    "single": (pa.float32(), st.floats(-1e6, 1e6, width=32)),
    "text": (
        pa.string(),
        st.sampled_from(["", " ", "a", "A", "ä", "a\u0308", "ﬁ", "日本", "\U0001f600", "\uffff", "a\x00b", "NaN"]),
    ),
    "truth": (pa.bool_(), st.booleans()),
    "instant": (
        INSTANT,
        st.sampled_from([datetime(1, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)])
        | st.datetimes(timezones=st.just(UTC)),
    ),
    "moment": (pa.timestamp("us"), st.datetimes()),
    "day": (pa.date32(), st.sampled_from([date.min, date.max, date(1970, 1, 1)]) | st.dates()),
    "list": (pa.list_(pa.field("l", pa.string())), st.lists(st.sampled_from(["a", "b"]))),
    "bytes": (pa.binary(), st.binary(max_size=2)),
}
"""Name -> type, and cells that are not NULL."""


def cells_of(name: str) -> st.SearchStrategy[list[Any]]:
    few = st.lists(COLUMNS[name][1], min_size=1, max_size=3).flatmap(
        lambda values: st.lists(st.none() | st.sampled_from(values), max_size=40)
    )
    return few | st.lists(st.none() | COLUMNS[name][1], max_size=15)


@cache
def connection() -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    return con


def counted(by: str, cells: list[Any], type_: pa.DataType) -> ColumnProfile:
    con = connection()
    con.register("t", pa.table({"c": pa.array(cells, type_)}))
    result = by_duckdb.profile(con, "t") if by == "duckdb" else by_frames.profile(by, con, "t")
    assert result.rows == len(cells)
    (column,) = result.columns
    return column


def expected(cells: list[Any], type_: pa.DataType) -> ColumnProfile:
    """The same from the definitions, by plain loops; mean and deviation with all digits."""
    nulls = cells.count(None)
    if pa.types.is_list(type_) or pa.types.is_binary(type_):
        return ColumnProfile("c", str(type_), nulls)
    zoned = [cell.replace(tzinfo=UTC) if isinstance(cell, datetime) else cell for cell in cells if cell is not None]
    present = sorted(cell for cell in zoned if cell == cell)
    frequent = sorted(Counter(present).items(), key=lambda pair: (-pair[1], pair[0]))[:5]
    result = ColumnProfile("c", str(type_), nulls, len(zoned) - len(present), len({*present}), frequent=tuple(frequent))
    if not present:
        return result
    quantiles = tuple(
        next(cell for i, cell in enumerate(present, 1) if 100 * i >= percent * len(present)) for percent in PERCENTS
    )
    mean, deviation = spread(present)
    has_quantiles = not isinstance(present[0], str | bool)
    more = {
        "minimum": present[0],
        "maximum": present[-1],
        "mean": mean,
        "deviation": deviation,
        "quantiles": quantiles if has_quantiles else (),
    }
    return ColumnProfile(**{**vars(result), **more})


def spread(cells: list[Any]) -> tuple[float | None, float | None]:
    """Mean and deviation, rounded once at the very end."""
    if isinstance(cells[0], str | bool | date) or any(isinstance(cell, float) and abs(cell) >= 1e150 for cell in cells):
        return None, None
    exact = [Fraction(cell) for cell in cells]
    mean = sum(exact) / len(exact)
    return float(mean), (
        math.sqrt(sum((cell - mean) ** 2 for cell in exact) / (len(exact) - 1)) if len(exact) > 1 else None
    )


def assert_same(profile: ColumnProfile, other: ColumnProfile) -> None:
    """The same, and of doubles nearly the same mean and deviation: to within 1e-12 of the largest value."""
    inexact = ("mean", "deviation") if profile.type in ("double", "float") else ()
    rest, other_rest = (
        {name: value for name, value in vars(each).items() if name not in inexact} for each in (profile, other)
    )
    assert rest == other_rest
    assert str(profile.minimum) == str(other.minimum) or profile.minimum == 0  # as text, in which 1.0 is not like 1
    magnitude = max(abs(float(profile.minimum)), abs(float(profile.maximum))) if inexact and profile.distinct else 0
    for name in inexact:
        here, there = getattr(profile, name), getattr(other, name)
        assert here == there or abs(here - there) <= 1e-12 * magnitude


@pytest.mark.parametrize("name", COLUMNS)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_everyone_counts_as_plain_python_does(name: str, data: st.DataObject) -> None:
    cells, type_ = data.draw(cells_of(name)), COLUMNS[name][0]
    selected = expected(cells, type_)
    for by in EVERYONE:
        assert_same(counted(by, cells, type_), selected)


@pytest.fixture(params=EVERYONE)
def by(request: pytest.FixtureRequest) -> str:
    return request.param


def test_a_column_of_four_rows(by: str) -> None:
    result = counted(by, [Decimal("2.50"), None, Decimal("-1.00"), Decimal("2.50")], pa.decimal128(12, 2))
    assert (result.type, result.nulls, result.nans, result.distinct) == ("decimal128(12, 2)", 1, 0, 2)
    assert (result.minimum, result.maximum, result.quantile(50)) == (Decimal("-1.00"), Decimal("2.50"), Decimal("2.50"))
    assert (result.mean, result.deviation) == (4 / 3, statistics.stdev([2.5, -1.0, 2.5]))
    assert result.frequent == ((Decimal("2.50"), 2), (Decimal("-1.00"), 1))


def test_sums_beyond_128_bits_are_exact(by: str) -> None:
    """Three numbers whose squares take 254 bits, next to each other: a double would see no difference."""
    largest = 10**38 - 1
    with localcontext(prec=38):
        result = counted(by, [Decimal(largest), Decimal(largest - 1), Decimal(largest - 2)], pa.decimal128(38, 0))
    assert (result.mean, result.deviation) == (float(largest - 1), 1.0)
    whole = counted(by, [MAX, MAX - 1, MAX - 2], pa.int64())
    assert (whole.mean, whole.deviation) == (float(MAX - 1), 1.0)


def test_not_a_number_is_counted_apart(by: str) -> None:
    result = counted(by, [1.0, float("nan"), None, 3.0], pa.float64())
    assert (result.nulls, result.nans, result.distinct, result.maximum, result.mean) == (1, 1, 2, 3.0, 2.0)


def test_infinity_is_the_maximum_and_has_no_mean(by: str) -> None:
    result = counted(by, [1.0, float("inf")], pa.float64())
    assert (result.maximum, result.mean, result.deviation) == (float("inf"), None, None)
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["maximum"] == "inf"


@pytest.mark.parametrize("cells", [[], [None, None]], ids=["no row", "NULLs only"])
def test_nothing_is_said_of_nothing(by: str, cells: list[None]) -> None:
    message = counted(by, cells, pa.int64())
    assert message == ColumnProfile("c", "int64", len(cells), distinct=0)
    assert message.quantile(50) is None


def test_beyond_pythons_calendar_time_is_text(by: str) -> None:
    result = counted(by, [MAX - 1], pa.timestamp("us", "UTC"))
    assert result.maximum == result.quantile(99) == f"1970-01-01 +{MAX - 1} us"
    assert counted(by, [-10_000_000], pa.date32()).minimum == "1970-01-01 -10000000 days"


def test_names_that_need_quotes(by: str) -> None:
    with duckdb.connect() as con:
        con.register('a "table"', pa.table({'say "x"': [1], "select": ["b"]}))
        result = (
            by_duckdb.profile(con, '"a ""table"""') if by == "duckdb" else by_frames.profile(by, con, '"a ""table"""')
        )
    assert [(column.name, column.maximum) for column in result.columns] == [('say "x"', 1), ("select", "b")]


def test_a_published_table(lake: Lake, by: str) -> None:
    lake.write("guest_activity", [activity(1, "2017-01-02", "10.00"), activity(2, "2017-01-05", "7.77")])
    result = of(published("gold.guest_activity"), "gold.guest_activity", by)
    spend = next(column for column in result.columns if column.name == "paid_7d")
    assert (result.rows, spend.type, spend.minimum, spend.mean) == (2, "decimal128(18, 2)", Decimal("7.77"), 8.885)
    assert json.loads(json.dumps(result.to_dict()))["columns"][1]["maximum"] == "2017-01-05T00:00:00+00:00"


def test_an_older_version(lake: Lake, by: str) -> None:
    for guests in ((1,), (1, 2)):
        lake.write("guest_activity", [activity(guest, "2017-01-02") for guest in guests])

    def profile_of(version: int | None) -> Profile:
        return of(published("gold.guest_activity", version), "gold.guest_activity", by)

    assert [profile_of(version).rows for version in (0, 1, None)] == [1, 2, 2]


def test_what_cannot_be_read(lake: Lake) -> None:
    with pytest.raises(
        SourceError,
        match=(r"gold\.guest_activity was never published: there is no table at .*/gold/guest_activity\. Run the DAG"),
    ):
        published("gold.guest_activity")
    with pytest.raises(SourceError, match=r"^'tickets' is no table\. Name it with its layer, such as silver\."):
        published("tickets")
    lake.write("guest_profile", [])
    with pytest.raises(SourceError, match=r"gold\.guest_profile has no version 7: its newest is 0"):
        published("gold.guest_profile", 7)

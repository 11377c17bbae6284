"""Cells become what the contract says, from text and from every Arrow type that means the same; a cell that does not fit costs its row."""

import json
import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from contracts.interval import Interval
from contracts.model import BOOLEAN, DATE, DOUBLE, LONG, STRING, TIMESTAMP, Column, Layer, Table, Type, decimal
from etl.publishing import arrow_type
from etl.sources import landing
from etl.sources.landing import Content, LandedFile, LandingError

NOON = datetime(2017, 3, 1, 12, tzinfo=UTC)


def cells(kind: Type, *, time: bool = False) -> Table:
    """A bronze table whose only column of its own is `cell`."""
    return Table(
        layer=Layer.BRONZE, name="cells", doc="Cells", grain="one row per cell", owner="me", freshness=timedelta(days=1), columns=(Column("cell", kind, "A cell"),),
        time_column="cell" if time else None,
    )  # fmt: skip


def read_parquet(path: Path, values: pa.Array, kind: Type, *, time: bool = False) -> Content:
    file = path / "cells.parquet"
    pq.write_table(pa.table({"cell": values}), file)
    return landing.read(cells(kind, time=time), LandedFile(file, "cells/2017-03-01/cells.parquet", date(2017, 3, 1)))


def read_csv(path: Path, *lines: str, kind: Type, time: bool = False) -> Content:
    file = path / "cells.csv"
    file.write_text("\n".join(["cell,n", *(f"{line},{n}" for n, line in enumerate(lines)), ""]))
    return landing.read(cells(kind, time=time), LandedFile(file, "cells/2017-03-01/cells.csv", date(2017, 3, 1)))


def found(content: Content) -> list[Any]:
    return content.rows["cell"].to_pylist()


def refused(content: Content) -> list[Any]:
    return [json.loads(one.row)["cell"] for one in content.rejected]


# --- text

TEXTS: tuple[tuple[Type, dict[str, Any], tuple[str, ...]], ...] = (
    (LONG, {"12": 12, "-3": -3, "007": 7, "": None, str(2**63 - 1): 2**63 - 1}, ("1.5", "1e3", "twelve", "1 2", "NULL", str(2**63))),
    (DOUBLE, {"1.5": 1.5, "-0": -0.0, "1e3": 1000.0, "5.55e-17": 5.55e-17, "": None}, ("1.5 USD", "nan", "NaN", "inf", "-Infinity", "1e999", "cheap")),
    (decimal(12, 2), {"1.50": Decimal("1.50"), "-3": Decimal("-3.00"), "": None}, ("1.505", "12345678901.00", "cheap")),
    (BOOLEAN, {"true": True, "False": False, "1": True, "0": False, "": None}, ("yes", "2", "t")),
    (DATE, {"2017-02-28": date(2017, 2, 28), "": None}, ("2017-02-29", "28/02/2017", "20170228", "2017-02-28 10:00:00")),
    (
        TIMESTAMP,
        {
            "2017-03-01 12:00:00": NOON,
            "2017-03-01T12:00:00Z": NOON,
            "2017-03-01T14:00:00+02:00": NOON,
            "2017-03-01 12:00:00.000001": NOON + timedelta(microseconds=1),
            "2017-03-01 12:00:00.000001999": NOON + timedelta(microseconds=1),
            "2017-03-01": datetime(2017, 3, 1, tzinfo=UTC),
            "": None,
        },
        ("2017-02-29 12:00:00", "01/03/2017", "1488369600", "noon", "25:00"),
    ),
    (STRING, {"a": "a", " a ": " a ", '""': "", "": None, "NULL": "NULL", "ÿ": "ÿ"}, ()),
)


@pytest.mark.parametrize(("kind", "good", "bad"), TEXTS, ids=lambda one: getattr(one, "spark", ""))
def test_text_in_a_csv_becomes_the_type_or_costs_its_row(tmp_path: Path, kind: Type, good: dict[str, Any], bad: tuple[str, ...]) -> None:
    content = read_csv(tmp_path, *good, *bad, kind=kind)
    assert found(content) == [*good.values()]
    assert refused(content) == [*bad]
    assert content.total == len(good) + len(bad)
    assert content.rows.schema.field("cell").type == arrow_type(kind)


@pytest.mark.parametrize(("kind", "good", "bad"), TEXTS[:-1], ids=lambda one: getattr(one, "spark", ""))
def test_text_in_a_parquet_file_is_read_as_in_a_csv(tmp_path: Path, kind: Type, good: dict[str, Any], bad: tuple[str, ...]) -> None:
    content = read_parquet(tmp_path, pa.array([text or None for text in (*good, *bad)]), kind)
    assert (found(content), refused(content)) == ([*good.values()], [*bad])


def test_a_reason_names_the_column_the_cell_and_what_was_expected(tmp_path: Path) -> None:
    (one,) = read_csv(tmp_path, "twelve", kind=LONG).rejected
    assert one.reasons == ("cell is 'twelve', not a bigint",)
    assert (one.file, one.day) == ("cells/2017-03-01/cells.csv", date(2017, 3, 1))


@pytest.mark.parametrize("text", ["1899-12-31 23:59:59.999999", "2200-01-01", "0001-01-01", "9999-12-31"])
def test_a_time_that_days_cannot_be_computed_from_costs_its_row_only_in_the_time_column(tmp_path: Path, text: str) -> None:
    assert refused(read_csv(tmp_path, text, "1900-01-01", "2199-12-31 23:59:59.999999", kind=TIMESTAMP, time=True)) == [text]
    assert refused(read_csv(tmp_path, text, kind=TIMESTAMP)) == []


# --- other Arrow types that mean the same

DICTIONARY = pa.array(["2", "30", None, "2"]).dictionary_encode()
SAME = {
    "int32": (pa.array([2, 30, None, 2], pa.int32()), LONG, [2, 30, None, 2]),
    "uint64": (pa.array([2, 2**63 - 1], pa.uint64()), LONG, [2, 2**63 - 1]),
    "whole doubles": (pa.array([2.0, None]), LONG, [2, None]),
    "whole decimals": (pa.array([Decimal("2.00")], pa.decimal128(12, 2)), LONG, [2]),
    "dictionary": (DICTIONARY, LONG, [2, 30, None, 2]),
    "dictionary of text": (DICTIONARY, STRING, ["2", "30", None, "2"]),
    "dictionary of numbers": (pa.array([7, 7, None]).dictionary_encode(), LONG, [7, 7, None]),
    "large text": (pa.array(["2", None], pa.large_string()), LONG, [2, None]),
    "large text as text": (pa.array(["a", None], pa.large_string()), STRING, ["a", None]),
    "float32": (pa.array([0.5], pa.float32()), DOUBLE, [0.5]),
    "integers as doubles": (pa.array([2]), DOUBLE, [2.0]),
    "decimals as doubles": (pa.array([Decimal("3.10"), Decimal("-0.01"), None], pa.decimal128(12, 2)), DOUBLE, [3.1, -0.01, None]),
    "doubles as decimals": (pa.array([3.0, None]), decimal(12, 2), [Decimal("3.00"), None]),
    "date32": (pa.array([date(2017, 3, 1)]), TIMESTAMP, [datetime(2017, 3, 1, tzinfo=UTC)]),
    "date64": (pa.array([date(2017, 3, 1)], pa.date64()), DATE, [date(2017, 3, 1)]),
    "seconds": (pa.array([1488369600], pa.timestamp("s")), TIMESTAMP, [NOON]),
    "nanoseconds": (pa.array([1488369600_000_001_999, None], pa.timestamp("ns")), TIMESTAMP, [NOON + timedelta(microseconds=1), None]),
    "zoned nanoseconds": (pa.array([1488369600_000_000_000], pa.timestamp("ns", "America/New_York")), TIMESTAMP, [NOON]),
    "zoned microseconds": (pa.array([1488369600_000_000], pa.timestamp("us", "+02:00")), TIMESTAMP, [NOON]),
    "nothing at all": (pa.nulls(2), LONG, [None, None]),
}


@pytest.mark.parametrize("name", SAME)
def test_another_type_that_means_the_same_is_read_as_the_contract_says(tmp_path: Path, name: str) -> None:
    values, kind, expected = SAME[name]
    content = read_parquet(tmp_path, values, kind)
    assert (found(content), content.rejected) == (expected, ())
    assert content.rows.schema.field("cell").type == arrow_type(kind)


def test_decimals_as_doubles_keep_every_cent(tmp_path: Path) -> None:
    cents = [Decimal(n) / 100 for n in (*range(-500, 50_000, 7), 999_999_999_999, -999_999_999_999)]
    doubles = found(read_parquet(tmp_path, pa.array(cents, pa.decimal128(12, 2)), DOUBLE))
    assert [Decimal(one).quantize(Decimal("0.01")) for one in doubles] == cents


@pytest.mark.parametrize(
    ("values", "kind", "bad"),
    [
        (pa.array([2.0, 2.5]), LONG, 2.5),
        (pa.array([1, 2**63], pa.uint64()), LONG, 2**63),
        (pa.array([Decimal("1.00"), Decimal("2.50")], pa.decimal128(12, 2)), LONG, "2.50"),
        (pa.array(["2", "two"]).dictionary_encode(), LONG, "two"),
        (pa.array(["2", "two"], pa.large_string()), LONG, "two"),
    ],
    ids=["fraction", "uint64", "decimal", "dictionary", "large text"],
)
def test_a_cell_of_another_type_that_does_not_mean_the_same_costs_its_row(tmp_path: Path, values: pa.Array, kind: Type, bad: Any) -> None:
    content = read_parquet(tmp_path, values, kind)
    assert (len(found(content)), refused(content)) == (1, [bad])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_double_that_is_not_finite_costs_its_row(tmp_path: Path, bad: float) -> None:
    content = read_parquet(tmp_path, pa.array([1.0, bad, None]), DOUBLE)
    assert found(content) == [1.0, None]
    assert content.rejected[0].reasons == (f"cell is {bad!r}, not a double that is finite",)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (pa.array([True]), LONG),
        (pa.array([True]), STRING),
        (pa.array([1488369600]), TIMESTAMP),
        (pa.array([17226], pa.int32()), DATE),
        (pa.array([date(2017, 3, 1)]), LONG),
        (pa.array([NOON]), DOUBLE),
        (pa.array([timedelta(1)]), LONG),
        (pa.array([["a"]]), STRING),
        (pa.array([True]).dictionary_encode(), LONG),
    ],
    ids=lambda one: getattr(one, "spark", None) or str(one.type),
)
def test_a_type_that_means_something_else_stops_the_file(tmp_path: Path, values: pa.Array, kind: Type) -> None:
    with pytest.raises(LandingError, match=r"^bronze\.cells: cells/2017-03-01/cells\.parquet has cell as .*, and a .* is expected\. Land the file again"):
        read_parquet(tmp_path, values, kind)


@hypothesis(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(-(2**70), 2**70) | st.none() | st.sampled_from(["x", "1.5", "-"]), min_size=1, max_size=40))
def test_no_cell_is_lost_or_invented_however_good_and_bad_ones_lie(tmp_path: Path, cells_: list[Any]) -> None:
    content = read_parquet(tmp_path, pa.array([None if one is None else str(one) for one in cells_], pa.string()), LONG)
    fits = [one is None or (isinstance(one, int) and -(2**63) <= one < 2**63) for one in cells_]
    assert found(content) == [one for one, good in zip(cells_, fits, strict=True) if good]
    assert refused(content) == [str(one) for one, good in zip(cells_, fits, strict=True) if not good]


# --- what has landed


@pytest.fixture
def zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MILLRACE_LANDING", str(tmp_path))
    return tmp_path


def land(zone: Path, name: str) -> None:
    path = zone / "cells" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("cell\n1\n")


def test_coverage_runs_from_the_first_folder_with_a_file_to_the_last(zone: Path) -> None:
    for name in ("2017-03-02/a.csv", "2017-03-05/b.csv", "2017-03-01/.hidden.csv", "2017-03-09/_half.csv", "2017-03-07/c.csv.tmp"):
        land(zone, name)
    (zone / "cells" / "2017-01-01").mkdir()
    assert landing.coverage((cells(LONG),)) == Interval(date(2017, 3, 2), date(2017, 3, 6))


@pytest.mark.parametrize("nothing", [(), ("2017-03-01/.hidden.csv",)])
def test_a_landing_zone_without_a_file_covers_nothing(zone: Path, nothing: tuple[str, ...]) -> None:
    for name in nothing:
        land(zone, name)
    with pytest.raises(LandingError, match="is empty"):
        landing.coverage((cells(LONG),))


def test_a_file_in_place_of_a_tables_folder_is_no_day(zone: Path) -> None:
    (zone / "cells").touch()
    assert landing.files(cells(LONG)) == []


def test_only_files_of_the_interval_are_judged(zone: Path) -> None:
    for name in ("2017-03-01/a.csv", "2017-03-02/b.xlsx"):
        land(zone, name)
    first = Interval(date(2017, 3, 1), date(2017, 3, 2))
    assert [one.name for one in landing.files(cells(LONG), first)] == ["cells/2017-03-01/a.csv"]
    with pytest.raises(LandingError, match=r"cells/2017-03-02/b\.xlsx is neither"):
        landing.files(cells(LONG))

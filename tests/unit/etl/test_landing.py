"""Cells become what the contract says, from text and from every Arrow type that means the same; a cell that does not
fit costs its row.
"""

import json
import math
import os
import sys
import traceback
from dataclasses import replace
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
from etl.sources import landing
from etl.sources.landing import Content, LandedFile, LandingError
from lake.publishing import arrow_type

NOON = datetime(2017, 3, 1, 12, tzinfo=UTC)


def cells(kind: Type, *, time: bool = False) -> Table:
    """A bronze table whose only column of its own is `cell`."""
    return Table(
        layer=Layer.BRONZE,
        name="cells",
        doc="Cells",
        grain="one row per cell",
        owner="me",
        freshness=timedelta(days=1),
        columns=(Column("cell", kind, "A cell"),),
        time_column="cell" if time else None,
    )


def read_parquet(path: Path, values: pa.Array, kind: Type, *, time: bool = False) -> Content:
    file = path / "cells.parquet"
    pq.write_table(pa.table({"cell": values}), file)
    return landing.read(cells(kind, time=time), LandedFile(file, "cells/2017-03-01/cells.parquet", date(2017, 3, 1)))


def read_csv(path: Path, *lines: str, kind: Type, time: bool = False) -> Content:
    file = path / "cells.csv"
    file.write_text("\n".join(["cell,n", *(f"{line},{n}" for n, line in enumerate(lines)), ""]))
    return landing.read(cells(kind, time=time), LandedFile(file, "cells/2017-03-01/cells.csv", date(2017, 3, 1)))


def cells_of(content: Content) -> list[Any]:
    return content.rows["cell"].to_pylist()


def refused(content: Content) -> list[Any]:
    return [json.loads(row.row)["cell"] for row in content.rejected]


# --- text

TEXTS: tuple[tuple[Type, dict[str, Any], tuple[str, ...]], ...] = (
    (
        LONG,
        {"12": 12, "-3": -3, "007": 7, "": None, str(2**63 - 1): 2**63 - 1},
        ("1.5", "1e3", "twelve", "1 2", "NULL", "0x10", "-0X1f", str(2**63)),
    ),
    (
        DOUBLE,
        {"1.5": 1.5, "-0": -0.0, "1e3": 1000.0, "5.55e-17": 5.55e-17, "": None},
        ("1.5 USD", "nan", "NaN", "inf", "-Infinity", "1e999", "cheap"),
    ),
    (decimal(12, 2), {"1.50": Decimal("1.50"), "-3": Decimal("-3.00"), "": None}, ("1.505", "12345678901.00", "cheap")),
    (BOOLEAN, {"true": True, "False": False, "1": True, "0": False, "": None}, ("yes", "2", "t")),
    (
        DATE,
        {"2017-02-28": date(2017, 2, 28), "": None},
        ("2017-02-29", "28/02/2017", "20170228", "2017-02-28 10:00:00"),
    ),
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


@pytest.mark.parametrize(("kind", "good", "bad"), TEXTS, ids=lambda value: getattr(value, "spark", ""))
def test_text_in_a_csv_becomes_the_type_or_costs_its_row(
    tmp_path: Path, kind: Type, good: dict[str, Any], bad: tuple[str, ...]
) -> None:
    content = read_csv(tmp_path, *good, *bad, kind=kind)
    assert cells_of(content) == [*good.values()]
    assert refused(content) == [*bad]
    assert content.total == len(good) + len(bad)
    assert content.rows.schema.field("cell").type == arrow_type(kind)


@pytest.mark.parametrize(("kind", "good", "bad"), TEXTS[:-1], ids=lambda value: getattr(value, "spark", ""))
def test_text_in_a_parquet_file_is_read_as_in_a_csv(
    tmp_path: Path, kind: Type, good: dict[str, Any], bad: tuple[str, ...]
) -> None:
    content = read_parquet(tmp_path, pa.array([text or None for text in (*good, *bad)]), kind)
    assert (cells_of(content), refused(content)) == ([*good.values()], [*bad])


def test_a_reason_names_the_column_the_cell_and_what_was_expected(tmp_path: Path) -> None:
    (row,) = read_csv(tmp_path, "twelve", kind=LONG).rejected
    assert row.reasons == ("cell is 'twelve', not a bigint",)
    assert (row.file, row.day) == ("cells/2017-03-01/cells.csv", date(2017, 3, 1))


@pytest.mark.parametrize("text", ["1899-12-31 23:59:59.999999", "2200-01-01", "0001-01-01", "9999-12-31"])
def test_a_time_that_days_cannot_be_computed_from_costs_its_row_only_in_the_time_column(
    tmp_path: Path, text: str
) -> None:
    assert refused(read_csv(tmp_path, text, "1900-01-01", "2199-12-31 23:59:59.999999", kind=TIMESTAMP, time=True)) == [
        text
    ]
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
    "decimals as doubles": (
        pa.array([Decimal("3.10"), Decimal("-0.01"), None], pa.decimal128(12, 2)),
        DOUBLE,
        [3.1, -0.01, None],
    ),
    "doubles as decimals": (pa.array([3.0, None]), decimal(12, 2), [Decimal("3.00"), None]),
    "date32": (pa.array([date(2017, 3, 1)]), TIMESTAMP, [datetime(2017, 3, 1, tzinfo=UTC)]),
    "date64": (pa.array([date(2017, 3, 1)], pa.date64()), DATE, [date(2017, 3, 1)]),
    "seconds": (pa.array([1488369600], pa.timestamp("s")), TIMESTAMP, [NOON]),
    "nanoseconds": (
        pa.array([1488369600_000_001_999, None], pa.timestamp("ns")),
        TIMESTAMP,
        [NOON + timedelta(microseconds=1), None],
    ),
    "zoned nanoseconds": (
        pa.array([1488369600_000_000_000], pa.timestamp("ns", "America/New_York")),
        TIMESTAMP,
        [NOON],
    ),
    "zoned microseconds": (pa.array([1488369600_000_000], pa.timestamp("us", "+02:00")), TIMESTAMP, [NOON]),
    "nothing at all": (pa.nulls(2), LONG, [None, None]),
}


@pytest.mark.parametrize("name", SAME)
def test_another_type_that_means_the_same_is_read_as_the_contract_says(tmp_path: Path, name: str) -> None:
    values, kind, expected = SAME[name]
    content = read_parquet(tmp_path, values, kind)
    assert (cells_of(content), content.rejected) == (expected, ())
    assert content.rows.schema.field("cell").type == arrow_type(kind)


def test_decimals_as_doubles_keep_every_cent(tmp_path: Path) -> None:
    cents = [Decimal(n) / 100 for n in (*range(-500, 50_000, 7), 999_999_999_999, -999_999_999_999)]
    doubles = cells_of(read_parquet(tmp_path, pa.array(cents, pa.decimal128(12, 2)), DOUBLE))
    assert [Decimal(value).quantize(Decimal("0.01")) for value in doubles] == cents


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
def test_a_cell_of_another_type_that_does_not_mean_the_same_costs_its_row(
    tmp_path: Path, values: pa.Array, kind: Type, bad: Any
) -> None:
    content = read_parquet(tmp_path, values, kind)
    assert (len(cells_of(content)), refused(content)) == (1, [bad])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_double_that_is_not_finite_costs_its_row(tmp_path: Path, bad: float) -> None:
    content = read_parquet(tmp_path, pa.array([1.0, bad, None]), DOUBLE)
    assert cells_of(content) == [1.0, None]
    assert content.rejected[0].reasons == (f"cell is {bad!r}, not a double that is finite",)


def test_text_of_a_parquet_file_that_is_not_utf_8_costs_its_row(tmp_path: Path) -> None:
    content = read_parquet(tmp_path, pa.array([b"ab", "é".encode(), b"c\xff", None]).view(pa.string()), STRING)
    assert cells_of(content) == ["ab", "é", None]
    assert refused(content) == [r"c\xff"]
    assert content.rejected[0].reasons == (r"cell is 'c\\xff', not a string in UTF-8",)


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
    ids=lambda value: getattr(value, "spark", None) or str(value.type),
)
def test_a_type_that_means_something_else_stops_the_file(tmp_path: Path, values: pa.Array, kind: Type) -> None:
    with pytest.raises(
        LandingError,
        match=(
            r"^bronze\.cells: cells/2017-03-01/cells\.parquet has cell as .*, and a .* is expected\. Land the file"
            r" again"
        ),
    ):
        read_parquet(tmp_path, values, kind)


@hypothesis(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(-(2**70), 2**70) | st.none() | st.sampled_from(["x", "1.5", "-"]), min_size=1, max_size=40))
def test_no_cell_is_lost_or_invented_however_good_and_bad_ones_lie(tmp_path: Path, cells_: list[Any]) -> None:
    content = read_parquet(
        tmp_path, pa.array([None if cell is None else str(cell) for cell in cells_], pa.string()), LONG
    )
    fits = [cell is None or (isinstance(cell, int) and -(2**63) <= cell < 2**63) for cell in cells_]
    assert cells_of(content) == [cell for cell, good in zip(cells_, fits, strict=True) if good]
    assert refused(content) == [str(cell) for cell, good in zip(cells_, fits, strict=True) if not good]


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
    for name in (
        "2017-03-02/a.csv",
        "2017-03-05/b.csv",
        "2017-03-01/.hidden.csv",
        "2017-03-09/_half.csv",
        "2017-03-07/c.csv.tmp",
    ):
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
    assert [file.name for file in landing.files(cells(LONG), first)] == ["cells/2017-03-01/a.csv"]
    with pytest.raises(LandingError, match=r"cells/2017-03-02/b\.xlsx is neither"):
        landing.files(cells(LONG))


def test_a_suffix_in_capitals_gets_an_error_that_says_how_to_write_it(zone: Path) -> None:
    land(zone, "2017-03-01/UPPER.CSV")
    with pytest.raises(
        LandingError, match=r"cells/2017-03-01/UPPER\.CSV ends in \.CSV\. Rename it to end in \.csv, in small letters$"
    ):
        landing.files(cells(LONG))


def test_blanks_around_a_name_of_the_header_are_reported(tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    path.write_text("other, cell\n1, 2\n")
    with pytest.raises(
        LandingError,
        match=(
            r"lacks 1 column: cell\. Got: 'other', ' cell'\. Remove the blanks around cell in its header\. Land the"
            r" file again"
        ),
    ):
        landing.read(cells(LONG), LandedFile(path, "cells/2017-03-01/cells.csv", date(2017, 3, 1)))


# --- names and links


def refusal_of(*tables: Table) -> str:
    """What listing and coverage say, which is the same."""
    with pytest.raises(LandingError) as listed:
        landing.files(*tables)
    with pytest.raises(LandingError) as covered:
        landing.coverage(tables)
    assert str(listed.value) == str(covered.value)
    return str(listed.value)


@pytest.fixture
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table's folder that lies elsewhere."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    land(elsewhere, "2017-03-01/a.csv")
    return elsewhere / "cells"


@pytest.mark.parametrize("linked", ["cells", "cells/2017-03-01", "cells/2017-03-01/a.csv"])
def test_a_link_out_of_the_landing_zone_is_not_followed(zone: Path, outside: Path, linked: str) -> None:
    link = zone / linked
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside.parent / linked)
    assert refusal_of(cells(LONG)).startswith(
        f"bronze.cells: {linked} is a symbolic link out of the landing zone, which is not followed. Land the file or"
        " folder itself"
    )


def test_a_link_that_goes_out_by_way_of_another_is_not_followed(zone: Path, outside: Path) -> None:
    land(zone, "2017-03-01/a.csv")
    (zone / ".store").symlink_to(outside)
    (zone / "cells" / "2017-03-02").symlink_to("../.store/2017-03-01")
    assert "cells/2017-03-02 is a symbolic link out of the landing zone" in refusal_of(cells(LONG))


def test_a_folder_whose_name_begins_like_the_landing_zones_is_outside(zone: Path) -> None:
    twin = zone.with_name(f"{zone.name}2")
    land(twin, "2017-03-01/a.csv")
    (zone / "cells").symlink_to(twin / "cells")
    assert "out of the landing zone" in refusal_of(cells(LONG))


@pytest.mark.parametrize("linked", ["cells", "cells/2017-03-01", "cells/2017-03-01/a.csv"])
@pytest.mark.parametrize("target", ["itself", "nothing"])
def test_a_link_that_leads_nowhere_is_refused(zone: Path, linked: str, target: str) -> None:
    link = zone / linked
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(link if target == "itself" else zone / "gone")
    assert refusal_of(cells(LONG)).startswith(f"bronze.cells: {linked} is a symbolic link that cannot be followed (")


def test_links_within_the_landing_zone_are_followed(zone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    land(zone / ".store", "2017-03-01/a.csv")
    (zone / "cells").symlink_to(".store/cells")
    (zone / "cells" / "2017-03-02").symlink_to("2017-03-01")
    (zone / "cells" / "2017-03-01" / "b.csv").symlink_to("a.csv")
    monkeypatch.setenv("MILLRACE_LANDING", str(zone / "link"))
    (zone / "link").symlink_to(zone)
    assert [file.name for file in landing.files(cells(LONG))] == [
        f"cells/2017-03-0{day}/{name}.csv" for day in (1, 2) for name in "ab"
    ]
    assert landing.coverage((cells(LONG),)) == Interval(date(2017, 3, 1), date(2017, 3, 3))


@pytest.mark.parametrize("name", ["cells/caf\udce9", "cells/2017-03-01/caf\udce9.csv"])
def test_a_name_that_is_not_utf_8_is_refused(zone: Path, name: str) -> None:
    land(zone, "2017-03-01/a.csv")
    path = zone / name
    if path.suffix:
        path.write_text("cell\n1\n")
    else:
        path.mkdir()
    shown = os.fsencode(name)
    assert (
        refusal_of(cells(LONG))
        == f"bronze.cells: the name {shown!r} in the landing zone is not UTF-8. Rename it, then run again"
    )


def test_a_hidden_name_that_is_not_utf_8_is_passed_over(zone: Path) -> None:
    land(zone, "2017-03-01/a.csv")
    (zone / "cells" / "2017-03-01" / ".caf\udce9").touch()
    assert len(landing.files(cells(LONG))) == 1


def test_a_misspelled_table_that_is_not_utf_8_is_refused_in_a_message_that_prints(zone: Path) -> None:
    (zone / "cell\udce9").mkdir()
    with pytest.raises(LandingError) as caught:
        landing.coverage((cells(LONG),))
    assert r"the landing zone has cell\xe9, which is the name of no table" in str(caught.value).encode().decode()


def test_a_file_that_is_gone_since_it_was_listed_is_refused(zone: Path) -> None:
    land(zone, "2017-03-01/a.csv")
    (file,) = landing.files(cells(LONG))
    file.path.unlink()
    for step in (landing.digest, landing.read):
        with pytest.raises(
            LandingError,
            match=r"cells/2017-03-01/a\.csv cannot be read as .* \(No such file or directory\)\. Land the file again",
        ):
            step(cells(LONG), file)


# --- what a message says of a file that is refused

SECRET = "Jane-Doe-42"
HEADER = "cell,n\n"
REFUSED = {
    "no header": f"{SECRET},7\n".encode(),
    "no header, one cell": f"{SECRET}\n".encode(),
    "another separator": f"{SECRET};7\n".encode(),
    "a quote that stays open": f'{HEADER}{SECRET},"{SECRET}\n{SECRET},7\n'.encode(),
    "a quote in the header": f'cell,"{SECRET}\n'.encode(),
    "Latin-1": f"{HEADER}{SECRET}\u00fc,7\n".encode("latin-1"),
    "Latin-1 in a line of too many cells": f"{HEADER}{SECRET}\u00fc,7,8\n".encode("latin-1"),
    "UTF-16": f"{HEADER}{SECRET},7\n".encode("utf-16"),
    "NUL": f"{HEADER}{SECRET},7\n\0\0".encode(),
    "parquet": b"PAR1" + SECRET.encode() + b"\xff,\n1,2,3\nPAR1",
    "gzip": b"\x1f\x8b" + SECRET.encode(),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_shows_no_cell_and_prints_nothing_else(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)  # which prints
    path = tmp_path / "cells.csv"
    path.write_bytes(REFUSED[name])
    with pytest.raises(LandingError) as caught:
        landing.read(cells(LONG), LandedFile(path, "cells/2017-03-01/cells.csv", date(2017, 3, 1)))
    message = "".join(traceback.format_exception(caught.value))
    assert SECRET not in message
    assert "Land the file again" in str(caught.value)
    assert capfd.readouterr().err == ""


def test_a_refused_line_is_named(tmp_path: Path) -> None:
    message = (
        r"cells\.csv cannot be read as CSV \(line 3 opens a quote that is not closed on that line, in column cell\)\."
        r" Close the quote, or double it"
    )
    with pytest.raises(LandingError, match=message):
        read_csv(tmp_path, "1", '"2', kind=STRING)
    with pytest.raises(LandingError, match="in a column that the contract does not have"):
        read_csv(tmp_path, '1,"', kind=STRING)


def test_a_file_of_another_format_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    pq.write_table(pa.table({"cell": [1]}), path)
    with pytest.raises(
        LandingError, match=r"cannot be read as CSV \(it is a parquet file, so its name should end in \.parquet\)"
    ):
        landing.read(cells(LONG), LandedFile(path, "cells/2017-03-01/cells.csv", date(2017, 3, 1)))


@pytest.mark.parametrize("size", [1_000_000, 3_000_000])
def test_a_long_cell_is_read(tmp_path: Path, size: int) -> None:
    assert cells_of(read_csv(tmp_path, "a", "x" * size, "b", kind=STRING)) == ["a", "x" * size, "b"]


def test_a_header_alone_has_no_rows(tmp_path: Path) -> None:
    content = read_csv(tmp_path, kind=LONG)
    assert (content.total, cells_of(content), content.rows.schema.field("cell").type) == (0, [], pa.int64())


def test_records_that_the_parser_does_not_read_stop_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two counts have no code in common; here one of them is wrong on purpose."""
    scan = landing.csv_lines.scan
    monkeypatch.setattr(landing.csv_lines, "scan", lambda *arguments: replace(scan(*arguments), records=4))
    with pytest.raises(LandingError, match=r"its lines hold 4 records, and 2 were read"):
        read_csv(tmp_path, "1", "2", kind=LONG)

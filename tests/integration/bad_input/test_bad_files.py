"""Files that cannot be trusted as a whole stop their table, and say which table, which file and what to do."""

import shutil
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from etl.sources.landing import LandingError
from tests.cinema import COLUMNS, Cinema, ticket
from tests.landing import rows

DAY, NEXT, END = "2017-03-01", "2017-03-02", "2017-03-03"
HEADER = ",".join(COLUMNS["tickets"].names)
LINE = "1,10,5,1,2,3.0,0.5,10,2017-03-02 10:00:00"
FILE = "bronze.tickets: tickets/2017-03-02/tickets"
AGAIN = "Land the file again"


def csv(cinema: Cinema, *lines: str, header: str = HEADER, encoding: str = "utf-8") -> Path:
    """Land tickets of the second day as these lines."""
    path = cinema.path("tickets", NEXT, suffix=".csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in (header, *lines)).encode(encoding))
    return path


def parquet(cinema: Cinema, **columns: pa.Array) -> Path:
    """Land one valid ticket of the second day, with some of its columns replaced."""
    table = pa.Table.from_pylist([ticket(5, at="2017-03-02 10:00:00")], schema=COLUMNS["tickets"])
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    return cinema.land("tickets", table, NEXT)


# --- torn and empty


def test_a_truncated_parquet_file_is_refused(published_cinema: Cinema, refused: Callable) -> None:
    path = parquet(published_cinema)
    path.write_bytes(path.read_bytes()[:-20])
    refused(
        LandingError,
        f"{FILE}.parquet cannot be read as parquet",
        "footer",
        AGAIN,
        "nothing of this table was published",
    )


def test_a_parquet_file_with_torn_pages_is_refused(published_cinema: Cinema, refused: Callable) -> None:
    path = parquet(published_cinema)
    content = path.read_bytes()
    path.write_bytes(content[:8] + bytes(52) + content[60:])
    refused(LandingError, f"{FILE}.parquet cannot be read as parquet", AGAIN)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_file_of_0_bytes_is_refused(published_cinema: Cinema, refused: Callable, suffix: str) -> None:
    published_cinema.land("tickets", [], NEXT, suffix=suffix).write_bytes(b"")
    refused(LandingError, f"{FILE}{suffix} cannot be read as {'CSV' if suffix == '.csv' else 'parquet'}", AGAIN)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_csv_that_is_not_utf_8_is_refused(published_cinema: Cinema, refused: Callable, encoding: str) -> None:
    csv(published_cinema, LINE.replace("10:00", "1\u00fc:00"), encoding=encoding)
    refused(LandingError, f"{FILE}.csv cannot be read as CSV (line {1 if encoding == 'utf-16' else 2} ", "UTF-8", AGAIN)


def test_a_refused_file_that_lands_whole_is_loaded_by_the_next_run(
    published_cinema: Cinema, run_tickets: Callable, refused: Callable
) -> None:
    path = parquet(published_cinema)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    refused(LandingError)
    path.write_bytes(whole)
    assert run_tickets(DAY, END)["silver.tickets"].account.published == 1
    assert [row["booking_id"] for row in rows("silver.tickets")] == [1, 2, 5]


# --- columns


@pytest.mark.parametrize("name", ["cardid", "Card_Id", "car_d_id"])
def test_a_renamed_column_is_refused_with_the_right_one_suggested(
    published_cinema: Cinema, refused: Callable, name: str
) -> None:
    csv(published_cinema, LINE, header=HEADER.replace("card_id", name))
    refused(
        LandingError,
        f"{FILE}.csv lacks 1 column: card_id.",
        f"It has {name} instead of card_id.",
        "contracts/bronze/tickets.py",
    )


def test_a_blank_in_the_header_is_told(published_cinema: Cinema, refused: Callable) -> None:
    csv(published_cinema, LINE, header=HEADER.replace("card_id", " card_id"))
    refused(
        LandingError,
        f"{FILE}.csv lacks 1 column: card_id. Got: ' card_id'",
        "Remove the blanks around card_id in its header",
        AGAIN,
    )


def test_a_missing_column_is_refused_and_named(published_cinema: Cinema, refused: Callable) -> None:
    published_cinema.land("tickets", pa.Table.from_pylist([ticket(5)]).drop_columns(["seats", "show_week"]), NEXT)
    refused(LandingError, f"{FILE}.parquet lacks 2 columns: seats, show_week. Got: card_id", AGAIN)


def test_another_separator_is_told(published_cinema: Cinema, refused: Callable) -> None:
    csv(published_cinema, LINE.replace(",", ";"), header=HEADER.replace(",", ";"))
    refused(LandingError, f"{FILE}.csv lacks 9 columns", "A comma is expected")


def test_a_column_that_comes_twice_is_refused(published_cinema: Cinema, refused: Callable) -> None:
    csv(published_cinema, f"{LINE},7", header=f"{HEADER},card_id")
    refused(LandingError, f"{FILE}.csv has card_id more than once", AGAIN)


def test_a_column_more_is_passed_over(published_cinema: Cinema, run_tickets: Callable) -> None:
    csv(published_cinema, f"{LINE},7", header=f"{HEADER},colour")
    assert run_tickets(DAY, END)["silver.tickets"].account.published == 1


# --- types


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("seats", pa.array([{"units": 2}])),
        ("seats", pa.array([True])),
        ("seats", pa.array([[2]])),
        ("seats", pa.array([datetime(2017, 3, 2)])),
        ("paid", pa.array([True])),
        ("sold_time", pa.array([1488448800])),
        ("sold_time", pa.array([1488448800.0])),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.type),
)
def test_a_column_of_another_kind_is_refused(
    published_cinema: Cinema, refused: Callable, column: str, values: pa.Array
) -> None:
    parquet(published_cinema, **{column: values})
    kind = str(values.type).partition("<")[0]
    refused(LandingError, f"{FILE}.parquet has {column} as {kind}", "is expected. Land the file again with that type")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("seats", pa.array([2.0])),
        ("seats", pa.array(["2"]).dictionary_encode()),
        ("seats", pa.array([2], pa.uint8())),
        ("sold_time", pa.array(["2017-03-02T12:00:00+02:00"])),
        ("sold_time", pa.array([1488448800000000000], pa.timestamp("ns", "America/New_York"))),
    ],
    ids=lambda value: value if isinstance(value, str) else str(value.type),
)
def test_another_type_that_means_the_same_is_loaded(
    published_cinema: Cinema, run_tickets: Callable, column: str, values: pa.Array
) -> None:
    parquet(published_cinema, **{column: values})
    run_tickets(DAY, END)
    (found,) = rows("silver.tickets", where="booking_id = 5")
    assert (found["seats"], f"{found['sold_at']:%d %H:%M}") == (2, "02 10:00")


# --- the landing zone


def test_no_landing_zone(published_cinema: Cinema, refused: Callable) -> None:
    shutil.rmtree(published_cinema.root)
    refused(LandingError, f"there is no landing zone at {published_cinema.root}", "make sample", "MILLRACE_LANDING")


def test_an_empty_landing_zone(published_cinema: Cinema, refused: Callable) -> None:
    shutil.rmtree(published_cinema.root)
    published_cinema.root.mkdir()
    refused(LandingError, f"the landing zone at {published_cinema.root} is empty", "make sample")


@pytest.mark.parametrize("name", ["march", "2017-3-1", "2017-02-30", "9999-12-31", "0001-01-01"])
def test_a_folder_that_is_not_a_date(published_cinema: Cinema, refused: Callable, name: str) -> None:
    published_cinema.land("tickets", [ticket(5)], name)
    refused(LandingError, f"bronze.tickets: the folder tickets/{name} is not a date", "Rename it or move it away")


@pytest.mark.parametrize("name", ["tickets.xlsx", "tickets.csv.gz", "tickets"])
def test_a_file_of_an_unknown_format(published_cinema: Cinema, refused: Callable, name: str) -> None:
    published_cinema.path("tickets").with_name(name).write_bytes(b"x")
    refused(
        LandingError,
        f"bronze.tickets: tickets/{DAY}/{name} is neither .parquet nor .csv",
        "move it out of the landing zone",
    )


def test_a_suffix_in_capitals_is_told(published_cinema: Cinema, refused: Callable) -> None:
    published_cinema.path("tickets").with_name("tickets.PARQUET").write_bytes(b"x")
    refused(
        LandingError,
        f"bronze.tickets: tickets/{DAY}/tickets.PARQUET ends in .PARQUET. Rename it to end in .parquet",
    )


@pytest.mark.parametrize("name", ["2017-03-02", "tickets.parquet"])
def test_a_file_outside_of_any_day(published_cinema: Cinema, refused: Callable, name: str) -> None:
    (published_cinema.root / "tickets" / name).write_bytes(b"x")
    refused(
        LandingError,
        f"bronze.tickets: tickets/{name} lies outside of any day",
        "Move it to the folder of its day",
    )


def test_a_folder_in_the_place_of_a_file(published_cinema: Cinema, refused: Callable) -> None:
    published_cinema.path("tickets", name="more").mkdir()
    refused(LandingError, f"bronze.tickets: tickets/{DAY}/more.parquet is not a file")


def test_a_link_to_nothing(published_cinema: Cinema, refused: Callable) -> None:
    published_cinema.path("tickets", name="more").symlink_to("/nowhere.parquet")
    refused(LandingError, f"bronze.tickets: tickets/{DAY}/more.parquet is a symbolic link that cannot be followed")


@pytest.mark.parametrize("name", [".tickets.parquet", "_SUCCESS", "tickets.parquet.tmp"])
def test_a_file_that_is_still_being_written_is_passed_over(
    published_cinema: Cinema, run_tickets: Callable, untouched: Callable, name: str
) -> None:
    published_cinema.path("tickets").with_name(name).write_bytes(b"x")
    with untouched():
        run_tickets(DAY, NEXT)


def test_a_file_that_was_corrected_and_then_put_back_counts_as_it_is_now(
    published_cinema: Cinema, run_tickets: Callable
) -> None:
    for value in (4.0, 3.0):
        published_cinema.land("tickets", [ticket(1, paid=value), ticket(2, movie=2, guest=2)])
        run_tickets(DAY, NEXT)
    assert [row["paid"] for row in rows("silver.tickets", where="booking_id = 1")] == [Decimal("3.00")]


def test_a_folder_that_is_no_table_is_refused_with_the_name_it_may_have_meant(cinema: Cinema, run: Callable) -> None:
    cinema.path("tickets").parent.parent.rename(cinema.root / "ticket")
    with pytest.raises(LandingError, match=r"ticket, which is the name of no table\. Rename it to tickets"):
        run("2017-03-01", "2017-03-02")

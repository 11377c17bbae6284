"""Files that cannot be trusted as a whole stop their table, and say which table, which file and what to do."""

import shutil
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from etl.sources.landing import LandingError
from tests.landing import COLUMNS, Shop, purchase, rows

DAY, NEXT, END = "2017-03-01", "2017-03-02", "2017-03-03"
HEADER = ",".join(COLUMNS["transactions"].names)
LINE = "1,10,5,1,2,3.0,0.5,0,0,10,2017-03-02 10:00:00"
FILE = "bronze.transactions: transactions/2017-03-02/transactions"
AGAIN = "Land the file again"


def csv(shop: Shop, *lines: str, header: str = HEADER, encoding: str = "utf-8") -> Path:
    """Land transactions of the second day as these lines."""
    path = shop.path("transactions", NEXT, suffix=".csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes("".join(f"{line}\n" for line in (header, *lines)).encode(encoding))
    return path


def parquet(shop: Shop, **columns: pa.Array) -> Path:
    """Land one valid transaction of the second day, with some of its columns replaced."""
    table = pa.Table.from_pylist([purchase(5, at="2017-03-02 10:00:00")], schema=COLUMNS["transactions"])
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, values)
    return shop.land("transactions", table, NEXT)


# --- torn and empty


def test_a_truncated_parquet_file_is_refused(stocked: Shop, refused: Callable) -> None:
    path = parquet(stocked)
    path.write_bytes(path.read_bytes()[:-20])
    refused(
        LandingError,
        f"{FILE}.parquet cannot be read as parquet",
        "footer",
        AGAIN,
        "nothing of this table was published",
    )


def test_a_parquet_file_with_torn_pages_is_refused(stocked: Shop, refused: Callable) -> None:
    path = parquet(stocked)
    content = path.read_bytes()
    path.write_bytes(content[:8] + bytes(52) + content[60:])
    refused(LandingError, f"{FILE}.parquet cannot be read as parquet", AGAIN)


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_file_of_0_bytes_is_refused(stocked: Shop, refused: Callable, suffix: str) -> None:
    stocked.land("transactions", [], NEXT, suffix=suffix).write_bytes(b"")
    refused(LandingError, f"{FILE}{suffix} cannot be read as {'CSV' if suffix == '.csv' else 'parquet'}", AGAIN)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_csv_that_is_not_utf_8_is_refused(stocked: Shop, refused: Callable, encoding: str) -> None:
    csv(stocked, LINE.replace("10:00", "1\u00fc:00"), encoding=encoding)
    refused(LandingError, f"{FILE}.csv cannot be read as CSV (line {1 if encoding == 'utf-16' else 2} ", "UTF-8", AGAIN)


def test_a_refused_file_that_lands_whole_is_loaded_by_the_next_run(
    stocked: Shop, run_transactions: Callable, refused: Callable
) -> None:
    path = parquet(stocked)
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    refused(LandingError)
    path.write_bytes(whole)
    assert run_transactions(DAY, END)["silver.transactions"].account.published == 1
    assert [row["basket_id"] for row in rows("silver.transactions")] == [1, 2, 5]


# --- columns


@pytest.mark.parametrize("name", ["householdid", "Household_Id", "house_hold_id"])
def test_a_renamed_column_is_refused_with_the_right_one_suggested(stocked: Shop, refused: Callable, name: str) -> None:
    csv(stocked, LINE, header=HEADER.replace("household_id", name))
    refused(
        LandingError,
        f"{FILE}.csv lacks 1 column: household_id.",
        f"It has {name} instead of household_id.",
        "contracts/bronze/transactions.py",
    )


def test_a_blank_in_the_header_is_told(stocked: Shop, refused: Callable) -> None:
    csv(stocked, LINE, header=HEADER.replace("household_id", " household_id"))
    refused(
        LandingError,
        f"{FILE}.csv lacks 1 column: household_id. Got: ' household_id'",
        "Remove the blanks around household_id in its header",
        AGAIN,
    )


def test_a_missing_column_is_refused_and_named(stocked: Shop, refused: Callable) -> None:
    stocked.land("transactions", pa.Table.from_pylist([purchase(5)]).drop_columns(["quantity", "week"]), NEXT)
    refused(LandingError, f"{FILE}.parquet lacks 2 columns: quantity, week. Got: household_id", AGAIN)


def test_another_separator_is_told(stocked: Shop, refused: Callable) -> None:
    csv(stocked, LINE.replace(",", ";"), header=HEADER.replace(",", ";"))
    refused(LandingError, f"{FILE}.csv lacks 11 columns", "A comma is expected")


def test_a_column_that_comes_twice_is_refused(stocked: Shop, refused: Callable) -> None:
    csv(stocked, f"{LINE},7", header=f"{HEADER},household_id")
    refused(LandingError, f"{FILE}.csv has household_id more than once", AGAIN)


def test_a_column_more_is_passed_over(stocked: Shop, run_transactions: Callable) -> None:
    csv(stocked, f"{LINE},7", header=f"{HEADER},colour")
    assert run_transactions(DAY, END)["silver.transactions"].account.published == 1


# --- types


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("quantity", pa.array([{"units": 2}])),
        ("quantity", pa.array([True])),
        ("quantity", pa.array([[2]])),
        ("quantity", pa.array([datetime(2017, 3, 2)])),
        ("sales_value", pa.array([True])),
        ("transaction_timestamp", pa.array([1488448800])),
        ("transaction_timestamp", pa.array([1488448800.0])),
    ],
    ids=lambda one: one if isinstance(one, str) else str(one.type),
)
def test_a_column_of_another_kind_is_refused(stocked: Shop, refused: Callable, column: str, values: pa.Array) -> None:
    parquet(stocked, **{column: values})
    kind = str(values.type).partition("<")[0]
    refused(LandingError, f"{FILE}.parquet has {column} as {kind}", "is expected. Land the file again with that type")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("quantity", pa.array([2.0])),
        ("quantity", pa.array(["2"]).dictionary_encode()),
        ("quantity", pa.array([2], pa.uint8())),
        ("transaction_timestamp", pa.array(["2017-03-02T12:00:00+02:00"])),
        ("transaction_timestamp", pa.array([1488448800000000000], pa.timestamp("ns", "America/New_York"))),
    ],
    ids=lambda one: one if isinstance(one, str) else str(one.type),
)
def test_another_type_that_means_the_same_is_loaded(
    stocked: Shop, run_transactions: Callable, column: str, values: pa.Array
) -> None:
    parquet(stocked, **{column: values})
    run_transactions(DAY, END)
    (found,) = rows("silver.transactions", where="basket_id = 5")
    assert (found["quantity"], f"{found['transaction_at']:%d %H:%M}") == (2, "02 10:00")


# --- the landing zone


def test_no_landing_zone(stocked: Shop, refused: Callable) -> None:
    shutil.rmtree(stocked.root)
    refused(LandingError, f"there is no landing zone at {stocked.root}", "make sample", "MILLRACE_LANDING")


def test_an_empty_landing_zone(stocked: Shop, refused: Callable) -> None:
    shutil.rmtree(stocked.root)
    stocked.root.mkdir()
    refused(LandingError, f"the landing zone at {stocked.root} is empty", "make sample")


@pytest.mark.parametrize("name", ["march", "2017-3-1", "2017-02-30", "9999-12-31", "0001-01-01"])
def test_a_folder_that_is_not_a_date(stocked: Shop, refused: Callable, name: str) -> None:
    stocked.land("transactions", [purchase(5)], name)
    refused(
        LandingError, f"bronze.transactions: the folder transactions/{name} is not a date", "Rename it or move it away"
    )


@pytest.mark.parametrize("name", ["transactions.xlsx", "transactions.csv.gz", "transactions"])
def test_a_file_of_an_unknown_format(stocked: Shop, refused: Callable, name: str) -> None:
    stocked.path("transactions").with_name(name).write_bytes(b"x")
    refused(
        LandingError,
        f"bronze.transactions: transactions/{DAY}/{name} is neither .parquet nor .csv",
        "move it out of the landing zone",
    )


def test_a_suffix_in_capitals_is_told(stocked: Shop, refused: Callable) -> None:
    stocked.path("transactions").with_name("transactions.PARQUET").write_bytes(b"x")
    refused(
        LandingError,
        f"bronze.transactions: transactions/{DAY}/transactions.PARQUET ends in .PARQUET. Rename it to end in .parquet",
    )


@pytest.mark.parametrize("name", ["2017-03-02", "transactions.parquet"])
def test_a_file_outside_of_any_day(stocked: Shop, refused: Callable, name: str) -> None:
    (stocked.root / "transactions" / name).write_bytes(b"x")
    refused(
        LandingError,
        f"bronze.transactions: transactions/{name} lies outside of any day",
        "Move it to the folder of its day",
    )


def test_a_folder_in_the_place_of_a_file(stocked: Shop, refused: Callable) -> None:
    stocked.path("transactions", name="more").mkdir()
    refused(LandingError, f"bronze.transactions: transactions/{DAY}/more.parquet is not a file")


def test_a_link_to_nothing(stocked: Shop, refused: Callable) -> None:
    stocked.path("transactions", name="more").symlink_to("/nowhere.parquet")
    refused(
        LandingError, f"bronze.transactions: transactions/{DAY}/more.parquet is a symbolic link that cannot be followed"
    )


@pytest.mark.parametrize("name", [".transactions.parquet", "_SUCCESS", "transactions.parquet.tmp"])
def test_a_file_that_is_still_being_written_is_passed_over(
    stocked: Shop, run_transactions: Callable, untouched: Callable, name: str
) -> None:
    stocked.path("transactions").with_name(name).write_bytes(b"x")
    with untouched():
        run_transactions(DAY, NEXT)


def test_a_file_that_was_corrected_and_then_put_back_counts_as_it_is_now(
    stocked: Shop, run_transactions: Callable
) -> None:
    for value in (4.0, 3.0):
        stocked.land("transactions", [purchase(1, sales_value=value), purchase(2, product=2, customer=2)])
        run_transactions(DAY, NEXT)
    assert [row["sales_value"] for row in rows("silver.transactions", where="basket_id = 1")] == [Decimal("3.00")]


def test_a_folder_that_is_no_table_is_refused_with_the_name_it_may_have_meant(shop: Shop, run: Callable) -> None:
    shop.path("transactions").parent.parent.rename(shop.root / "transaction")
    with pytest.raises(LandingError, match=r"transaction, which is the name of no table\. Rename it to transactions"):
        run("2017-03-01", "2017-03-02")

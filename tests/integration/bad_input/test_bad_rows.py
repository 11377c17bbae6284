"""Rows that break a promise go to quarantine with the reason, rows that come again are counted as duplicates, and all
others are published.
"""

import json
import shutil
from collections.abc import Callable
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal

import pyarrow as pa
import pytest

from contracts.report import RowAccount
from etl.bronze import load
from etl.sources.landing import LandingError
from expectations.audit import AuditError
from tests.landing import COLUMNS, Shop, purchase, rows, versions

DAY, NEXT, END = "2017-03-01", "2017-03-02", "2017-03-03"
MORNING = "2017-03-02 10:00:00"
HEADER = ",".join(COLUMNS["transactions"].names)
GOOD = "1,10,5,1,2,3.0,0.5,0,0,10,2017-03-02 10:00:00"
TRANSACTIONS = ("bronze.transactions", "silver.transactions")


def csv(shop: Shop, *lines: str) -> None:
    """Land transactions of the second day as these lines."""
    path = shop.path("transactions", NEXT, suffix=".csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in (HEADER, *lines)))


def quarantined(name: str = "transactions") -> list[tuple[str, list[str]]]:
    """Layer and reasons of each row in quarantine."""
    return [(row["layer"], row["reasons"]) for row in rows(f"quarantine.{name}")]


def baskets(where: str = "true") -> list[int]:
    """The baskets in silver."""
    return [row["basket_id"] for row in rows("silver.transactions", where=where)]


def accounts(reports: dict) -> list[tuple[int, int, int, int]]:
    """Rows in, published, quarantined and duplicates of transactions in bronze and in silver."""
    return [
        (one.rows_in, one.published, one.quarantined, one.duplicates)
        for one in (reports[name].account for name in TRANSACTIONS)
    ]


# --- cells that do not fit


CELLS = (
    (",2,3.0,", ",two,3.0,", "quantity is 'two', not a bigint"),
    (",2,3.0,", ",2.5,3.0,", "quantity is '2.5', not a bigint"),
    (",5,", ",99999999999999999999,", "basket_id is '99999999999999999999', not a bigint"),
    ("3.0", "cheap", "sales_value is 'cheap', not a double that is finite"),
    ("3.0", "nan", "sales_value is 'nan', not a double that is finite"),
    ("3.0", "inf", "sales_value is 'inf', not a double that is finite"),
    (
        "2017-03-02 10:00:00",
        "02/03/2017",
        "transaction_timestamp is '02/03/2017', not a timestamp between 1900 and 2199",
    ),
    (
        "2017-03-02 10:00:00",
        "2017-02-30",
        "transaction_timestamp is '2017-02-30', not a timestamp between 1900 and 2199",
    ),
    (
        "2017-03-02 10:00:00",
        "9999-12-31",
        "transaction_timestamp is '9999-12-31', not a timestamp between 1900 and 2199",
    ),
    (
        "2017-03-02 10:00:00",
        "0001-01-01",
        "transaction_timestamp is '0001-01-01', not a timestamp between 1900 and 2199",
    ),
)
"""A good text, a bad one in its place, and the reason that the row goes."""


def test_a_cell_that_does_not_fit_its_column_costs_its_row(stocked: Shop, run_transactions: Callable) -> None:
    csv(stocked, *[GOOD.replace(good, bad, 1) for good, bad, _ in CELLS], GOOD.replace(",5,", ",6,"))
    reports = run_transactions(DAY, END)
    assert sorted(quarantined()) == sorted(("bronze", [reason]) for _, _, reason in CELLS)
    assert accounts(reports) == [(11, 1, 10, 0), (1, 1, 0, 0)]
    assert baskets() == [1, 2, 6]


def test_every_reason_of_a_row_is_told_and_the_row_is_kept_as_it_was(stocked: Shop, run_transactions: Callable) -> None:
    csv(stocked, "one,10,5,1,two,3.0,0.5,0,0,10,2017-03-02 10:00:00")
    run_transactions(DAY, END)
    (row,) = rows("quarantine.transactions")
    assert row["reasons"] == ["household_id is 'one', not a bigint", "quantity is 'two', not a bigint"]
    assert (row["file"], str(row["day"])) == (f"transactions/{NEXT}/transactions.csv", NEXT)
    assert json.loads(row["row"])["household_id"] == "one"


def test_a_date_that_python_cannot_hold_costs_its_row(stocked: Shop, run_transactions: Callable) -> None:
    far = pa.array([2**56, 1488448800000000], pa.timestamp("us"))
    table = pa.Table.from_pylist([purchase(5), purchase(6)], schema=COLUMNS["transactions"])
    stocked.land("transactions", table.set_column(table.num_columns - 1, "transaction_timestamp", far), NEXT)
    run_transactions(DAY, END)
    ((layer, (reason,)),) = quarantined()
    assert layer == "bronze"
    assert "not a timestamp between 1900 and 2199" in reason
    assert baskets() == [1, 2, 6]


def test_money_with_too_many_digits_is_quarantined_as_it_came(stocked: Shop, run_transactions: Callable) -> None:
    odd = [
        purchase(5, at=MORNING, sales_value=1e17),
        purchase(6, at=MORNING, retail_disc=-1e10),
        purchase(7, at=MORNING, sales_value=9_999_999_999.99),
    ]
    stocked.land("transactions", odd, NEXT)
    assert accounts(run_transactions(DAY, END)) == [(3, 1, 2, 0), (1, 1, 0, 0)]
    found = {
        json.loads(row["row"])["basket_id"]: (row["reasons"], json.loads(row["row"]))
        for row in rows("quarantine.transactions")
    }
    assert found[5][0] == ["sales_value is not between -9999999999.99 and 9999999999.99"]
    assert found[6][0] == ["retail_disc is not between -9999999999.99 and 9999999999.99"]
    assert (found[5][1]["sales_value"], found[6][1]["retail_disc"]) == (1e17, -1e10)


def test_one_bad_cell_among_many_rows_costs_one_row(stocked: Shop, run_transactions: Callable) -> None:
    lines = [GOOD.replace(",5,", f",{basket},") for basket in range(100, 3100)]
    lines[1234] = lines[1234].replace(",2,3.0", ",two,3.0")
    csv(stocked, *lines)
    assert accounts(run_transactions(DAY, END)) == [(3000, 2999, 1, 0), (2999, 2999, 0, 0)]
    assert 1334 not in baskets()


def test_a_ragged_line_costs_its_row(stocked: Shop, run_transactions: Callable) -> None:
    csv(stocked, "1,10,6,1", f"{GOOD.replace(',5,', ',7,')},9,9", GOOD)
    assert accounts(run_transactions(DAY, END)) == [(3, 1, 2, 0), (1, 1, 0, 0)]
    assert quarantined() == [
        ("bronze", ["the line has 13 fields, the header has 11"]),
        ("bronze", ["the line has 4 fields, the header has 11"]),
    ]


def test_a_quote_that_is_never_closed_stops_the_file(stocked: Shop, refused: Callable) -> None:
    csv(stocked, GOOD, '1,10,"6,1,2', GOOD.replace(",5,", ",7,"))
    refused(
        LandingError,
        f"bronze.transactions: transactions/{NEXT}/transactions.csv cannot be read as CSV (line 3 opens a quote that is"
        " not closed on that line, in column basket_id)",
        "Close the quote, or double it where it belongs to the cell",
        "Land the file again",
    )


def test_a_cell_that_goes_on_after_its_closing_quote_costs_its_row(stocked: Shop, run_transactions: Callable) -> None:
    odd = GOOD.replace(",5,", ',"6"x,')
    csv(stocked, GOOD, odd, GOOD.replace(",5,", ",7,"))
    assert accounts(run_transactions(DAY, END)) == [(3, 2, 1, 0), (2, 2, 0, 0)]
    assert quarantined() == [("bronze", ["a cell goes on after its closing quote"])]
    assert json.loads(rows("quarantine.transactions")[0]["row"]) == {"line": odd}


# --- promises that a row breaks


@pytest.mark.parametrize("column", ["basket_id", "quantity", "transaction_timestamp"])
def test_a_null_in_a_required_column_costs_its_row(stocked: Shop, run_transactions: Callable, column: str) -> None:
    bad = purchase(5, at=MORNING) | {column: None}
    stocked.land("transactions", [bad, bad, purchase(6, at=MORNING)], NEXT)
    assert accounts(run_transactions(DAY, END)) == [(3, 1, 2, 0), (1, 1, 0, 0)]
    assert quarantined() == [("bronze", [f"{column} is missing"])] * 2
    assert baskets() == [1, 2, 6]


def test_a_key_that_comes_with_null_and_whole_is_published_once(stocked: Shop, run_transactions: Callable) -> None:
    whole, holed = purchase(5, at=MORNING), purchase(5, at=MORNING, product_id=None)
    stocked.land("transactions", [whole, holed, whole], NEXT)
    assert accounts(run_transactions(DAY, END)) == [(3, 2, 1, 0), (2, 1, 0, 1)]
    assert quarantined() == [("bronze", ["product_id is missing"])]


def test_a_null_key_in_a_snapshot_costs_its_row(stocked: Shop, run: Callable) -> None:
    stocked.land("products", [{"product_id": None, "brand": "National"}, {"product_id": 3, "brand": "National"}], NEXT)
    run(DAY, END)
    assert quarantined("products") == [("bronze", ["product_id is missing"])]
    assert [row["product_id"] for row in rows("silver.products")] == [1, 2, 3]


def test_a_negative_quantity_is_stopped_at_silver_and_gold_goes_on_without_it(stocked: Shop, run: Callable) -> None:
    stocked.land("transactions", [purchase(5, at=MORNING, quantity=-1), purchase(6, at=MORNING)], NEXT)
    assert accounts(run(DAY, END)) == [(2, 2, 0, 0), (2, 1, 1, 0)]
    assert quarantined() == [("silver", ["quantity is below 0"])]
    (found,) = rows("gold.customer_activity", where="customer_id = 1 AND event_timestamp = '2017-03-03'")
    assert (found["items_7d"], found["spend_7d"], found["baskets_7d"]) == (4, Decimal("6.00"), 2)


def test_a_corrected_row_leaves_the_quarantine(stocked: Shop, run_transactions: Callable) -> None:
    stocked.land("transactions", [purchase(5, at=MORNING, quantity=-1), purchase(6, at=MORNING)], NEXT)
    run_transactions(DAY, END)
    stocked.land("transactions", [purchase(5, at=MORNING, quantity=1), purchase(6, at=MORNING)], NEXT)
    run_transactions(DAY, END)
    assert quarantined() == []
    assert [row["quantity"] for row in rows("silver.transactions", where="basket_id >= 5")] == [1, 2]


def test_a_bad_delivery_does_not_displace_the_good_row(stocked: Shop, run_transactions: Callable) -> None:
    stocked.land("transactions", [purchase(1, quantity=-7)], name="late")
    assert accounts(run_transactions(DAY, END)) == [(1, 1, 0, 0), (3, 2, 0, 1)]
    assert [row["quantity"] for row in rows("silver.transactions")] == [2, 2]


def test_an_unknown_product_is_a_warning_published_and_counted(stocked: Shop, run: Callable) -> None:
    stocked.land("transactions", [purchase(5, product=99, at=MORNING), purchase(6, at=MORNING)], NEXT)
    report = run(DAY, END)["silver.transactions"]
    assert [(one.reason, one.severity, one.failed) for one in report.warnings] == [
        ("product_id is not in silver.products", "warning", 1)
    ]
    assert report.account == RowAccount(2, 2, 0, 0)
    assert baskets("product_id = 99") == [5]
    assert rows("gold.product_popularity", where="product_id = 99")


def test_a_quantity_of_0_is_a_warning_and_published(stocked: Shop, run_transactions: Callable) -> None:
    stocked.land("transactions", [purchase(5, quantity=0, at=MORNING)], NEXT)
    assert [(one.reason, one.failed) for one in run_transactions(DAY, END)["silver.transactions"].warnings] == [
        ("quantity is 0", 1)
    ]
    assert baskets("quantity = 0") == [5]


def test_a_transaction_after_the_day_it_landed_costs_its_row(stocked: Shop, run_transactions: Callable) -> None:
    stocked.land(
        "transactions", [purchase(5, at="2017-03-03 00:00:00"), purchase(6, at="2017-03-02 23:59:59.999999")], NEXT
    )
    run_transactions(DAY, END)
    assert quarantined() == [("bronze", ["the transaction lies after the day its file landed"])]
    assert baskets() == [1, 2, 6]


# --- too many bad rows


def test_too_many_bad_cells_stop_bronze(stocked: Shop, refused: Callable) -> None:
    csv(stocked, *[GOOD.replace(",5,", f",{n},").replace(",2,3.0", ",two,3.0") for n in range(11)], *[GOOD] * 9)
    refused(
        AuditError,
        "bronze.transactions: 11 of 20 rows (55.0%) must go to quarantine",
        "a cell does not fit its column: 11",
        "Correct the landed files",
    )


def test_too_many_bad_rows_stop_silver(stocked: Shop, run: Callable, untouched: Callable) -> None:
    later = [name for name in versions() if name.startswith("gold") or name == "silver.transactions"]
    stocked.land("transactions", [purchase(n, at=MORNING, quantity=-1) for n in range(5, 16)], NEXT)
    with untouched(*later, "quarantine.transactions"), pytest.raises(AuditError) as caught:
        run(DAY, END)
    for text in (
        "silver.transactions: 11 of 11 rows (100.0%)",
        "quantity is below 0: 11",
        "Nothing was published",
        "contracts/silver/transactions.py",
    ):
        assert text in str(caught.value)


def test_after_the_files_were_mended_the_run_goes_through(stocked: Shop, run_transactions: Callable) -> None:
    stocked.land("transactions", [purchase(n, at=MORNING, quantity=-1) for n in range(5, 16)], NEXT)
    with pytest.raises(AuditError):
        run_transactions(DAY, END)
    stocked.land("transactions", [purchase(n, at=MORNING) for n in range(5, 16)], NEXT)
    assert accounts(run_transactions(DAY, END)) == [(11, 11, 0, 0), (22, 11, 0, 11)]
    assert baskets() == [1, 2, *range(5, 16)]


# --- the same row again


def test_a_row_twice_in_a_file(stocked: Shop, run_transactions: Callable) -> None:
    stocked.land("transactions", [purchase(5, at=MORNING), purchase(5, at=MORNING)], NEXT)
    assert accounts(run_transactions(DAY, END)) == [(2, 2, 0, 0), (2, 1, 0, 1)]
    assert baskets() == [1, 2, 5]


def test_a_row_in_two_files_of_a_day(stocked: Shop, run_transactions: Callable) -> None:
    stocked.land("transactions", [purchase(5, at=MORNING)], NEXT)
    stocked.land("transactions", [purchase(5, at=MORNING), purchase(6, at=MORNING)], NEXT, name="more")
    assert accounts(run_transactions(DAY, END)) == [(3, 3, 0, 0), (3, 2, 0, 1)]
    assert baskets() == [1, 2, 5, 6]


def test_a_row_that_lands_again_under_another_day(stocked: Shop, run_transactions: Callable) -> None:
    stocked.land("transactions", [purchase(1), purchase(5, at=MORNING)], NEXT)
    assert accounts(run_transactions(NEXT, END)) == [(2, 2, 0, 0), (4, 3, 0, 1)]
    assert baskets() == [1, 2, 5]


def test_a_key_that_comes_again_with_another_day_of_its_own(stocked: Shop, run_transactions: Callable) -> None:
    stocked.land("transactions", [purchase(1, at=MORNING, quantity=9), purchase(5, at=MORNING)], NEXT)
    assert accounts(run_transactions(DAY, END)) == [(2, 2, 0, 0), (2, 1, 0, 1)]
    assert [row["quantity"] for row in rows("silver.transactions", where="basket_id = 1")] == [2]


@pytest.mark.parametrize(("basket", "product"), [(1, 1), (2, 2)])
def test_a_key_that_comes_again_alone(stocked: Shop, run_transactions: Callable, basket: int, product: int) -> None:
    """What is published before is looked for between the least and the greatest key that come in: here they are one."""
    stocked.land("transactions", [purchase(basket, product=product, at=MORNING)], NEXT)
    assert accounts(run_transactions(NEXT, END)) == [(1, 1, 0, 0), (1, 0, 0, 1)]
    assert baskets() == [1, 2]


def test_a_day_whose_rows_all_lack_their_key(stocked: Shop, run_transactions: Callable) -> None:
    stocked.land("transactions", [purchase(5, at=MORNING) | {"basket_id": None}], NEXT)
    run_transactions(NEXT, END)
    assert baskets() == [1, 2]
    assert len(quarantined()) == 1


def test_a_run_that_finds_the_same_files_changes_nothing(stocked: Shop, run: Callable, untouched: Callable) -> None:
    stocked.land("transactions", [purchase(1), purchase(2, product=2, customer=2)])
    with untouched():
        assert {report.status for report in run(DAY, NEXT).values()} == {"unchanged"}


def test_the_same_bytes_under_another_name_are_duplicates(stocked: Shop, run: Callable, untouched: Callable) -> None:
    shutil.copy(stocked.path("transactions"), stocked.path("transactions", name="copy"))
    for _ in range(2):
        with untouched():
            assert accounts(run(DAY, NEXT))[0] == (2, 0, 0, 2)


@pytest.mark.parametrize("start", [DAY, NEXT])
def test_the_same_bytes_under_another_day_are_duplicates_to_silver(
    stocked: Shop, run_transactions: Callable, start: str
) -> None:
    before = rows("silver.transactions")
    copy = stocked.path("transactions", NEXT)
    copy.parent.mkdir()
    shutil.copy(stocked.path("transactions"), copy)
    assert accounts(run_transactions(start, END)) == [(2, 2, 0, 0), (4, 2, 0, 2)]
    assert rows("silver.transactions") == before


@pytest.mark.parametrize("start", [DAY, NEXT])
def test_an_unchanged_snapshot_under_another_day_is_a_snapshot_of_that_day(
    stocked: Shop, run: Callable, start: str
) -> None:
    copy = stocked.path("demographics", NEXT, suffix=".csv")
    copy.parent.mkdir()
    shutil.copy(stocked.path("demographics", suffix=".csv"), copy)
    run(start, END)
    assert [(row["customer_id"], str(row["snapshot_date"])) for row in rows("silver.customers")] == [
        (1, DAY),
        (1, NEXT),
        (2, DAY),
        (2, NEXT),
    ]


@pytest.mark.parametrize("name", ["transactions", "corrected"])
def test_the_newest_delivery_of_a_key_wins(stocked: Shop, run: Callable, name: str) -> None:
    stocked.land("transactions", [purchase(1, quantity=7)], name=name)
    assert accounts(run(DAY, NEXT)) == [(1, 1, 0, 0), (3, 2, 0, 1)]
    assert [row["quantity"] for row in rows("silver.transactions")] == [7, 2]
    assert [row["quantity"] for row in rows("bronze.transactions")] == [2, 7, 2]
    (found,) = rows("gold.customer_activity", where="customer_id = 1 AND event_timestamp = '2017-03-02'")
    assert found["items_7d"] == 7


def test_a_correction_wins_although_the_clock_was_set_back(
    stocked: Shop, run: Callable, untouched: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Yesterday(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) - timedelta(days=1)

    monkeypatch.setattr(load, "datetime", Yesterday)
    stocked.land("transactions", [purchase(1, quantity=7)])
    assert accounts(run(DAY, NEXT)) == [(1, 1, 0, 0), (3, 2, 0, 1)]
    assert [row["quantity"] for row in rows("silver.transactions")] == [7, 2]
    with untouched():
        assert {report.status for report in run(DAY, NEXT).values()} == {"unchanged"}


# --- days without a row


def _nothing(shop: Shop) -> None:
    """No folder at all."""


def _folder(shop: Shop) -> None:
    shop.path("transactions", NEXT).parent.mkdir()


def _no_rows(shop: Shop) -> None:
    shop.land("transactions", [], NEXT)


def _only_header(shop: Shop) -> None:
    csv(shop)


@pytest.mark.parametrize("land", [_nothing, _folder, _no_rows, _only_header])
def test_an_empty_day_is_a_day_on_which_windows_decay(stocked: Shop, run: Callable, land: Callable) -> None:
    land(stocked)
    run(DAY, "2017-03-10")
    decayed = rows("gold.customer_activity", where="customer_id = 1")
    assert [(f"{row['event_timestamp']:%m-%d}", row["items_7d"], row["items_30d"]) for row in decayed] == [
        ("03-02", 2, 2),
        ("03-09", 0, 2),
    ]


def test_an_empty_file_is_no_reason_for_a_new_version(stocked: Shop, run_transactions: Callable) -> None:
    before = versions()["bronze.transactions"]
    stocked.land("transactions", [], NEXT)
    for _ in range(2):
        assert run_transactions(DAY, END)["bronze.transactions"].account == RowAccount(0, 0, 0, 0)
    assert versions()["bronze.transactions"] == before


def test_every_window_is_empty_after_its_length(stocked: Shop, run: Callable) -> None:
    run(DAY, "2017-06-01")
    last = rows("gold.customer_activity", where="customer_id = 1")[-1]
    assert last["event_timestamp"].replace(tzinfo=None) == datetime(2017, 3, 2) + timedelta(days=90)
    assert (last["items_7d"], last["items_30d"], last["items_90d"], last["baskets_90d"], last["spend_90d"]) == (
        0,
        0,
        0,
        0,
        Decimal("0.00"),
    )


def test_a_table_that_never_landed_is_published_empty(shop: Shop, run: Callable) -> None:
    shutil.rmtree(shop.root / "redemptions")
    assert run(DAY, NEXT)["silver.redemptions"].account == RowAccount(0, 0, 0, 0)
    assert rows("silver.redemptions") == []

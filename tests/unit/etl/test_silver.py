"""Silver's transforms on a few rows: a row out for a row in, exact money, NULLs that stay NULL."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from contracts import catalog
from etl import engine, stage
from etl.deduplicate import deduplicate
from etl.silver import PROVENANCE
from lake import publishing

LANDED = {"_file": "a.csv", "_landed_date": date(2017, 3, 1), "_loaded_at": datetime(2017, 3, 1, 6, tzinfo=UTC)}
FRESH = {"_file": "b.csv", "_landed_date": date(2017, 3, 2), "_loaded_at": datetime(2017, 3, 2, 6, tzinfo=UTC)}


def bronze(name: str, *rows: dict[str, Any]) -> Any:
    """Rows of a bronze table; what a row does not give is NULL."""
    schema = pa.schema([(one.name, publishing.arrow_type(one.type)) for one in catalog.table(f"bronze.{name}").columns])
    return engine.session().createDataFrame(pa.Table.from_pylist([{**LANDED, **row} for row in rows], schema=schema))


def clean(name: str, *frames: Any) -> Any:
    return stage.clean(catalog.table(f"silver.{name}"), *frames)


def out(frame: Any, *order: str) -> list[dict[str, Any]]:
    """The rows without their provenance, which staging drops."""
    assert [*frame.columns][-3:] == [*PROVENANCE]
    rows = frame.drop(*PROVENANCE)
    return (rows.orderBy(*order) if order else rows).toArrow().to_pylist()


BOUGHT = {
    "household_id": 1,
    "store_id": 10,
    "basket_id": 5,
    "product_id": 2,
    "quantity": 3,
    "week": 9,
    "sales_value": 3.0,
    "retail_disc": 0.5,
    "coupon_disc": 0.0,
    "coupon_match_disc": 0.0,
    "transaction_timestamp": datetime(2017, 3, 1, 23, 59, 59, 999999, tzinfo=UTC),
}


# --- transactions

HALVES = [n / 1000 for n in range(-205, 3005, 5)] + [
    1.005,
    2.675,
    1e9 + 0.005,
    0.0049999999,
    5.55e-17,
    9999999999.99,
    9999999999.994,
    -9999999999.99,
]


def test_money_is_rounded_to_cents_as_duckdb_rounds() -> None:
    rows = [BOUGHT | {"basket_id": n, "sales_value": value} for n, value in enumerate(HALVES)]
    found = [row["sales_value"] for row in out(clean("transactions", bronze("transactions", *rows)), "basket_id")]
    with duckdb.connect() as con:
        expected = [
            value
            for (value,) in con.execute(
                "SELECT CAST(v AS DECIMAL(12, 2)) FROM (SELECT unnest(?::DOUBLE[]) AS v)", [HALVES]
            ).fetchall()
        ]
    assert found == expected


def test_half_a_cent_goes_away_from_zero() -> None:
    rows = [
        BOUGHT | {"basket_id": n, "sales_value": value} for n, value in enumerate((0.005, 0.015, -0.005, 0.125, 0.135))
    ]
    assert [
        str(row["sales_value"]) for row in out(clean("transactions", bronze("transactions", *rows)), "basket_id")
    ] == [
        "0.01",
        "0.02",
        "-0.01",
        "0.13",
        "0.14",
    ]


def test_money_that_does_not_fit_and_money_that_is_missing_are_null() -> None:
    rows = [
        BOUGHT | {"basket_id": n, "retail_disc": value} for n, value in enumerate((1e10, 9999999999.995, None, -1e300))
    ]
    assert [row["retail_disc"] for row in out(clean("transactions", bronze("transactions", *rows)), "basket_id")] == [
        None
    ] * 4


def test_a_transaction_keeps_its_instant_and_the_household_becomes_the_customer() -> None:
    assert out(clean("transactions", bronze("transactions", BOUGHT))) == [
        {
            "basket_id": 5,
            "product_id": 2,
            "customer_id": 1,
            "store_id": 10,
            "transaction_at": BOUGHT["transaction_timestamp"],
            "week": 9,
            "quantity": 3,
            "sales_value": Decimal("3.00"),
            "retail_disc": Decimal("0.50"),
            "coupon_disc": Decimal("0.00"),
            "coupon_match_disc": Decimal("0.00"),
        }
    ]


def test_a_row_of_nulls_is_a_row_of_nulls() -> None:
    (row,) = out(clean("transactions", bronze("transactions", {})))
    assert {*row.values()} == {None}


# --- the others


def test_a_campaign_takes_its_days_from_its_newest_description() -> None:
    addressed = bronze("campaigns", {"campaign_id": 1, "household_id": 7})
    described = bronze(
        "campaign_descriptions",
        {
            "campaign_id": 1,
            "campaign_type": "Type B",
            "start_date": datetime(2017, 3, 2, 23, tzinfo=UTC),
            "end_date": None,
            **FRESH,
        },
        {
            "campaign_id": 1,
            "campaign_type": "Type A",
            "start_date": datetime(2017, 3, 1, tzinfo=UTC),
            "end_date": datetime(2017, 3, 9, tzinfo=UTC),
        },
    )
    assert out(clean("campaigns", addressed, described)) == [
        {
            "campaign_id": 1,
            "customer_id": 7,
            "campaign_type": "Type B",
            "start_date": date(2017, 3, 2),
            "end_date": None,
        }
    ]


def test_a_campaign_without_a_description_keeps_its_customers() -> None:
    addressed = bronze(
        "campaigns",
        {"campaign_id": 2, "household_id": 7},
        {"campaign_id": 2, "household_id": 8},
        {"campaign_id": None, "household_id": 9},
    )
    described = bronze(
        "campaign_descriptions",
        {"campaign_id": 1, "campaign_type": "Type A"},
        {"campaign_id": None, "campaign_type": "Type C"},
    )
    found = out(clean("campaigns", addressed, described), "customer_id")
    assert [(row["campaign_id"], row["customer_id"], row["campaign_type"]) for row in found] == [
        (2, 7, None),
        (2, 8, None),
        (None, 9, None),
    ]


def test_a_redemption_is_of_a_day() -> None:
    late = {
        "household_id": 7,
        "coupon_upc": 100,
        "campaign_id": 1,
        "redemption_date": datetime(2017, 3, 1, 23, 59, 59, 999999, tzinfo=UTC),
    }
    assert out(
        clean("redemptions", bronze("redemptions", late, late | {"redemption_date": None})), "redemption_date"
    ) == [
        {"customer_id": 7, "coupon_upc": 100, "campaign_id": 1, "redemption_date": None},
        {"customer_id": 7, "coupon_upc": 100, "campaign_id": 1, "redemption_date": date(2017, 3, 1)},
    ]


def test_snapshots_and_deliveries_carry_the_date_of_their_folder() -> None:
    assert out(clean("customers", bronze("demographics", {"household_id": 7, "age": "65+"})))[0][
        "snapshot_date"
    ] == date(2017, 3, 1)
    assert out(clean("products", bronze("products", {"product_id": 7} | FRESH)))[0]["snapshot_date"] == date(2017, 3, 2)
    assert out(clean("promotions", bronze("promotions", {"product_id": 7, "week": 9} | FRESH)))[0][
        "landed_date"
    ] == date(2017, 3, 2)


@pytest.mark.parametrize("table", catalog.tables(catalog.Layer.SILVER), ids=lambda one: one.name)
def test_a_clean_frame_has_the_columns_and_types_of_its_contract(table: Any) -> None:
    frame = stage.clean(table, *(bronze(name.partition(".")[2], {}) for name in table.inputs))
    assert dict(frame.dtypes) == {column.name: column.type.spark for column in table.columns} | {
        "_landed_date": "date",
        "_loaded_at": "timestamp",
        "_file": "string",
    }


# --- duplicates


def winner(*rows: dict[str, Any]) -> list[tuple]:
    """Which of these transactions stay: their quantity and file."""
    cleaned = clean("transactions", bronze("transactions", *(BOUGHT | row for row in rows)))
    left = (
        deduplicate(catalog.table("silver.transactions"), cleaned).select("product_id", "quantity", "_file").collect()
    )
    return sorted(((row.product_id, row.quantity, row._file) for row in left), key=str)


EARLY = {"transaction_timestamp": datetime(2017, 2, 28, 23, 59, tzinfo=UTC)}
LATER_THAT_DAY = {"transaction_timestamp": datetime(2017, 3, 1, 0, 0, tzinfo=UTC)}


def test_of_two_deliveries_of_a_day_the_newest_wins() -> None:
    assert winner({"quantity": 3}, {"quantity": 4, **FRESH}) == [(2, 4, "b.csv")]
    assert winner({"quantity": 3, **FRESH}, {"quantity": 4}) == [(2, 3, "b.csv")]


def test_of_two_deliveries_of_an_instant_the_one_loaded_last_wins_then_the_last_name() -> None:
    assert winner({"quantity": 3, "_loaded_at": FRESH["_loaded_at"]}, {"quantity": 4, "_file": "z.csv"}) == [
        (2, 3, "a.csv")
    ]
    assert winner({"quantity": 3}, {"quantity": 4, "_file": "z.csv"}) == [(2, 4, "z.csv")]


def test_an_earlier_day_wins_over_a_newer_delivery() -> None:
    assert winner({"quantity": 3, **EARLY}, {"quantity": 4, **FRESH}) == [(2, 3, "a.csv")]


def test_an_earlier_hour_of_the_same_day_does_not() -> None:
    assert winner({"quantity": 3, **LATER_THAT_DAY}, {"quantity": 4, **FRESH}) == [(2, 4, "b.csv")]


def test_a_row_that_keeps_its_contract_wins_over_an_earlier_and_a_newer_one_that_does_not() -> None:
    assert winner({"quantity": -1, **EARLY}, {"quantity": 4}, {"quantity": None, **FRESH}) == [(2, 4, "a.csv")]


def test_a_warning_does_not_make_a_row_lose() -> None:
    assert winner({"quantity": 3}, {"quantity": 0, **FRESH}) == [(2, 0, "b.csv")]


def test_rows_with_a_null_in_their_key_are_all_kept() -> None:
    assert winner({"product_id": None}, {"product_id": None}, {}, {}) == [
        (2, 3, "a.csv"),
        (None, 3, "a.csv"),
        (None, 3, "a.csv"),
    ]


def test_twins_to_the_last_cell_leave_one() -> None:
    assert winner({}, {}, {}) == [(2, 3, "a.csv")]

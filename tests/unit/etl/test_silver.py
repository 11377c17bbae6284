"""Silver's transforms on a few rows: a row out for a row in, exact money, NULLs that stay NULL."""

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import duckdb
import pytest
from pyspark.sql import functions as F

from contracts import catalog
from etl import stage
from etl.deduplicate import deduplicate
from etl.silver import PROVENANCE
from etl.transforms import StageError, ensure_columns
from tests import cinema
from tests.silver import FRESH, bronze, clean, out

SOLD = {
    "card_id": 1,
    "venue_id": 10,
    "booking_id": 5,
    "movie_id": 2,
    "seats": 3,
    "show_week": 9,
    "paid": 3.0,
    "saved": 0.5,
    "sold_time": datetime(2017, 3, 1, 23, 59, 59, 999999, tzinfo=UTC),
}


# --- tickets

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
    rows = [SOLD | {"booking_id": n, "paid": value} for n, value in enumerate(HALVES)]
    result = [row["paid"] for row in out(clean("tickets", bronze("tickets", *rows)), "booking_id")]
    with duckdb.connect() as con:
        expected = [
            value
            for (value,) in con.execute(
                "SELECT CAST(v AS DECIMAL(12, 2)) FROM (SELECT unnest(?::DOUBLE[]) AS v)", [HALVES]
            ).fetchall()
        ]
    assert result == expected


def test_half_a_cent_goes_away_from_zero() -> None:
    rows = [SOLD | {"booking_id": n, "paid": value} for n, value in enumerate((0.005, 0.015, -0.005, 0.125, 0.135))]
    assert [str(row["paid"]) for row in out(clean("tickets", bronze("tickets", *rows)), "booking_id")] == [
        "0.01",
        "0.02",
        "-0.01",
        "0.13",
        "0.14",
    ]


def test_money_that_does_not_fit_and_money_that_is_missing_are_null() -> None:
    rows = [SOLD | {"booking_id": n, "saved": value} for n, value in enumerate((1e10, 9999999999.995, None, -1e300))]
    assert [row["saved"] for row in out(clean("tickets", bronze("tickets", *rows)), "booking_id")] == [None] * 4


def test_a_ticket_keeps_its_instant_and_a_card_becomes_a_guest() -> None:
    assert out(clean("tickets", bronze("tickets", SOLD))) == [
        {
            "booking_id": 5,
            "movie_id": 2,
            "guest_id": 1,
            "venue_id": 10,
            "sold_at": SOLD["sold_time"],
            "show_week": 9,
            "seats": 3,
            "paid": Decimal("3.00"),
            "saved": Decimal("0.50"),
        }
    ]


def test_a_row_of_nulls_is_a_row_of_nulls() -> None:
    (row,) = out(clean("tickets", bronze("tickets", {})))
    assert {*row.values()} == {None}


# --- the others


def test_snapshots_and_deliveries_carry_the_date_of_their_folder() -> None:
    assert out(clean("guests", bronze("members", {"card_id": 7, "age_band": "65+"})))[0]["snapshot_date"] == date(
        2017, 3, 1
    )
    assert out(clean("movies", bronze("movies", {"movie_id": 7} | FRESH)))[0]["snapshot_date"] == date(2017, 3, 2)
    assert out(clean("showcases", bronze("showcases", {"movie_id": 7, "show_week": 9} | FRESH)))[0][
        "landed_date"
    ] == date(2017, 3, 2)


@pytest.mark.parametrize("table", cinema.tables(catalog.Layer.SILVER), ids=lambda table: table.name)
def test_a_clean_frame_has_the_columns_and_types_of_its_contract(table: Any) -> None:
    frame = stage.clean(table, *(bronze(name.partition(".")[2], {}) for name in table.inputs))
    assert dict(frame.dtypes) == {column.name: column.type.spark for column in table.columns} | {
        "_landed_date": "date",
        "_loaded_at": "timestamp",
        "_file": "string",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows.withColumn("movie_id", F.col("movie_id").cast("string")),
            r"returns movie_id as string instead of bigint\. Cast them, such as F\.col\('movie_id'\)\.cast\('bigint'\)",
        ),
        (lambda rows: rows.withColumn("studio_id", F.lit(1)), r"returns studio_id as int instead of bigint"),
        (lambda rows: rows.drop("title", "genre"), r"returns no genre, title\. It returns movie_id"),
        (lambda rows: rows.drop("_file"), r"returns no _file\."),
    ],
)
def test_a_transform_must_return_the_contracts_columns_and_types(change: Any, message: str) -> None:
    """Otherwise its files would be published in another type than the table's, and nobody could read them."""
    table = cinema.table("silver.movies")
    rows = clean("movies", bronze("movies", {"movie_id": 7}))
    ensure_columns(table, rows.withColumn("more", F.lit(1)), PROVENANCE)
    with pytest.raises(StageError, match=rf"^silver\.movies: its transform, .*movies\.py, {message}"):
        ensure_columns(table, change(rows), PROVENANCE)


# --- duplicates


def winner(*rows: dict[str, Any]) -> list[tuple]:
    """Which of these tickets stay: their seats and file."""
    cleaned = clean("tickets", bronze("tickets", *(SOLD | row for row in rows)))
    left = deduplicate(catalog.table("silver.tickets"), cleaned).select("movie_id", "seats", "_file").collect()
    return sorted(((row.movie_id, row.seats, row._file) for row in left), key=str)


EARLY = {"sold_time": datetime(2017, 2, 28, 23, 59, tzinfo=UTC)}
LATER_THAT_DAY = {"sold_time": datetime(2017, 3, 1, 0, 0, tzinfo=UTC)}


def test_of_two_deliveries_of_a_day_the_newest_wins() -> None:
    assert winner({"seats": 3}, {"seats": 4, **FRESH}) == [(2, 4, "b.csv")]
    assert winner({"seats": 3, **FRESH}, {"seats": 4}) == [(2, 3, "b.csv")]


def test_of_two_deliveries_of_an_instant_the_one_loaded_last_wins_then_the_last_name() -> None:
    assert winner({"seats": 3, "_loaded_at": FRESH["_loaded_at"]}, {"seats": 4, "_file": "z.csv"}) == [(2, 3, "a.csv")]
    assert winner({"seats": 3}, {"seats": 4, "_file": "z.csv"}) == [(2, 4, "z.csv")]


def test_an_earlier_day_wins_over_a_newer_delivery() -> None:
    assert winner({"seats": 3, **EARLY}, {"seats": 4, **FRESH}) == [(2, 3, "a.csv")]


def test_an_earlier_hour_of_the_same_day_does_not() -> None:
    assert winner({"seats": 3, **LATER_THAT_DAY}, {"seats": 4, **FRESH}) == [(2, 4, "b.csv")]


def test_a_row_that_keeps_its_contract_wins_over_an_earlier_and_a_newer_one_that_does_not() -> None:
    assert winner({"seats": -1, **EARLY}, {"seats": 4}, {"seats": None, **FRESH}) == [(2, 4, "a.csv")]


def test_a_warning_does_not_make_a_row_lose() -> None:
    assert winner({"seats": 3}, {"seats": 0, **FRESH}) == [(2, 0, "b.csv")]


def test_rows_with_a_null_in_their_key_are_all_kept() -> None:
    assert winner({"movie_id": None}, {"movie_id": None}, {}, {}) == [
        (2, 3, "a.csv"),
        (None, 3, "a.csv"),
        (None, 3, "a.csv"),
    ]


def test_twins_to_the_last_cell_leave_one() -> None:
    assert winner({}, {}, {}) == [(2, 3, "a.csv")]

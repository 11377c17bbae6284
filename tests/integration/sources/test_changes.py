"""Changes of a real PostgreSQL, as Debezium writes them: silver equals the table after each round, whatever the
encoding and the order of arrival, and gold follows. The oracle is the database's own SQL.
"""

from __future__ import annotations

import random
import shutil
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts import catalog
from etl.sources.offsets import Start
from lake import delta, settings
from millrace import pipeline
from tests.integration.sources import capture
from tests.integration.sources.capture import ENCODINGS, Encoding
from tests.integration.sources.conftest import Depot
from tests.landing import rows
from tests.projects import DEPOT

PROJECT = DEPOT
BUILT = ("silver.orders", "gold.customer_orders")
ORDERS = "SELECT id, customer, ordered_at, amount, paid, due_on, note FROM orders ORDER BY id"


class Stream:
    """The topic of bronze.orders, without a broker: what the lake writer is given."""

    def __init__(self, depot: Depot) -> None:
        depot.execute(capture.TABLES)
        self.depot, self.read = depot, 0
        self.offsets: dict[int, int] = {}

    def take(self, encoding: Encoding, shuffled: random.Random | None = None) -> int:
        """Write the new changes to the lake; with `shuffled`, in any order and to any partition, with tombstones."""
        changes = capture.changes(self.depot, self.read)
        self.read = changes[-1][0] if changes else self.read
        values: list[bytes | None] = [capture.value_of(change, encoding) for change in changes]
        if shuffled:
            values += [None] * 2
            shuffled.shuffle(values)
        return self.append(*values, shuffled=shuffled)

    def append(self, *values: bytes | None, shuffled: random.Random | None = None) -> Any:
        partition = (lambda: shuffled.randrange(3)) if shuffled else (lambda: 0)
        starts = {number: Start(None, 0) for number in range(3)}
        messages = capture.as_messages(values, self.offsets, partition)
        return pipeline.append_messages(catalog.table("bronze.orders"), messages, "test", 1, starts)


@pytest.fixture
def stream(depot: Depot) -> Stream:
    return Stream(depot)


def carry() -> None:
    today = datetime.now(UTC).date()
    for name in BUILT:
        pipeline.run_table(name, pipeline.Interval(today, today + timedelta(days=1)), "test")


def spend(depot: Depot) -> list[tuple[Any, ...]]:
    """Customer, spend and orders of the last week, at tomorrow's midnight, by PostgreSQL."""
    return depot.execute(
        "SELECT customer, sum(amount), count(*) FROM orders WHERE ordered_at >= current_date - 6"
        " AND ordered_at < current_date + 1 GROUP BY customer ORDER BY customer"
    )


def newest(depot: Depot) -> list[tuple[Any, ...]]:
    """The same from gold."""
    at = datetime.now(UTC).date() + timedelta(days=1)
    newest: dict[str, dict[str, Any]] = {}
    for row in rows("gold.customer_orders", order="event_timestamp", where=f"event_timestamp <= TIMESTAMPTZ '{at}'"):
        newest[row["customer"]] = row
    return sorted((name, row["spend_7d"], row["orders_7d"]) for name, row in newest.items() if row["orders_7d"])


def play(depot: Depot, chance: random.Random) -> None:
    """Some inserts, updates, moves to another day or key, and deletions."""
    statements = []
    for _ in range(chance.randrange(8, 25)):
        number = chance.randrange(9)
        day = f"current_date - {chance.randrange(9)} + interval '{chance.randrange(86_400_000_000)} microseconds'"
        amount = f"{chance.randrange(-10_000, 90_000) / 100:.2f}"
        paid = chance.choice(("true", "false", "NULL"))
        note = chance.choice(("NULL", "''", "E'a\\nb\"'", "'Ä🌾'"))
        statement = chance.choice(
            (
                f"INSERT INTO orders VALUES ({number}, 'c{number % 4}', {day}, {amount}, {paid}, current_date, {note})"
                " ON CONFLICT (id) DO UPDATE SET amount = excluded.amount, note = excluded.note",
                f"UPDATE orders SET ordered_at = {day} WHERE id = {number}",
                f"UPDATE orders SET amount = {amount}, paid = {paid}, customer = 'c{number % 3}' WHERE id = {number}",
                f"UPDATE orders SET id = id + 100 WHERE id = {number} AND NOT EXISTS"
                f" (SELECT FROM orders WHERE id = {number + 100})",
                f"DELETE FROM orders WHERE id IN ({number}, {number + 100})",
            )
        )
        statements.append(statement)
    depot.execute(";".join(statements))


def test_silver_is_the_table_after_each_round(depot: Depot, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each round arrives on a day of its own. Once silver is gone, and built from all changes."""
    chance = random.Random(14)
    for number in range(6):
        arrival = datetime.now(UTC) + timedelta(days=number)
        monkeypatch.setattr("etl.bronze.stream.load_time", lambda *_, at=arrival: at)
        play(depot, chance)
        report = stream.take(ENCODINGS[number % len(ENCODINGS)], chance if number % 2 else None)
        assert report.account.quarantined == 0, rows("quarantine.orders")
        if number == 4:
            shutil.rmtree(settings.table_path("silver.orders"))
        carry()
        assert depot.silver("orders") == depot.execute(ORDERS), number
        assert newest(depot) == spend(depot), number
    assert delta.open_table("bronze.orders").to_pyarrow_table().num_rows == stream.read


def test_the_log_decides_and_not_the_clock_or_the_arrival(depot: Depot, stream: Stream) -> None:
    depot.execute("INSERT INTO orders VALUES (1, 'ann', now(), 1)")
    for amount in (2, 3):
        depot.execute("UPDATE orders SET amount = %s", amount)
    first, second, third = capture.changes(depot, 0)
    earlier = (*third[:3], first[3] - timedelta(hours=1), *third[4:])
    for change in (second, earlier, first):
        stream.append(capture.value_of(change, ENCODINGS[0]))
    carry()
    assert depot.silver("orders") == depot.execute(ORDERS)


def test_a_newest_state_that_breaks_a_check_is_quarantined_and_its_row_is_gone(depot: Depot, stream: Stream) -> None:
    depot.execute("INSERT INTO orders SELECT n, 'ann', now() - n * interval '1 hour', 1 FROM generate_series(1, 90) n")
    stream.take(ENCODINGS[2])
    carry()
    depot.execute("UPDATE orders SET amount = 1000.01 WHERE id = 5")
    depot.execute("UPDATE orders SET amount = 5 WHERE id = 6")
    stream.take(ENCODINGS[2])
    carry()
    assert depot.silver("orders") == [row for row in depot.execute(ORDERS) if row[0] != 5]
    [rejected] = rows("quarantine.orders", where="layer = 'silver'")
    assert rejected["reasons"] == ["amount is above 1000"]
    depot.execute("UPDATE orders SET amount = 7, ordered_at = ordered_at - interval '3 days' WHERE id = 5")
    stream.take(ENCODINGS[2])
    carry()
    assert depot.silver("orders") == depot.execute(ORDERS)
    assert rows("quarantine.orders", where="layer = 'silver'") == []


def test_deletions_of_rows_that_never_came_and_nothing_at_all(depot: Depot, stream: Stream) -> None:
    depot.execute("INSERT INTO orders VALUES (1, 'ann', now(), 1)")
    depot.execute("DELETE FROM orders")
    stream.read = 1
    stream.take(ENCODINGS[0])
    carry()
    assert depot.silver("orders") == []
    report = stream.append(None, None)
    assert (report.account.rows_in, report.account.published) == (0, 0)
    carry()
    depot.execute("INSERT INTO orders VALUES (2, 'ann', now(), 1)")
    stream.take(ENCODINGS[0])
    depot.execute("DELETE FROM orders")
    carry()
    stream.take(ENCODINGS[0])
    carry()
    assert depot.silver("orders") == []

"""The features of the sample, counted once more in plain Python."""

import csv
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from contracts import catalog, check, project
from expectations import brute_force
from lake import delta, settings
from millrace import pipeline
from starter import landing


def test_the_project_has_no_problems() -> None:
    assert check.problems(project.current()) == []


def test_features_are_what_a_count_of_the_files_gives() -> None:
    landing.land()
    pipeline.run_all(str(landing.INTERVAL.start), str(landing.INTERVAL.end), "test")
    table = delta.open_table("gold.customer_orders")
    rows = table.to_pyarrow_table().to_pylist()
    landed = [row for path in settings.landing().glob("orders/*/*.csv") for row in csv.DictReader(path.open())]
    assert rows
    for row in rows:
        t = row["event_timestamp"]
        mine = [
            (datetime.fromisoformat(order["ordered_at"]).replace(tzinfo=UTC), order)
            for order in landed
            if order["customer"] == row["customer"]
        ]
        week = [order for at, order in mine if t - timedelta(days=7) <= at < t]
        assert row["orders_7d"] == len(week)
        assert row["spend_7d"] == sum(Decimal(order["amount"]).quantize(Decimal("0.01")) for order in week)
        assert row["last_order_at"] == max(at for at, _ in mine if at < t)


def test_a_brute_force_count_from_the_declaration_agrees() -> None:
    landing.land()
    pipeline.run_all(str(landing.INTERVAL.start), str(landing.INTERVAL.end), "test")
    table = catalog.table("gold.customer_orders")
    versions = {name: delta.version_of(name) for name in (*table.inputs, table.qualified)}
    found = brute_force.verify(table, versions, sample=5, seed=1)
    assert found.compared
    assert found.differences == ()

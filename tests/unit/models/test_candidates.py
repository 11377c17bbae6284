"""Candidates and labels against loops over the purchases; nothing in them but `bought` and `weight` knows the week."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
from hypothesis import given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from models.recommender import candidates
from models.recommender.candidates import bought_sql, considered_sql, labels_sql, weeks

WEEK = date(2017, 6, 12)
START = datetime(2017, 6, 12, tzinfo=UTC)
moments = st.sampled_from(
    [-timedelta(days=91), -timedelta(days=90), -timedelta(days=29), -timedelta(days=28), -timedelta(microseconds=1), timedelta(0)]
) | st.builds(lambda hours: timedelta(hours=hours), st.integers(-100 * 24, 10 * 24))
purchases = st.lists(st.tuples(st.integers(1, 3), st.integers(1, 6), moments.map(lambda shift: START + shift)), max_size=30)


def query(rows: list[tuple[int, int, datetime]], sql: str) -> list[dict[str, Any]]:
    schema = pa.schema([("customer_id", pa.int64()), ("product_id", pa.int64()), ("transaction_at", pa.timestamp("us", "UTC")), ("week", pa.int64())])
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'; CREATE SCHEMA silver")
        con.register("given", pa.Table.from_pylist([dict(zip(schema.names, (*row, 24), strict=True)) for row in rows], schema))
        con.execute("CREATE VIEW silver.transactions AS FROM given")
        return con.sql(sql).to_arrow_table().to_pylist()


def considered(rows: list[tuple[int, int, datetime]]) -> set[tuple[int, int]]:
    seen = {(customer, product) for customer, product, at in rows if START - timedelta(days=90) <= at < START}
    buyers: dict[int, set[int]] = {}
    for customer, product, at in rows:
        if START - timedelta(days=28) <= at < START:
            buyers.setdefault(product, set()).add(customer)
    popular = sorted(buyers, key=lambda product: (-len(buyers[product]), product))[: candidates.POPULAR]
    return seen | {(customer, product) for customer, _ in seen for product in popular}


@hypothesis(deadline=None)
@given(rows=purchases)
def test_labels_are_those_of_a_loop(rows: list[tuple[int, int, datetime]]) -> None:
    bought = {(customer, product) for customer, product, at in rows if START <= at < START + timedelta(days=7)}
    found = query(rows, labels_sql([WEEK]))
    assert {(row["customer_id"], row["product_id"]): row["bought"] for row in found} == {pair: pair in bought for pair in considered(rows)}
    assert len(found) == len(considered(rows))
    assert {(row["event_timestamp"], row["request_time"], row["weight"]) for row in found} <= {(START, START, 1)}
    assert {(row["customer_id"], row["product_id"]) for row in query(rows, bought_sql(WEEK))} == bought
    for customer in (1, 2, 3):
        assert {(customer, row["product_id"]) for row in query(rows, considered_sql(WEEK, customer))} == {
            pair for pair in considered(rows) if pair[0] == customer
        }


def test_only_the_most_popular_are_considered_for_all(monkeypatch: Any) -> None:
    monkeypatch.setattr(candidates, "POPULAR", 1)
    day = START - timedelta(days=1)
    rows = [(1, 10, day), (2, 10, day), (2, 11, day), (3, 12, day)]
    found = query(rows, labels_sql([WEEK]))
    assert {(row["customer_id"], row["product_id"]) for row in found} == {(1, 10), (2, 10), (2, 11), (3, 12), (3, 10)}


def test_of_what_was_not_bought_one_in_so_many_stays_and_weighs_as_much() -> None:
    rows = [(1, product, START - timedelta(days=1)) for product in range(1000)] + [(1, product, START) for product in range(0, 1000, 100)]
    found = query(rows, labels_sql([WEEK], one_in=10))
    assert sum(row["bought"] for row in found) == 10
    assert {row["weight"] for row in found if row["bought"]} == {1}
    assert {row["weight"] for row in found if not row["bought"]} == {10}
    assert sum(row["weight"] for row in found) == 1000 or abs(sum(row["weight"] for row in found) - 1000) <= 110


def test_weeks_do_not_overlap_and_the_judged_one_is_the_last() -> None:
    learned, judged = weeks(date(2018, 1, 2), 3)
    assert (learned, judged) == ((date(2017, 12, 5), date(2017, 12, 12), date(2017, 12, 19)), date(2017, 12, 26))


def test_a_week_ends_at_the_eighth_midnight() -> None:
    before, end = START - timedelta(days=1), START + timedelta(days=7)
    last = [(1, 10, before), (1, 10, end - timedelta(microseconds=1)), (1, 11, before), (1, 11, end)]
    assert {row["product_id"]: row["bought"] for row in query(last, labels_sql([WEEK]))} == {10: True, 11: False}
    assert [row["product_id"] for row in query(last, bought_sql(WEEK))] == [10]

"""Candidates and labels against loops over the purchases; nothing in them but `bought` knows the week."""

import math
from datetime import UTC, date, datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa
from hypothesis import example, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st

from grocery.recommender import candidates
from grocery.recommender.candidates import bought_sql, considered_sql, labels_sql, learned_before, weeks

WEEK = date(2017, 6, 12)
START = datetime(2017, 6, 12, tzinfo=UTC)
DAY = timedelta(days=1)
moments = st.sampled_from(
    [-366 * DAY, -365 * DAY, -91 * DAY, -90 * DAY, -29 * DAY, -28 * DAY, -timedelta(microseconds=1), timedelta(0)]
) | st.builds(lambda hours: timedelta(hours=hours), st.integers(-400 * 24, 10 * 24))
purchases = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 6), moments.map(lambda shift: START + shift)), max_size=30
)
Rows = list[tuple[int, int, datetime]]


def query(rows: Rows, sql: str) -> list[dict[str, Any]]:
    schema = pa.schema(
        [("customer_id", pa.int64()), ("product_id", pa.int64()), ("transaction_at", pa.timestamp("us", "UTC"))]
    )
    with duckdb.connect() as con:
        con.execute("SET TimeZone = 'UTC'; CREATE SCHEMA silver")
        con.register(
            "purchases", pa.Table.from_pylist([dict(zip(schema.names, row, strict=True)) for row in rows], schema)
        )
        con.execute("CREATE VIEW silver.transactions AS FROM purchases")
        return con.sql(sql).to_arrow_table().to_pylist()


def considered(
    rows: Rows, number: int = candidates.CONSIDERED, popular: int = candidates.POPULAR
) -> set[tuple[int, int]]:
    """One customer after the other, one purchase after the other."""
    known = [(customer, product, at) for customer, product, at in rows if START - 365 * DAY <= at < START]
    buyers: dict[int, set[int]] = {}
    for customer, product, at in known:
        if at >= START - 28 * DAY:
            buyers.setdefault(product, set()).add(customer)
    most_bought = sorted(buyers, key=lambda product: (-len(buyers[product]), product))[:popular]
    chosen = set()
    for active in {customer for customer, _, at in known if at >= START - 90 * DAY}:
        mine = [(product, at) for customer, product, at in known if customer == active]
        scores = {
            product: 0.1 * math.log(1 + len(buyers.get(product, ())))
            for product in {*most_bought, *(product for product, _ in mine)}
        }
        for product, at in mine:
            scores[product] += 2 ** (-((START - at) / DAY) / 60)
        ranked = sorted(scores, key=lambda product: (-round(scores[product], 6), product))
        chosen |= {(active, product) for product in ranked[:number]}
    return chosen


@hypothesis(deadline=None, max_examples=25)
@given(rows=purchases)
@example(
    rows=[(1, 2, START - 365 * DAY), (1, 3, START - 90 * DAY), (2, 1, START - 91 * DAY), (1, 1, START), (2, 1, START)]
)
def test_labels_are_those_of_a_loop(rows: Rows) -> None:
    bought = {(customer, product) for customer, product, at in rows if START <= at < START + 7 * DAY}
    buyers = {customer for customer, _ in bought}
    labels, pairs = query(rows, labels_sql([WEEK])), considered(rows)
    expected = {pair: pair in bought for pair in pairs if pair[0] in buyers}
    assert {(row["customer_id"], row["product_id"]): row["bought"] for row in labels} == expected
    assert len(labels) == len(expected)
    assert {(row["event_timestamp"], row["request_time"]) for row in labels} <= {(START, START)}
    assert {(row["customer_id"], row["product_id"]) for row in query(rows, bought_sql([WEEK]))} == bought
    assert {(row["customer_id"], row["product_id"]) for row in query(rows, considered_sql(WEEK))} == pairs
    for customer in (1, 2, 3):
        assert {row["product_id"] for row in query(rows, considered_sql(WEEK, customer))} == {
            product for buyer, product in pairs if buyer == customer
        }


def test_only_the_best_are_considered(monkeypatch: Any) -> None:
    monkeypatch.setattr(candidates, "POPULAR", 1)
    monkeypatch.setattr(candidates, "CONSIDERED", 2)
    rows = [
        (1, 10, START - DAY),
        (2, 10, START - DAY),
        (2, 11, START - DAY),
        (2, 12, START - 2 * DAY),
        (3, 13, START - DAY),
        (3, 14, START - DAY),
    ]
    pairs = query(rows, considered_sql(WEEK))
    assert (
        {(row["customer_id"], row["product_id"]) for row in pairs}
        == considered(rows, 2, 1)
        == {(1, 10), (2, 10), (2, 11), (3, 13), (3, 14)}
    )


def test_each_model_learns_from_the_weeks_right_before_the_one_it_is_judged_on() -> None:
    learned, held = weeks(date(2018, 1, 2), 3, 2)
    assert held == (date(2017, 12, 19), date(2017, 12, 26))
    assert learned == (date(2017, 11, 28), date(2017, 12, 5), date(2017, 12, 12), date(2017, 12, 19))
    assert [learned_before(week, 3) for week in held] == [learned[:3], learned[1:]]
    assert all(week + 7 * DAY <= judged for judged in held for week in learned_before(judged, 3))


def test_a_week_ends_at_the_eighth_midnight() -> None:
    before, end = START - DAY, START + 7 * DAY
    rows = [(1, 10, before), (1, 10, end - timedelta(microseconds=1)), (1, 11, before), (1, 11, end)]
    assert {row["product_id"]: row["bought"] for row in query(rows, labels_sql([WEEK]))} == {10: True, 11: False}
    assert [row["product_id"] for row in query(rows, bought_sql([WEEK]))] == [10]

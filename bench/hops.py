"""Count what windows in hops change: `python -m bench.hops`, after `make demo`.

A window of Chronon begins at a multiple of its hop: five minutes, an hour where it is 12 hours or longer, a day where
it is 12 days or longer. So at an instant `t` it has the events of [floor(t - w, hop), t) instead of [t - w, t). Both
are counted in silver.transactions, for random customers at random instants of the sample.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from lake import delta

WINDOWS = {"10 minutes": 600, "1 hour": 3_600, "24 hours": 86_400, "30 days": 30 * 86_400, "90 days": 90 * 86_400}
"""Seconds."""
HOPS = ((12 * 86_400, 86_400), (12 * 3_600, 3_600), (0, 300))
"""Least seconds of a window, and its hop in seconds: Chronon's default resolution."""


def main() -> int:
    """Print a table: the share of windows with an event in either rule whose count or sum differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--instants", type=int, default=4_000_000)
    options = parser.parse_args()
    connection = _events(options.instants)
    print("| window | hop | windows with an event | counts that differ | sums that differ |\n|---|---|---|---|---|")
    for name, seconds in WINDOWS.items():
        hop = next(hop for least, hop in HOPS if seconds >= least)
        windows, counts, sums = _compare(connection, seconds, hop)
        print(f"| {name} | {_shown(hop)} | {windows:,} | {counts / windows:.1%} | {sums / windows:.1%} |", flush=True)
    return 0


def _events(instants: int) -> Any:
    """DuckDB with the sample's events, the running totals of each customer, and customers at random instants."""
    import duckdb

    os.environ.setdefault("MILLRACE_PROJECT", "examples/grocery")
    connection = duckdb.connect()
    table = delta.open_table("silver.transactions")
    if table is None:
        raise SystemExit("silver.transactions is not published yet. Run `make demo` first")
    connection.register("transactions", table.to_pyarrow_dataset())
    connection.execute(
        "SELECT setseed(0.5);"
        " CREATE TABLE e AS SELECT customer_id AS c, epoch_us(transaction_at) AS ts, count(*) AS n,"
        " sum(sales_value) AS v FROM transactions GROUP BY ALL;"
        " CREATE TABLE totals AS SELECT c, ts, sum(n) OVER w AS n, sum(v) OVER w AS v FROM e"
        " WINDOW w AS (PARTITION BY c ORDER BY ts);"
        " CREATE TABLE customers AS SELECT row_number() OVER (ORDER BY c) AS number, c"
        " FROM (SELECT DISTINCT c FROM e);"
        " CREATE TABLE drawn AS SELECT 1 + CAST(floor(random() * (SELECT count(*) FROM customers)) AS BIGINT)"
        " AS number,"
        " (SELECT min(ts) FROM e) + CAST(random() * (SELECT max(ts) - min(ts) FROM e) AS BIGINT) AS t"
        f" FROM range({instants});"
        " CREATE TABLE instants AS SELECT c, t FROM drawn JOIN customers USING (number)"
    )
    return connection


def _compare(connection: Any, seconds: int, hop: int) -> tuple[int, int, int]:
    """Windows with an event in either rule, those with another count, and those with another sum."""
    start, width = f"t - {seconds * 10**6}", hop * 10**6
    row = connection.execute(
        f"WITH bounds AS (SELECT c, t, {start} AS a, ({start}) - ({start}) % {width} AS b FROM instants),"
        f" joined AS (SELECT e.n AS n0, e.v AS v0, x.n AS n1, x.v AS v1, y.n AS n2, y.v AS v2 FROM bounds i"
        f" ASOF LEFT JOIN totals e ON i.c = e.c AND e.ts < i.t ASOF LEFT JOIN totals x ON i.c = x.c AND x.ts < i.a"
        f" ASOF LEFT JOIN totals y ON i.c = y.c AND y.ts < i.b),"
        " counts AS (SELECT coalesce(n0, 0) - coalesce(n1, 0) AS exact, coalesce(n0, 0) - coalesce(n2, 0) AS hops,"
        " coalesce(v0, 0) - coalesce(v1, 0) AS exact_sum, coalesce(v0, 0) - coalesce(v2, 0) AS hop_sum FROM joined)"
        " SELECT count(*), count(*) FILTER (WHERE exact <> hops), count(*) FILTER (WHERE exact_sum <> hop_sum)"
        " FROM counts WHERE exact > 0 OR hops > 0"
    ).fetchone()
    return (int(row[0]), int(row[1]), int(row[2]))


def _shown(seconds: int) -> str:
    return {300: "5 minutes", 3_600: "1 hour", 86_400: "1 day"}[seconds]


if __name__ == "__main__":
    sys.exit(main())

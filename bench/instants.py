"""Time features at instants: `python -m bench.instants`.

The join of 200,000 labels with 1.5 million events of 2,500 customers, for six windows of a sum, a count and distinct
values each, and the fold of one customer with 3,000 events. Values are compared with `expectations.brute_force` at
random labels. No lake is needed. With `--spark`, the engine of MILLRACE_ENGINE does the join, too, once.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

EVENTS, CUSTOMERS, LABELS, CHECKED = 1_500_000, 2_500, 200_000, 300
CONTRACTS = {
    "silver/purchases": """
from datetime import timedelta
from contracts.model import LONG, MONEY, TIMESTAMP, Column, Layer, Table
purchases = Table(
    layer=Layer.SILVER, name="purchases", doc="Purchases", grain="one row per purchase", owner="bench",
    freshness=timedelta(days=1), inputs=("bronze.purchases",), key=("purchase",), time_column="bought_at",
    columns=(
        Column("purchase", LONG, "Purchase", required=True), Column("customer", LONG, "Customer", required=True),
        Column("store", LONG, "Store", required=True), Column("amount", MONEY, "Amount", required=True),
        Column("bought_at", TIMESTAMP, "When", required=True),
    ),
)
""",
    "gold/customer_pulse": """
from contracts.aggregations import At, Count, Distinct, Latest, Sum, days, feature_table, hours, minutes
from contracts.model import LONG, Column
from instants_bench.contracts.silver.purchases import purchases
WINDOWS = (*minutes(10), *hours(1, 24), *days(7, 30, 90))
customer_pulse = feature_table(
    name="customer_pulse", doc="What a customer buys", owner="bench", events=purchases, at=At.INSTANTS,
    key=(Column("customer", LONG, "Customer", required=True),),
    aggregations=(
        Sum("spend", "amount", windows=WINDOWS), Count("purchases", windows=WINDOWS),
        Distinct("stores", "store", windows=WINDOWS), Latest("last_purchase_at"),
    ),
)
""",
}


def main() -> int:
    """Run the benchmark and print it as a table; 1 if a value is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--spark", action="store_true", help="join on the engine, too")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "instants_bench"
        for name, text in {"millrace.toml": 'name = "instants_bench"\n'}.items():
            root.mkdir()
            (root / name).write_text(text)
        for name, text in CONTRACTS.items():
            path = root / "contracts" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        os.environ["MILLRACE_PROJECT"] = str(root)
        return _run(options.rounds, root if options.spark else None)


def _run(rounds: int, spark: Path | None) -> int:
    import duckdb

    from features import views
    from features.instants import offline, state
    from features.instants.fold import Fold

    view = views.view("customer_pulse")
    names = [field.name for field in view.features]
    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'; SET python_enable_replacements = false")
    con.execute(f"""
        SELECT setseed(0.5);
        CREATE TABLE gold AS SELECT range AS purchase, CAST(pow(random(), 2) * {CUSTOMERS} AS BIGINT) AS customer,
            make_timestamptz(CAST(1.7e15 + random() * 365 * 86400e6 AS BIGINT)) AS event_timestamp,
            CAST(random() * 100 AS DECIMAL(12, 2)) AS spend, CAST(random() * 400 AS BIGINT) AS stores
        FROM range({EVENTS});
        CREATE TABLE labels AS SELECT range AS __row, CAST(pow(random(), 2) * {CUSTOMERS} AS BIGINT) AS customer,
            CAST(1.7e15 + random() * 365 * 86400e6 AS BIGINT) AS __at FROM range({LABELS});
    """)
    sql = offline.as_of("gold", view.batch_source, view, names)
    walls, cpus = [], []
    for _ in range(rounds):
        wall, cpu = time.perf_counter(), time.process_time()
        trained = con.sql(sql).to_arrow_table()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    wrong = _wrong(con, trained, names)
    what = f"join of {LABELS:,} labels with {EVENTS:,} events, {len(names)} features"
    print(f"| {what} | {median(walls):.1f} s | {median(cpus):.1f} s of CPU |")
    print(f"| values that differ from brute force at {CHECKED} labels | {wrong} | |")
    if spark:
        started = time.perf_counter()
        on_spark = _join_by_spark(con, view, names, spark / "gold.parquet")
        took = time.perf_counter() - started
        same = on_spark.sort_by("__row").equals(trained.sort_by("__row"))
        print(f"| the same on the engine, once, {'the same values' if same else '**other values**'} | {took:.1f} s | |")
        wrong += not same

    horizon = int(1.7e15 + 365 * 86400e6)
    by_size = "SELECT customer FROM gold GROUP BY 1 ORDER BY abs(count(*) - 12000), 1 LIMIT 1"
    con.execute(f"CREATE TABLE one AS FROM gold WHERE customer = ({by_size})")
    events = con.sql(state.query("one", view.batch_source, view, horizon)).to_arrow_table()
    [(_, _, blob)] = state.states(events, view, horizon)
    folding, at = Fold(view, names), horizon + 1
    folds = sorted(_timed(folding, blob, at + n) for n in range(2_000))
    what = f"fold of {events.num_rows:,} events, {len(names)} features, {len(blob) / 1000:.0f} kB"
    print(f"| {what} | {median(folds) * 1e3:.3f} ms | |")
    return 1 if wrong else 0


def _join_by_spark(con: Any, view: Any, names: list[str], file: Path) -> Any:
    from etl import engine
    from features.instants import cluster

    con.execute(f"COPY gold TO '{file}'")
    history = engine.session().read.parquet(str(file))
    labels = con.sql("FROM labels").to_arrow_table()
    con.register("matches", cluster.find(engine.session(), history, labels, view.batch_source, view, names))
    return con.sql(cluster.computed(view, names)).to_arrow_table()


def _timed(folding: Any, blob: bytes, at: int) -> float:
    started = time.perf_counter()
    folding.values(blob, at)
    return time.perf_counter() - started


def _wrong(con: Any, trained: Any, names: list[str]) -> int:
    from contracts import catalog
    from expectations import brute_force

    declared = catalog.table("gold.customer_pulse").aggregates
    if declared is None:
        raise ValueError("gold.customer_pulse declares no aggregations")
    rows = {row["__row"]: row for row in trained.to_pylist()}
    labels = con.execute("FROM labels SELECT __row, customer, __at").fetchall()
    samples = {
        row: ((customer,), datetime.fromtimestamp(0, UTC) + timedelta(microseconds=at))
        for row, customer, at in random.Random(1).sample(labels, CHECKED)
    }
    con.execute(
        "CREATE TEMP TABLE _source AS SELECT customer, spend AS amount, stores AS store, event_timestamp AS bought_at,"
        " CAST(event_timestamp AS TIMESTAMP) AS _at FROM gold"
    )
    expected = brute_force.counted(con, declared, "_source", [*samples.values()])
    blank = dict.fromkeys(names)
    return sum(
        _plain(expected.get(sample, blank)[name]) != _plain(rows.get(row, blank)[name])
        for row, sample in samples.items()
        for name in names
    )


def _plain(value: Any) -> Any:
    """As served: decimals as doubles, instants in whole seconds."""
    if isinstance(value, datetime):
        return value.replace(microsecond=0, tzinfo=None)
    return float(value) if isinstance(value, Decimal) else value


if __name__ == "__main__":
    sys.exit(main())

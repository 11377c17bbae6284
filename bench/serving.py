"""Time what is served: `python -m bench.serving`, with MILLRACE_HOME set to a home in which a release of the sample is online.

Reads of 1 and of 100 entities with all features of `recommendation_v1`: by bare sqlite, through the SDK, through the feature server over HTTP, beside an HTTP server that answers nothing.
Loads of `product_popularity`: ours, Feast's own into its own sqlite store, and a bare bulk load of rows that are known to be the newest.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from contracts import release, settings
from etl.spark import server as spark_server

SERVICE, VIEW = "recommendation_v1", "product_popularity"
CALLS = {1: 2000, 100: 200}
Asked = list[tuple[int, int]]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", choices=("features", "echo"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.serve:
        serve(options.serve, options.port)
        return
    print("| entities | way | p50 | p99 | entities/s | p50 against bare | p50 against echo |\n|---|---|---|---|---|---|---|")
    with server("features") as features, server("echo") as echo:
        for count in CALLS:
            print_reads(
                count, {"bare sqlite": bare(), "SDK": sdk(), "HTTP echo": over_http(echo, lambda _: {}), "HTTP, feature server": over_http(features, asked)}
            )
    print("\n| load | entities | time | entities/s |\n|---|---|---|---|")
    for name, load in (("ours", our_load), ("bare bulk load", bare_load), ("Feast's own", feasts_load)):
        rows, seconds = load()
        print(f"| {name} | {rows:,} | {seconds:.2f} s | {rows / seconds:,.0f} |", flush=True)


def print_reads(count: int, ways: dict[str, Callable[[Asked], Any]]) -> None:
    """Each way answers the same questions; they take turns, so that a noisy second hits all."""
    known, rng = pairs(), random.Random(7)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for call in range(CALLS[count] + 20):
        entities = rng.sample(known, count)
        for name, way in ways.items():
            started = time.perf_counter()
            way(entities)
            if call >= 20:
                taken[name].append(time.perf_counter() - started)
    middle = {name: sorted(seconds)[len(seconds) // 2] for name, seconds in taken.items()}
    for name, seconds in taken.items():
        last = sorted(seconds)[len(seconds) * 99 // 100]
        ratios = f"{middle[name] / middle['bare sqlite']:.1f} | {middle[name] / middle['HTTP echo']:.1f}"
        print(f"| {count} | {name} | {middle[name] * 1e3:.2f} ms | {last * 1e3:.2f} ms | {count * len(seconds) / sum(seconds):,.0f} | {ratios} |", flush=True)


def pairs() -> Asked:
    """Customers and products that have features."""
    from features.online.sqlite import SqliteSession

    return (
        SqliteSession()
        .reader()
        .connection.execute("SELECT customer_id, product_id FROM customer_product ORDER BY customer_id, product_id LIMIT 200000")
        .fetchall()[::40]
    )


def bare() -> Callable[[Asked], Any]:
    """The same lookups without Feast: a query per view and entity."""
    from features.online.sqlite import SqliteSession

    connection = SqliteSession().reader().connection
    queries = (
        ("SELECT * FROM customer_activity WHERE customer_id = ?", (0,)),
        ("SELECT * FROM product_popularity WHERE product_id = ?", (1,)),
        ("SELECT * FROM customer_product WHERE customer_id = ? AND product_id = ?", (0, 1)),
        ("SELECT * FROM customer_profile WHERE customer_id = ?", (0,)),
    )
    return lambda entities: [connection.execute(sql, [pair[i] for i in places]).fetchone() for sql, places in queries for pair in entities]


def asked(entities: Asked) -> dict[str, Any]:
    """What a request to the feature server says."""
    customers, products = zip(*entities, strict=True)
    return {
        "feature_service": SERVICE,
        "entities": {"customer_id": customers, "product_id": products, "request_time": ["2018-01-02T00:00:00+00:00"] * len(entities)},
    }


def sdk() -> Callable[[Asked], Any]:
    from features import registry

    store, now = registry.open_store(), datetime(2018, 1, 2, tzinfo=UTC)
    service = store.get_feature_service(SERVICE)

    def read(entities: Asked) -> Any:
        rows = {**asked(entities)["entities"], "request_time": [now] * len(entities)}
        return store.get_online_features(service, {name: list(values) for name, values in rows.items()}).to_dict()

    return read


def over_http(port: int, body: Callable[[Asked], dict[str, Any]]) -> Callable[[Asked], Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def read(entities: Asked) -> Any:
        connection.request("POST", "/get-online-features", json.dumps(body(entities)), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"the server answered {answer.status}: {content[:500]!r}")
        return json.loads(content)

    return read


@contextmanager
def server(which: str) -> Iterator[int]:
    """A server in a process of its own; its port."""
    port = spark_server.free_port()
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-m", "bench.serving", "--serve", which, "--port", str(port)])
    try:
        deadline = time.monotonic() + 60
        while not spark_server.listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the {which} server did not start")
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


def serve(which: str, port: int) -> None:
    """Become the server."""
    if which == "features":
        from features import server as feature_server

        feature_server.run(port)
        return
    import uvicorn
    from fastapi import FastAPI

    app = FastAPI()

    @app.post("/get-online-features")
    async def echo() -> dict[str, str]:
        return {}

    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def our_load() -> tuple[int, float]:
    """Into a generation that nobody reads, of a home of its own."""
    from features import registry
    from features.materialize import load

    view = registry.open_store().get_feature_view(VIEW)
    newest = release.read()
    with elsewhere():
        started = time.perf_counter()
        (report,) = load(newest, [view], "bench")
        return report.rows, time.perf_counter() - started


def bare_load() -> tuple[int, float]:
    """Rows of a parquet file, which holds the newest ones already, into a plain sqlite table."""
    import duckdb

    with elsewhere() as folder, duckdb.connect() as con:
        newest = "QUALIFY row_number() OVER (PARTITION BY product_id ORDER BY event_timestamp DESC) = 1"
        con.execute(f"COPY (SELECT * FROM read_parquet({files()}) {newest}) TO '{folder}/newest.parquet'")
        started = time.perf_counter()
        rows = con.execute(
            f"SELECT * REPLACE (epoch_us(event_timestamp) AS event_timestamp, revenue_7d::DOUBLE AS revenue_7d, revenue_28d::DOUBLE AS revenue_28d)"
            f" FROM '{folder}/newest.parquet'"
        ).fetchall()
        with sqlite3.connect(folder / "bare.sqlite") as target:
            target.execute(f"CREATE TABLE t ({', '.join(f'c{i}' for i in range(len(rows[0])))})")
            target.executemany(f"INSERT INTO t VALUES ({', '.join('?' * len(rows[0]))})", rows)
        return len(rows), time.perf_counter() - started


def feasts_load() -> tuple[int, float]:
    """Feast's file source, its default offline store, and its sqlite store, as `feast init` sets them up."""
    import duckdb
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast.types import Float64, Int64
    from feast.value_type import ValueType

    with elsewhere() as folder, duckdb.connect() as con:
        con.execute(
            f"SET TimeZone = 'UTC'; COPY (SELECT * REPLACE (revenue_7d::DOUBLE AS revenue_7d, revenue_28d::DOUBLE AS revenue_28d) FROM read_parquet({files()})) TO '{folder}/rows.parquet'"
        )
        names = [row[0] for row in con.execute(f"DESCRIBE FROM '{folder}/rows.parquet'").fetchall() if row[0] != "event_timestamp"]
        entity = Entity(name="product_id", join_keys=["product_id"], value_type=ValueType.INT64)
        fields = [Field(name=name, dtype=Float64 if name.startswith(("revenue", "promoted")) else Int64) for name in names]
        source = FileSource(name="rows", path=f"{folder}/rows.parquet", timestamp_field="event_timestamp")
        config = RepoConfig(
            project="p",
            provider="local",
            registry=f"{folder}/registry.db",
            online_store={"type": "sqlite", "path": f"{folder}/online.db"},
            entity_key_serialization_version=3,
        )
        store = FeatureStore(config=config)
        store.apply([entity, FeatureView(name=VIEW, entities=[entity], schema=fields, source=source)])
        started = time.perf_counter()
        store.materialize(datetime(2016, 1, 1, tzinfo=UTC), datetime(2018, 1, 2, tzinfo=UTC))
        seconds = time.perf_counter() - started
        with sqlite3.connect(folder / "online.db") as online:
            return online.execute(f"SELECT count(DISTINCT entity_key) FROM p_{VIEW}").fetchone()[0], seconds


def files() -> str:
    """The data files of the gold table in the newest release, as a DuckDB list."""
    from deltalake import DeltaTable

    qualified = f"gold.{VIEW}"
    return str(DeltaTable(str(settings.table_path(qualified)), version=release.read().tables[qualified]).file_uris())


@contextmanager
def elsewhere() -> Iterator[Path]:
    """Another home, for as long as this lasts."""
    before, folder = dict(os.environ), Path(tempfile.mkdtemp())
    lake = settings.lake()
    os.environ |= {"MILLRACE_HOME": str(folder), "MILLRACE_LAKE": str(lake)}
    try:
        yield folder
    finally:
        os.environ.clear()
        os.environ.update(before)
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()

"""Time online reads and loads: `python -m bench.serving`, with MILLRACE_HOME set to a home in which a release of the
sample is online.

Reads 1 and 100 entities with all features of `recommendation_v1`: with plain sqlite, through the SDK, and over HTTP
from the feature server. Two servers of the same kind show the cost of HTTP itself: one gets an empty request and
returns an empty response, the other gets the real request and returns the same bytes every time. Contestants take turns
of 20 calls; figures are medians over rounds, ratios are medians of the ratios within a round. Loads
`product_popularity` with Millrace, with Feast into its own sqlite store, and with a bare bulk load of rows that are
already the newest.
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
from statistics import median
from typing import Any

from etl.spark import server as spark_server
from lake import release, settings

SERVICE, VIEW = "recommendation_v1", "product_popularity"
TURNS = {1: 40, 100: 6}
"""Turns of each contestant in a round, by number of entities."""
CALLS = {1: 20, 100: 20}
"""Timed calls in a turn, by number of entities."""
WARM_UP = 3
"""Untimed calls at the start of a turn, when the caches still hold another contestant's data."""
Entities = list[tuple[int, int]]
Reader = Callable[[Entities], Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds of reads (default 5)")
    parser.add_argument("--without-loads", action="store_true", help="time reads only")
    parser.add_argument("--serve", choices=("features", "fixed", "route"), help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--answer", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.serve:
        serve(options.serve, options.port, options.answer)
        return
    print(
        "| entities | contestant | p50 | p99 | entities/s | p50 against bare | p50 against echo"
        " |\n|---|---|---|---|---|---|---|"
    )
    with server("features") as features, server("fixed") as echo, server("route") as route:
        for count in CALLS:
            with tempfile.NamedTemporaryFile() as answer:
                answer.write(
                    json.dumps(over_http(features, request_body)(pairs()[:count]), separators=(",", ":")).encode()
                )
                answer.flush()
                with server("fixed", answer.name) as same:
                    readers = {
                        "bare sqlite": bare(),
                        "bare sqlite, a query per view and entity": bare_one_by_one(),
                        "SDK": sdk(),
                        "SDK, Feast's own code": feast_sdk(),
                        "HTTP echo": over_http(echo, lambda _: {}),
                        "HTTP echo, a route of FastAPI": over_http(route, lambda _: {}),
                        "HTTP, the same bytes each time": over_http(same, request_body),
                        "HTTP, feature server": over_http(features, request_body),
                    }
                    print_reads(count, [one_round(count, readers, number) for number in range(options.rounds)])
    if options.without_loads:
        return
    print("\n| load | entities | time | entities/s |\n|---|---|---|---|")
    for name, load, times in (
        ("ours", millrace_load, 3),
        ("bare bulk load", bare_load, 3),
        ("Feast's own", feast_load, 1),
    ):
        rows, seconds = sorted(load() for _ in range(times))[times // 2]
        print(f"| {name} | {rows:,} | {seconds:.2f} s | {rows / seconds:,.0f} |", flush=True)


def one_round(count: int, readers: dict[str, Reader], number: int) -> dict[str, list[float]]:
    """Sorted seconds per call of each contestant. They read the same entities and take short turns, so that a noisy
    second hits all of them.
    """
    pool, rng = pairs(), random.Random(number)
    timings: dict[str, list[float]] = {name: [] for name in readers}
    for _ in range(TURNS[count]):
        batches = [rng.sample(pool, count) for _ in range(CALLS[count] + WARM_UP)]
        for name, read in readers.items():
            for call, entities in enumerate(batches):
                started = time.perf_counter()
                read(entities)
                if call >= WARM_UP:
                    timings[name].append(time.perf_counter() - started)
    return {name: sorted(seconds) for name, seconds in timings.items()}


def print_reads(count: int, rounds: list[dict[str, list[float]]]) -> None:
    """Print a row per contestant."""
    for name in rounds[0]:
        p50, p99 = (
            median(timings[name][len(timings[name]) * percent // 100] for timings in rounds) for percent in (50, 99)
        )
        rate = median(count * len(timings[name]) / sum(timings[name]) for timings in rounds)
        to_bare, to_echo = (
            median(middle(timings[name]) / middle(timings[other]) for timings in rounds)
            for other in ("bare sqlite", "HTTP echo")
        )
        print(
            f"| {count} | {name} | {p50 * 1e3:.3f} ms | {p99 * 1e3:.3f} ms | {rate:,.0f} | {to_bare:.1f} |"
            f" {to_echo:.2f} |",
            flush=True,
        )


def middle(ordered: list[float]) -> float:
    return ordered[len(ordered) // 2]


def online() -> sqlite3.Connection:
    """A connection to the sqlite file of the generation in use."""
    from features.online.sqlite import SqliteSession

    return SqliteSession().reader().connection


def pairs() -> Entities:
    """Pairs of customer and product that have features."""
    return (
        online()
        .execute("SELECT customer_id, product_id FROM customer_product ORDER BY customer_id, product_id LIMIT 200000")
        .fetchall()[::40]
    )


VIEWS: dict[str, tuple[int, ...]] = {
    "customer_activity": (0,),
    "product_popularity": (1,),
    "customer_product": (0, 1),
    "customer_profile": (0,),
}
"""Each view's keys, as positions in a pair of customer and product."""
KEYS = ("customer_id", "product_id")


def bare_one_by_one() -> Reader:
    """The lookups without Feast, written the obvious way: a query per view and entity."""
    connection = online()
    queries = [
        (f"SELECT * FROM {view} WHERE {' AND '.join(f'{KEYS[position]} = ?' for position in positions)}", positions)
        for view, positions in VIEWS.items()
    ]
    return lambda entities: [
        connection.execute(sql, [pair[position] for position in positions]).fetchone()
        for sql, positions in queries
        for pair in entities
    ]


def bare() -> Reader:
    """The lookups without Feast, as fast as we know how: a memory-mapped file, one transaction, one statement per view
    for any number of entities.
    """
    connection = online()
    connection.execute("PRAGMA mmap_size=1000000000")
    statements = statements_of(connection)

    def read(entities: Entities) -> Any:
        connection.execute("BEGIN")
        rows = []
        for for_one, for_many, positions in statements:
            if len(entities) == 1:
                sql = for_one
            else:
                sql = for_many.format(values=",".join([f"({','.join('?' * len(positions))})"] * len(entities)))
            keys = [pair[position] for pair in entities for position in positions]
            rows.append(connection.execute(sql, keys).fetchall())
        connection.execute("COMMIT")
        return rows

    return read


def statements_of(connection: sqlite3.Connection) -> list[tuple[str, str, tuple[int, ...]]]:
    """Per view: the statement for one entity, the one for many, and the positions of its keys. They read all columns
    but the keys.
    """
    statements = []
    for view, positions in VIEWS.items():
        keys = [KEYS[position] for position in positions]
        names = [
            row[1] for row in connection.execute(f"PRAGMA table_info({view})") if row[1] not in (*keys, "_created_at")
        ]
        columns = ", ".join(f"t.{name}" for name in names)
        for_one = f"SELECT {columns} FROM {view} t WHERE {' AND '.join(f't.{key} = ?' for key in keys)}"
        on = " AND ".join(f"t.{key} = requested.{key}" for key in keys)
        requested = f"WITH requested ({', '.join(keys)}) AS (VALUES {{values}})"
        for_many = f"{requested} SELECT {columns} FROM requested LEFT JOIN {view} t ON {on}"
        statements.append((for_one, for_many, positions))
    return statements


def request_body(entities: Entities) -> dict[str, Any]:
    """The JSON of a request to the feature server."""
    customers, products = zip(*entities, strict=True)
    return {
        "feature_service": SERVICE,
        "entities": {
            "customer_id": customers,
            "product_id": products,
            "request_time": ["2018-01-02T00:00:00+00:00"] * len(entities),
        },
    }


def sdk() -> Reader:
    from features import registry

    store, now = registry.open_store(), datetime(2018, 1, 2, tzinfo=UTC)
    service = store.get_feature_service(SERVICE)

    def read(entities: Entities) -> Any:
        rows = {**request_body(entities)["entities"], "request_time": [now] * len(entities)}
        return store.get_online_features(service, {name: list(values) for name, values in rows.items()}).to_dict()

    return read


def feast_sdk() -> Reader:
    """The same with Feast's base class, which builds the response from protobuf."""
    from feast.infra.online_stores.online_store import OnlineStore

    from features import registry

    store, now = registry.open_store(), datetime(2018, 1, 2, tzinfo=UTC)
    service, online_store = store.get_feature_service(SERVICE), store._get_provider().online_store

    def read(entities: Entities) -> Any:
        rows = {**request_body(entities)["entities"], "request_time": [now] * len(entities)}
        return OnlineStore.get_online_features(
            online_store, store.config, service, rows, store.registry, store.project
        ).to_dict()

    return read


def over_http(port: int, body: Callable[[Entities], dict[str, Any]]) -> Reader:
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def read(entities: Entities) -> Any:
        connection.request(
            "POST", "/get-online-features", json.dumps(body(entities)), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        content = response.read()
        if response.status != 200:
            raise SystemExit(f"the server answered {response.status}: {content[:500]!r}")
        return json.loads(content)

    return read


@contextmanager
def server(which: str, answer: str = "") -> Iterator[int]:
    """Run a server in a child process; yields its port."""
    port = spark_server.free_port()
    more = ["--answer", answer] if answer else []
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "bench.serving", "--serve", which, "--port", str(port), *more]
    )
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


def serve(which: str, port: int, answer: Path | None) -> None:
    """Run the feature server, or a server that reads each request to its end and returns `{}` or the file's bytes.

    Both are uvicorn as `features.serving` runs it, with middleware in front of a FastAPI application, which is where
    features are answered; a `route` of the application costs more.
    """
    from fastapi import FastAPI

    from features.serving import workers
    from features.serving.app import app

    if which == "features":
        workers.run(app, port)
        return

    echo = FastAPI()
    if which == "route":
        echo.post("/get-online-features")(nothing)
    else:
        echo.add_middleware(Fixed, content=answer.read_bytes() if answer else b"{}")
    workers.run(lambda: echo, port)


async def nothing() -> dict[str, str]:
    """A route that does not read the request."""
    return {}


class Fixed:
    """ASGI middleware that returns the same body for every request."""

    def __init__(self, app: Any, content: bytes) -> None:
        self._app, self._content = app, content

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Read the request to its end, then respond."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-length", str(len(self._content)).encode()), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._content})


def millrace_load() -> tuple[int, float]:
    """Load into a new generation of a temporary home. Imports are not timed."""
    import deltalake
    import duckdb

    from features import registry
    from features.online.materialize import load

    del deltalake, duckdb
    view = registry.open_store().get_feature_view(VIEW)
    newest = release.read()
    with temporary_home():
        started = time.perf_counter()
        (report,) = load(newest, [view], "bench")
        return report.rows, time.perf_counter() - started


def bare_load() -> tuple[int, float]:
    """Load a parquet file that holds only the newest rows into a plain sqlite table."""
    import duckdb

    with temporary_home() as folder, duckdb.connect() as con:
        newest = "QUALIFY row_number() OVER (PARTITION BY product_id ORDER BY event_timestamp DESC) = 1"
        con.execute(f"COPY (SELECT * FROM read_parquet({files()}) {newest}) TO '{folder}/newest.parquet'")
        started = time.perf_counter()
        rows = con.execute(
            "SELECT * REPLACE (epoch_us(event_timestamp) AS event_timestamp, revenue_7d::DOUBLE AS revenue_7d,"
            f" revenue_28d::DOUBLE AS revenue_28d) FROM '{folder}/newest.parquet'"
        ).fetchall()
        with sqlite3.connect(folder / "bare.sqlite") as target:
            target.execute(f"CREATE TABLE t ({', '.join(f'c{i}' for i in range(len(rows[0])))})")
            target.executemany(f"INSERT INTO t VALUES ({', '.join('?' * len(rows[0]))})", rows)
        return len(rows), time.perf_counter() - started


def feast_load() -> tuple[int, float]:
    """Load with Feast's file source, default offline store and sqlite store, as `feast init` sets them up."""
    import duckdb
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast.types import Float64, Int64
    from feast.value_type import ValueType

    with temporary_home() as folder, duckdb.connect() as con:
        con.execute(
            "SET TimeZone = 'UTC'; COPY (SELECT * REPLACE (revenue_7d::DOUBLE AS revenue_7d, revenue_28d::DOUBLE AS"
            f" revenue_28d) FROM read_parquet({files()})) TO '{folder}/rows.parquet'"
        )
        names = [
            row[0]
            for row in con.execute(f"DESCRIBE FROM '{folder}/rows.parquet'").fetchall()
            if row[0] != "event_timestamp"
        ]
        entity = Entity(name="product_id", join_keys=["product_id"], value_type=ValueType.INT64)
        fields = [
            Field(name=name, dtype=Float64 if name.startswith(("revenue", "promoted")) else Int64) for name in names
        ]
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
def temporary_home() -> Iterator[Path]:
    """Set MILLRACE_HOME to an empty folder and keep the lake; the folder is removed on exit."""
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

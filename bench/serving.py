"""Time what is served: `python -m bench.serving`, with MILLRACE_HOME set to a home in which a release of the sample is
online.

Reads of 1 and of 100 entities with all features of `recommendation_v1`: by sqlite alone, through the SDK, through the
feature server over HTTP, beside a server of the same make that is asked nothing and answers nothing, and one that is
asked the same and answers the same bytes every time. Ways take turns of 20 calls; a figure is the median of the rounds,
and a ratio the median of the ratios within a round. Loads of `product_popularity`: ours, Feast's own into its own
sqlite store, and a bare bulk load of rows that are known to be the newest.
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
"""Of each way in a round."""
CALLS = {1: 20, 100: 20}
"""Of a turn, and so many more that are not counted, as the processor's caches are another's at its beginning."""
UNCOUNTED = 3
Asked = list[tuple[int, int]]
Way = Callable[[Asked], Any]


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="of reads (default 5)")
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
        "| entities | way | p50 | p99 | entities/s | p50 against bare | p50 against echo"
        " |\n|---|---|---|---|---|---|---|"
    )
    with server("features") as features, server("fixed") as echo, server("route") as route:
        for count in CALLS:
            with tempfile.NamedTemporaryFile() as answer:
                answer.write(json.dumps(over_http(features, question)(pairs()[:count]), separators=(",", ":")).encode())
                answer.flush()
                with server("fixed", answer.name) as same:
                    ways = {
                        "bare sqlite": bare(),
                        "bare sqlite, a query per view and entity": one_by_one(),
                        "SDK": sdk(),
                        "SDK, Feast's own way": feasts_way(),
                        "HTTP echo": over_http(echo, lambda _: {}),
                        "HTTP echo, a route of FastAPI": over_http(route, lambda _: {}),
                        "HTTP, the same bytes each time": over_http(same, question),
                        "HTTP, feature server": over_http(features, question),
                    }
                    print_reads(count, [one_round(count, ways, number) for number in range(options.rounds)])
    if options.without_loads:
        return
    print("\n| load | entities | time | entities/s |\n|---|---|---|---|")
    for name, load in (("ours", our_load), ("bare bulk load", bare_load), ("Feast's own", feasts_load)):
        rows, seconds = load()
        print(f"| {name} | {rows:,} | {seconds:.2f} s | {rows / seconds:,.0f} |", flush=True)


def one_round(count: int, ways: dict[str, Way], number: int) -> dict[str, list[float]]:
    """Seconds of each call, in order. The ways answer the same questions and take short turns, so that a noisy second
    hits all.
    """
    known, rng = pairs(), random.Random(number)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(TURNS[count]):
        questions = [rng.sample(known, count) for _ in range(CALLS[count] + UNCOUNTED)]
        for name, way in ways.items():
            for call, entities in enumerate(questions):
                started = time.perf_counter()
                way(entities)
                if call >= UNCOUNTED:
                    taken[name].append(time.perf_counter() - started)
    return {name: sorted(seconds) for name, seconds in taken.items()}


def print_reads(count: int, rounds: list[dict[str, list[float]]]) -> None:
    """A line for each way."""
    for name in rounds[0]:
        p50, p99 = (median(one[name][len(one[name]) * share // 100] for one in rounds) for share in (50, 99))
        rate = median(count * len(one[name]) / sum(one[name]) for one in rounds)
        ratios = [median(middle(one[name]) / middle(one[to]) for one in rounds) for to in ("bare sqlite", "HTTP echo")]
        print(
            f"| {count} | {name} | {p50 * 1e3:.3f} ms | {p99 * 1e3:.3f} ms | {rate:,.0f} | {ratios[0]:.1f} |"
            f" {ratios[1]:.2f} |",
            flush=True,
        )


def middle(ordered: list[float]) -> float:
    return ordered[len(ordered) // 2]


def online() -> sqlite3.Connection:
    """The file in use."""
    from features.online.sqlite import SqliteSession

    return SqliteSession().reader().connection


def pairs() -> Asked:
    """Customers and products that have features."""
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
"""Each view's keys, as places in a pair of customer and product."""
KEYS = ("customer_id", "product_id")


def one_by_one() -> Way:
    """The same lookups without Feast, as they are written first: a query per view and entity."""
    connection = online()
    queries = [
        (f"SELECT * FROM {view} WHERE {' AND '.join(f'{KEYS[place]} = ?' for place in places)}", places)
        for view, places in VIEWS.items()
    ]
    return lambda entities: [
        connection.execute(sql, [pair[place] for place in places]).fetchone()
        for sql, places in queries
        for pair in entities
    ]


def bare() -> Way:
    """The same lookups without Feast, as fast as we know how: the file mapped into memory, one transaction, one
    statement per view whatever the number of entities.
    """
    connection = online()
    connection.execute("PRAGMA mmap_size=1000000000")
    statements = statements_of(connection)

    def read(entities: Asked) -> Any:
        connection.execute("BEGIN")
        found = []
        for sql, many, places in statements:
            if len(entities) == 1:
                found.append(connection.execute(sql, [entities[0][place] for place in places]).fetchall())
            else:
                values = ",".join([f"({','.join('?' * len(places))})"] * len(entities))
                found.append(
                    connection.execute(
                        many.format(values=values), [pair[place] for pair in entities for place in places]
                    ).fetchall()
                )
        connection.execute("COMMIT")
        return found

    return read


def statements_of(connection: sqlite3.Connection) -> list[tuple[str, str, tuple[int, ...]]]:
    """For each view the statement for one entity, the one for many, and its keys. Columns but keys are read."""
    found = []
    for view, places in VIEWS.items():
        keys = [KEYS[place] for place in places]
        names = [
            row[1] for row in connection.execute(f"PRAGMA table_info({view})") if row[1] not in (*keys, "_created_at")
        ]
        columns = ", ".join(f"t.{name}" for name in names)
        one = f"SELECT {columns} FROM {view} t WHERE {' AND '.join(f't.{key} = ?' for key in keys)}"
        on = " AND ".join(f"t.{key} = asked.{key}" for key in keys)
        found.append(
            (
                one,
                (
                    f"WITH asked ({', '.join(keys)}) AS (VALUES {{values}}) SELECT {columns} FROM asked LEFT JOIN"
                    f" {view} t ON {on}"
                ),
                places,
            )
        )
    return found


def question(entities: Asked) -> dict[str, Any]:
    """What a request to the feature server says."""
    customers, products = zip(*entities, strict=True)
    return {
        "feature_service": SERVICE,
        "entities": {
            "customer_id": customers,
            "product_id": products,
            "request_time": ["2018-01-02T00:00:00+00:00"] * len(entities),
        },
    }


def sdk() -> Way:
    from features import registry

    store, now = registry.open_store(), datetime(2018, 1, 2, tzinfo=UTC)
    service = store.get_feature_service(SERVICE)

    def read(entities: Asked) -> Any:
        rows = {**question(entities)["entities"], "request_time": [now] * len(entities)}
        return store.get_online_features(service, {name: list(values) for name, values in rows.items()}).to_dict()

    return read


def feasts_way() -> Way:
    """The same, but for the answer, which Feast's base class makes."""
    from feast.infra.online_stores.online_store import OnlineStore

    from features import registry

    store, now = registry.open_store(), datetime(2018, 1, 2, tzinfo=UTC)
    service, ours = store.get_feature_service(SERVICE), store._get_provider().online_store

    def read(entities: Asked) -> Any:
        rows = {**question(entities)["entities"], "request_time": [now] * len(entities)}
        return OnlineStore.get_online_features(
            ours, store.config, service, rows, store.registry, store.project
        ).to_dict()

    return read


def over_http(port: int, body: Callable[[Asked], dict[str, Any]]) -> Way:
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def read(entities: Asked) -> Any:
        connection.request(
            "POST", "/get-online-features", json.dumps(body(entities)), {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        content = answer.read()
        if answer.status != 200:
            raise SystemExit(f"the server answered {answer.status}: {content[:500]!r}")
        return json.loads(content)

    return read


@contextmanager
def server(which: str, answer: str = "") -> Iterator[int]:
    """A server in a process of its own; its port."""
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
    """Become the server: of features, or one of the same make that reads each request to its end and answers nothing,
    or what is in a file, without looking at it.

    The same make is uvicorn as `features.serving` runs it, and a middleware in front of a FastAPI application, which is
    where the features are answered; a `route` of it costs more.
    """
    from fastapi import FastAPI

    from features.serving import workers
    from features.serving.app import app

    if which == "features":
        workers.run(app, port)
        return

    made = FastAPI()
    if which == "route":
        made.post("/get-online-features")(nothing)
    else:
        made.add_middleware(Fixed, content=answer.read_bytes() if answer else b"{}")
    workers.run(lambda: made, port)


async def nothing() -> dict[str, str]:
    """A route that does not read the request."""
    return {}


class Fixed:
    """ASGI middleware that gives every request the same answer."""

    def __init__(self, app: Any, content: bytes) -> None:
        self._app, self._content = app, content

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Read the request to its end, and answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-length", str(len(self._content)).encode()), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self._content})


def our_load() -> tuple[int, float]:
    """Into a generation that nobody reads, of a home of its own."""
    from features import registry
    from features.online.materialize import load

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
            "SELECT * REPLACE (epoch_us(event_timestamp) AS event_timestamp, revenue_7d::DOUBLE AS revenue_7d,"
            f" revenue_28d::DOUBLE AS revenue_28d) FROM '{folder}/newest.parquet'"
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

"""Time point-in-time joins: ours, Feast's own stores, and a bare DuckDB ASOF join, on the same rows and labels: `python -m bench.as_of`.

A contestant has a process of its own and is warmed up on a hundredth of the rows, so that no start of an engine is timed. What it answers is compared with the bare join's by count and sum;
the rows have one key and no ties, so that all stores can be right.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from bench import watch
from bench.stores import named_source, retrieve

SIZES = ("500000x50000", "2000000x200000")
KEYS, YEAR_US = 10_000, 365 * 86_400 * 1_000_000
SLOW = ("Feast's Spark", "Feast's DuckDB", "Feast's Dask")
"""Timed once; the others three times."""


def land(folder: Path, rows: int, labels: int) -> None:
    """`rows.parquet` and `labels.parquet`, at random and always the same."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, instant = np.random.default_rng(7), pa.timestamp("us", "UTC")
    folder.mkdir(parents=True)
    at = pa.array(rng.permutation(rows) * (YEAR_US // rows), pa.int64()).cast(instant)  # no two at the same instant
    pq.write_table(pa.table({"k": rng.integers(0, KEYS, rows), "event_timestamp": at, "v": rng.integers(0, 1000, rows)}), folder / "rows.parquet")
    asked = pa.array(rng.integers(YEAR_US // 2, YEAR_US, labels), pa.int64()).cast(instant)
    pq.write_table(pa.table({"k": rng.integers(0, KEYS, labels), "event_timestamp": asked}), folder / "labels.parquet")


def bare(folder: Path) -> Callable[[Any], Any]:
    import duckdb

    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    query = "SELECT l.*, f.v FROM l ASOF LEFT JOIN read_parquet(?) f ON l.k = f.k AND l.event_timestamp >= f.event_timestamp"

    def join(labels: Any) -> Any:
        con.register("l", labels)
        return con.execute(query, [str(folder / "rows.parquet")]).to_arrow_table()["v"]

    return join


def ours(who: str, folder: Path) -> Callable[[Any], Any]:
    import pyarrow.parquet as pq
    from deltalake import write_deltalake

    from contracts import release, settings

    os.environ["MILLRACE_HOME"] = str(folder / "home")
    path = settings.table_path("gold.things")
    if not path.exists():
        path.mkdir(parents=True)
        write_deltalake(path, pq.read_table(folder / "rows.parquet"))
        release.write({"gold.things": 0}, "2018-01-01")
    from features.source import GoldTable

    offline = {"type": "features.offline_store.ReleaseOfflineStore", "join": who, "session": "etl.engine.session"}
    return lambda labels: retrieve(offline, GoldTable(table="gold.things"), view, labels, folder).to_arrow()["v"]


def feasts(offline: dict[str, Any], kind: str, folder: Path) -> Callable[[Any], Any]:
    source = named_source(kind)(name="rows", path=str(folder / "rows.parquet"), timestamp_field="event_timestamp")
    return lambda labels: retrieve(offline, source, view, labels, folder).to_arrow()["v"]


def view(source: Any) -> tuple[list[Any], Any]:
    from feast import Entity, FeatureView, Field
    from feast.types import Int64
    from feast.value_type import ValueType

    entity = Entity(name="k", join_keys=["k"], value_type=ValueType.INT64)
    return [entity], FeatureView(name="things", entities=[entity], schema=[Field(name=name, dtype=Int64) for name in ("k", "v")], source=source)


SPARK = {
    "spark.master": "local[*]",
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "4",
    "spark.driver.memory": "4g",
    "spark.sql.session.timeZone": "UTC",
}
CONTESTANTS: dict[str, Callable[[Path], Callable[[Any], Any]]] = {
    "bare DuckDB ASOF": bare,
    "ours, duckdb": lambda folder: ours("duckdb", folder),
    "ours, pandas": lambda folder: ours("pandas", folder),
    "ours, spark (Sail)": lambda folder: ours("spark", folder),
    "Feast's DuckDB": lambda folder: feasts({"type": "duckdb"}, "file", folder),
    "Feast's Dask": lambda folder: feasts({"type": "dask"}, "file", folder),
    "Feast's Spark": lambda folder: feasts({"type": "spark", "spark_conf": SPARK}, "spark", folder),
}


def timed(contestant: str, folder: Path) -> dict[str, Any]:
    """Seconds of each call, and what came out."""
    import pandas as pd

    labels = pd.read_parquet(folder / "labels.parquet")
    CONTESTANTS[contestant](folder / "small")(pd.read_parquet(folder / "small" / "labels.parquet"))
    join, seconds, found = CONTESTANTS[contestant](folder), [], None
    for _ in range(1 if contestant in SLOW else 3):
        started = time.perf_counter()
        found = join(labels)
        seconds.append(time.perf_counter() - started)
    values = pd.Series(found.to_pandas()).dropna()  # type: ignore[union-attr]
    return {"s": median(seconds), "rows": len(values), "sum": int(values.sum())}


def measured(size: str, contestants: list[str]) -> list[str]:
    """The lines of one size's table."""
    rows, labels = map(int, size.split("x"))
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / size
        land(place, rows, labels)
        land(place / "small", rows // 100, labels // 100)
        for one in contestants:
            print(f"{rows:,} rows x {labels:,} labels: {one} ...", end=" ", flush=True, file=sys.stderr)
            try:
                found[one], _ = watch.run([sys.executable, "-W", "ignore", "-m", "bench.as_of", "--answer", one, "--folder", str(place)], {})
            except SystemExit as error:
                found[one] = {"failed": str(error).strip().splitlines()[-1][:100]}
            print(f"{found[one].get('s', 0):.2f} s" if "s" in found[one] else "failed", file=sys.stderr)
    floor = found["bare DuckDB ASOF"]
    return [_line(rows, labels, name, one, floor, found.get("ours, duckdb", floor)) for name, one in found.items()]


def _line(rows: int, labels: int, name: str, one: dict[str, Any], floor: dict[str, Any], our: dict[str, Any]) -> str:
    size = f"{rows:,} x {labels:,}"
    if "failed" in one:
        return f"| {size} | {name} | {one['failed']} | | | |"
    same = "yes" if (one["rows"], one["sum"]) == (floor["rows"], floor["sum"]) else f"**no**: {one['rows']:,} values that add up to {one['sum']:,}"
    return f"| {size} | {name} | {one['s']:.2f} s | {rows / one['s'] / 1e6:.2f} M rows/s | {one['s'] / floor['s']:.1f} | {one['s'] / our['s']:.1f} | {same} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.as_of", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="ROWSxLABELS", help=f"(default: {' '.join(SIZES)})")
    parser.add_argument("--without", nargs="+", default=[], choices=CONTESTANTS, help="leave out; Feast's Spark store takes minutes for the larger size")
    parser.add_argument("--answer", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.answer:
        print("\n" + json.dumps(timed(options.answer, options.folder)))
        return
    contestants = [one for one in CONTESTANTS if one not in options.without]
    lines = [line for size in options.sizes for line in measured(size, contestants)]
    print("| rows x labels | store | time | feature rows | against bare | against ours | same values |\n|---|---|---|---|---|---|---|")
    print("\n".join(lines))


if __name__ == "__main__":
    main()

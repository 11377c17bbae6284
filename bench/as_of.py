"""Time point-in-time joins of Millrace, Feast's own stores and a bare DuckDB ASOF join: `python -m bench.as_of`.

Each contestant runs in its own process and is warmed up on a hundredth of the rows, so that neither the start of an
engine nor Feast's one-time `apply` is timed. In each round the fast contestants follow each other, so that a noisy
minute hits all of them; times are medians, and ratios are taken within a round. Results are compared with the bare
join's by count and sum; the rows have one key column and no ties, so every store can be right.
"""

from __future__ import annotations

import argparse
import gc
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
from bench.stores import applied, named_source

SIZES = ("500000x50000", "2000000x200000")
KEYS, YEAR_US = 10_000, 365 * 86_400 * 1_000_000
BARE, OURS = "bare DuckDB ASOF", "ours, duckdb"
Results = dict[str, list[dict[str, Any]]]
"""Per contestant, what each round gave."""
SLOW = ("Feast's Spark", "Feast's DuckDB", "Feast's Dask")
"""Timed once; the others CALLS times in each round."""
CALLS = 15


def land(folder: Path, rows: int, labels: int) -> None:
    """Write `rows.parquet` and `labels.parquet`, random with a fixed seed."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng, instant = np.random.default_rng(7), pa.timestamp("us", "UTC")
    folder.mkdir(parents=True)
    at = pa.array(rng.permutation(rows) * (YEAR_US // rows), pa.int64()).cast(instant)  # no two at the same instant
    pq.write_table(
        pa.table({"k": rng.integers(0, KEYS, rows), "event_timestamp": at, "v": rng.integers(0, 1000, rows)}),
        folder / "rows.parquet",
    )
    label_times = pa.array(rng.integers(YEAR_US // 2, YEAR_US, labels), pa.int64()).cast(instant)
    pq.write_table(
        pa.table({"k": rng.integers(0, KEYS, labels), "event_timestamp": label_times}), folder / "labels.parquet"
    )


def bare(folder: Path) -> Callable[[Any], Any]:
    import duckdb

    con = duckdb.connect()
    con.execute("SET TimeZone = 'UTC'")
    query = (
        f"SELECT l.*, f.v FROM l ASOF LEFT JOIN '{folder / 'rows.parquet'}' f ON l.k = f.k AND l.event_timestamp >="
        " f.event_timestamp"
    )

    def join(labels: Any) -> Any:
        con.register("l", labels)
        return con.sql(query).to_arrow_table()["v"]

    return join


def ours(join: str, folder: Path) -> Callable[[Any], Any]:
    import pyarrow.parquet as pq
    from deltalake import write_deltalake

    from lake import release, settings

    os.environ["MILLRACE_HOME"] = str(folder / "home")
    path = settings.table_path("gold.things")
    if not path.exists():
        path.mkdir(parents=True)
        write_deltalake(path, pq.read_table(folder / "rows.parquet"))
        release.write({"gold.things": 0}, "2100-01-01")
    from features.source import GoldTable

    offline = {"type": "features.offline.store.ReleaseOfflineStore", "session": "etl.engine.session"}
    if join == "pandas":
        retrieve = values(applied(offline, GoldTable(table="gold.things"), view, folder))
        return lambda labels: _by_pandas(retrieve, labels)
    return values(applied(offline | {"join": join}, GoldTable(table="gold.things"), view, folder))


def _by_pandas(retrieve: Callable[[Any], Any], labels: Any) -> Any:
    """Join with the code of cuDF, which pandas can run too; no setting selects it."""
    from features.offline import as_of

    with as_of.stand_in("pandas"):
        return retrieve(labels)


def feasts(offline: dict[str, Any], kind: str, folder: Path) -> Callable[[Any], Any]:
    source = named_source(kind)(name="rows", path=str(folder / "rows.parquet"), timestamp_field="event_timestamp")
    return values(applied(offline, source, view, folder))


def values(retrieve: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda labels: retrieve(labels).to_arrow()["v"]


def view(source: Any) -> tuple[list[Any], Any]:
    from feast import Entity, FeatureView, Field
    from feast.types import Int64
    from feast.value_type import ValueType

    entity = Entity(name="k", join_keys=["k"], value_type=ValueType.INT64)
    return [entity], FeatureView(
        name="things", entities=[entity], schema=[Field(name=name, dtype=Int64) for name in ("k", "v")], source=source
    )


SPARK = {
    "spark.master": "local[*]",
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "4",
    "spark.driver.memory": "4g",
    "spark.sql.session.timeZone": "UTC",
}
CONTESTANTS: dict[str, Callable[[Path], Callable[[Any], Any]]] = {
    BARE: bare,
    OURS: lambda folder: ours("duckdb", folder),
    "ours, pandas": lambda folder: ours("pandas", folder),
    "ours, spark (Sail)": lambda folder: ours("spark", folder),
    "Feast's DuckDB": lambda folder: feasts({"type": "duckdb"}, "file", folder),
    "Feast's Dask": lambda folder: feasts({"type": "dask"}, "file", folder),
    "Feast's Spark": lambda folder: feasts({"type": "spark", "spark_conf": SPARK}, "spark", folder),
}


def timed(contestant: str, folder: Path) -> dict[str, Any]:
    """The median seconds of a call, and the count and sum of the values joined."""
    import pandas as pd

    labels = pd.read_parquet(folder / "labels.parquet")
    CONTESTANTS[contestant](folder / "small")(pd.read_parquet(folder / "small" / "labels.parquet"))
    join, seconds, joined = CONTESTANTS[contestant](folder), [], None
    gc.collect()
    gc.freeze()  # else every tenth call or so goes through all that Feast has imported, for 0.1 s
    for _ in range(1 if contestant in SLOW else CALLS):
        started = time.perf_counter()
        joined = join(labels)
        seconds.append(time.perf_counter() - started)
    values = pd.Series(joined.to_pandas()).dropna()  # type: ignore[union-attr]
    return {"s": median(seconds), "rows": len(values), "sum": int(values.sum())}


def measured(size: str, contestants: list[str], rounds: int) -> list[str]:
    """The table rows for one size, `ROWSxLABELS`."""
    rows, labels = map(int, size.split("x"))
    results: Results = {name: [] for name in contestants}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / size
        land(folder, rows, labels)
        land(folder / "small", rows // 100, labels // 100)
        for number in range(rounds):
            for name in contestants:
                if number and name in SLOW:
                    continue
                progress = f"{rows:,} rows x {labels:,} labels, round {number + 1}: {name} ..."
                print(progress, end=" ", flush=True, file=sys.stderr)
                result = run_apart(name, folder)
                results[name].append(result)
                print(f"{result['s'] * 1000:,.0f} ms" if "s" in result else "failed", file=sys.stderr)
    return [_line(rows, labels, name, results) for name in contestants]


def run_apart(contestant: str, folder: Path) -> dict[str, Any]:
    """The result of `timed` in a child process, or `failed` with the reason."""
    command = [sys.executable, "-W", "ignore", "-m", "bench.as_of", "--run", contestant, "--folder", str(folder)]
    try:
        result: dict[str, Any] = watch.run(command, {})[0]
    except SystemExit as error:
        return {"failed": str(error).strip().splitlines()[-1][:100]}
    return result


def _line(rows: int, labels: int, name: str, results: Results) -> str:
    size, failed = f"{rows:,} x {labels:,}", [result["failed"] for result in results[name] if "failed" in result]
    if failed:
        return f"| {size} | {name} | {failed[0]} | | | | |"
    values = {(result["rows"], result["sum"]) for result in results[name]}
    same = (
        "yes"
        if values == {(result["rows"], result["sum"]) for result in results[BARE]}
        else "**no**: " + ", ".join(f"{n:,} values that add up to {total:,}" for n, total in values)
    )
    time_s = median(result["s"] for result in results[name])
    return (
        f"| {size} | {name} | {time_s:.3f} s | {rows / time_s / 1e6:.2f} M rows/s | {ratio(results, name, BARE)} |"
        f" {ratio(results, name, OURS)} | {same} |"
    )


def ratio(results: Results, name: str, other: str) -> str:
    """The median ratio over the rounds in which both took part; empty if there is none."""
    ratios = [
        mine["s"] / theirs["s"]
        for mine, theirs in zip(results[name], results.get(other, []), strict=False)
        if "s" in theirs
    ]
    return f"{median(ratios):.2f}" if ratios else ""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench.as_of", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--sizes", nargs="+", default=SIZES, metavar="ROWSxLABELS", help=f"(default: {' '.join(SIZES)})"
    )
    parser.add_argument(
        "--without",
        nargs="+",
        default=[],
        choices=[name for name in CONTESTANTS if name != BARE],
        help="contestants to leave out; Feast's Spark store takes minutes for the larger size",
    )
    parser.add_argument("--rounds", type=int, default=3, help="(default: 3)")
    parser.add_argument("--run", choices=CONTESTANTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.run:
        print("\n" + json.dumps(timed(options.run, options.folder)))
        return
    contestants = [name for name in CONTESTANTS if name not in options.without]
    lines = [line for size in options.sizes for line in measured(size, contestants, options.rounds)]
    print(
        "| rows x labels | store | time | feature rows | against bare | against ours | same values"
        " |\n|---|---|---|---|---|---|---|"
    )
    print("\n".join(lines))


if __name__ == "__main__":
    main()

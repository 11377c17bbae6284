"""Compare offline stores, Feast's and ours, with a brute-force search: `python -m bench.stores --write docs`.

Each store runs the same cases in a process of its own: adversarial ones written by hand, and random ones from numbered
seeds. Feast's stores read the feature rows from a parquet file, as their users would; ours reads them from a release.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests import point_in_time

Row = dict[str, Any]
START = datetime(2017, 1, 1, tzinfo=UTC)
TICK, DAY = timedelta(microseconds=1), timedelta(days=1)
FEATURES = ("v", "word")
KEYS = ("a", "b")
SEEDS = range(20)


@dataclass(frozen=True)
class Case:
    """Feature rows, labels, and the options of the view that joins them."""

    name: str
    rows: list[Row]
    labels: list[Row]
    ttl: timedelta = timedelta(0)
    created: bool = False
    zone: timezone | None = UTC
    alias: dict[str, str] = field(default_factory=dict)


def row(a: Any, b: Any, when: datetime, v: int, created: datetime | None = None) -> Row:
    return {"a": a, "b": b, "event_timestamp": when, "created": created, "v": v, "word": f"row {v}"}


def label(a: Any, b: Any, when: datetime, **more: Any) -> Row:
    return {"a": a, "b": b, "event_timestamp": when, **more}


def cases() -> list[Case]:
    """Cases written by hand, then random ones."""
    first, second = row(1, "x", START, 1), row(1, "x", START + DAY, 2)
    tied = [row(1, "x", START, 1, START + DAY), row(1, "x", START, 2, START + 2 * DAY), row(1, "x", START, 3, START)]
    return [
        Case("plain: two rows, three labels", [first, second], [label(1, "x", START + n * DAY) for n in (3, 0, 1)]),
        Case(
            "at the very instant, and 1 µs around it",
            [first, second],
            [label(1, "x", START + DAY + n * TICK) for n in (-1, 0, 1)],
        ),
        Case(
            "composite keys (12, 3) and (1, 23)",
            [row(12, "3", START, 1), row(1, "23", START + DAY, 2)],
            [label(12, "3", START + 2 * DAY), label(1, "23", START + 2 * DAY)],
        ),
        Case(
            "labels with a NULL in the key",
            [first, row(1, None, START, 7)],
            [label(1, "x", START + DAY), label(1, None, START + DAY), label(None, "x", START + DAY)],
        ),
        Case("ties: the newest created counts", tied, [label(1, "x", START + 5 * DAY)], created=True),
        Case(
            "ties, and one was created at no known time",
            [*tied, row(1, "x", START, 4)],
            [label(1, "x", START + 5 * DAY)],
            created=True,
        ),
        Case("ties, and nothing says which: any, once", tied, [label(1, "x", START + 5 * DAY)]),
        Case(
            "ttl of a day: just alive, just not",
            [first],
            [label(1, "x", START + DAY + n * TICK) for n in (0, 1)],
            ttl=DAY,
        ),
        Case(
            "an old row beside a living one, ttl",
            [row(1, "x", START, 1), row(2, "x", START + 9 * DAY, 2)],
            [label(k, "x", START + 9 * DAY) for k in (1, 2)],
            ttl=DAY,
        ),
        Case("the same label three times", [first], [label(1, "x", START + DAY)] * 3),
        Case("labels out of order", [first, second], [label(1, "x", START + n * DAY) for n in (2, 0, 3, 1)]),
        Case(
            "labels in India's time",
            [first, second],
            [label(1, "x", START + DAY - TICK), label(1, "x", START + DAY)],
            zone=timezone(timedelta(hours=5, minutes=30)),
        ),
        Case(
            "naive labels mean UTC",
            [first, second],
            [label(1, "x", START + DAY - TICK), label(1, "x", START + DAY)],
            zone=None,
        ),
        Case(
            "labels in the years 1 and 9999", [first], [label(1, "x", datetime(y, 1, 2, tzinfo=UTC)) for y in (1, 9999)]
        ),
        Case(
            "text keys that look alike",
            [row(1, "Ærø", START, 1), row(1, "ærø", START, 2), row(1, "", START, 3)],
            [label(1, k, START) for k in ("ærø", "", "Ærø", "æro\u0308")],
        ),
        Case(
            "large whole numbers as keys",
            [row(2**53, "x", START, 1), row(2**53 + 1, "x", START, 2)],
            [label(2**53 + n, "x", START) for n in (1, 0)],
        ),
        Case(
            "an alias for a key",
            [first, row(2, "x", START, 2)],
            [label(9, "x", START, other=n) for n in (2, 1)],
            alias={"a": "other"},
        ),
        Case("no labels", [first], []),
        Case("no feature rows", [], [label(1, "x", START)]),
        *(at_random(seed) for seed in SEEDS),
    ]


def at_random(seed: int) -> Case:
    """Thirty rows and twenty labels whose keys look alike when concatenated; creation times break all ties."""
    rng = random.Random(seed)

    def pair() -> tuple[int, str]:
        return rng.choice([1, 12]), rng.choice(["3", "23", "x"])

    def when() -> datetime:
        return START + rng.randrange(12) * timedelta(hours=6)

    rows = {}
    for i in range(30):
        key, at = pair(), when()
        created = at + rng.randrange(3) * DAY
        rows[key, at, created] = row(*key, at, i, created)
    return Case(
        f"seed {seed}",
        [*rows.values()],
        [label(*pair(), when() + rng.choice([-TICK, 0 * TICK, TICK])) for _ in range(20)],
        ttl=DAY,
        created=True,
    )


def label_frame(case: Case) -> Any:
    """The labels as a pandas frame, numbered in column `n`."""
    import pyarrow as pa

    types = {
        "a": pa.int64(),
        "b": pa.string(),
        **({"other": pa.int64()} if case.alias else {}),
        "event_timestamp": pa.timestamp("us", "UTC"),
        "n": pa.int64(),
    }
    frame = pa.Table.from_pylist(
        [{**values, "n": n} for n, values in enumerate(case.labels)], pa.schema([*types.items()])
    ).to_pandas(integer_object_nulls=True)
    integers = {name: "Int64" if frame[name].isna().any() else "int64" for name in ("a", *case.alias.values())}
    return frame.astype(integers).assign(event_timestamp=frame.event_timestamp.dt.tz_convert(case.zone))


def table(case: Case) -> Any:
    import pyarrow as pa

    instant = pa.timestamp("us", "UTC")
    schema = {
        "a": pa.int64(),
        "b": pa.string(),
        "event_timestamp": instant,
        "created": instant,
        "v": pa.int64(),
        "word": pa.string(),
    }
    return pa.Table.from_pylist(case.rows, pa.schema([*schema.items()]))


def view(case: Case, source: Any) -> Any:
    from feast import Entity, FeatureView, Field
    from feast.types import Int64, String
    from feast.value_type import ValueType

    entities = [
        Entity(name=name, join_keys=[name], value_type=value_type)
        for name, value_type in zip(KEYS, (ValueType.INT64, ValueType.STRING), strict=True)
    ]
    fields = [
        Field(name=name, dtype=dtype) for name, dtype in (("a", Int64), ("b", String), ("v", Int64), ("word", String))
    ]
    feature_view = FeatureView(name="things", entities=entities, schema=fields, source=source, ttl=case.ttl)
    return entities, feature_view


def applied(
    offline: dict[str, Any],
    source: Any,
    view: Callable[[Any], tuple[list[Any], Any]],
    folder: Path,
    alias: dict[str, str] | None = None,
) -> Callable[[Any], Any]:
    """Apply the view to a new Feast store; returns a function from labels to the retrieval job for all its features."""
    from feast import FeatureService, FeatureStore, RepoConfig

    entities, feature_view = view(source)
    config = RepoConfig(
        project="p",
        provider="local",
        registry=str(folder / "registry.db"),
        offline_store=offline,
        online_store=None,
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    projection = feature_view.with_join_key_map(alias) if alias else feature_view
    keys = {column.name for column in feature_view.entity_columns}
    service = FeatureService(
        name="all", features=[projection[[field.name for field in feature_view.features if field.name not in keys]]]
    )
    store.apply([*entities, feature_view, service])
    return lambda labels: store.get_historical_features(labels, service)


def by_feast(offline: dict[str, Any], kind: str, case: Case, folder: Path) -> Any:
    """The frame that one of Feast's stores returns for a case."""
    import pyarrow.parquet as pq

    pq.write_table(table(case), folder / "rows.parquet")
    created = {"created_timestamp_column": "created"} if case.created else {}
    source = named_source(kind)(
        name="rows", path=str(folder / "rows.parquet"), timestamp_field="event_timestamp", **created
    )
    return applied(offline, source, lambda source: view(case, source), folder, case.alias)(label_frame(case)).to_df()


def named_source(kind: str) -> Callable[..., Any]:
    """Feast's data source class for parquet files: `file` or `spark`."""
    if kind == "file":
        from feast import FileSource

        return lambda **named: FileSource(**named)
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

    return lambda **named: SparkSource(file_format="parquet", **named)


SPARK = {
    "spark.master": "local[1]",
    "spark.ui.enabled": "false",
    "spark.sql.shuffle.partitions": "1",
    "spark.sql.session.timeZone": "UTC",
}


def ours(join: str, case: Case, folder: Path) -> Any:
    from deltalake import write_deltalake

    from features.offline import as_of
    from features.offline.store import ReleaseOfflineStore, ReleaseOfflineStoreConfig
    from features.source import GoldTable
    from lake import release, settings

    os.environ["MILLRACE_HOME"] = str(folder)
    path = settings.table_path("gold.things")
    path.mkdir(parents=True)
    write_deltalake(path, table(case))
    release.write({"gold.things": 0}, "2017-02-01")
    _, feature_view = view(
        case, GoldTable(table="gold.things", created_timestamp_column="created" if case.created else None)
    )
    projection = feature_view.with_join_key_map(case.alias) if case.alias else feature_view
    by_pandas = join == "pandas"  # with the code of cuDF; no setting selects it
    offline = ReleaseOfflineStoreConfig(
        join=None if by_pandas else join,  # type: ignore[arg-type,unused-ignore]
        session="etl.engine.session",
        beyond_horizon="allow",
    )
    config: Any = SimpleNamespace(offline_store=offline)
    registry: Any = SimpleNamespace(list_on_demand_feature_views=lambda *_, **__: [])
    refs = [f"things:{name}" for name in FEATURES]
    with as_of.stand_in("pandas") if by_pandas else nullcontext():
        return ReleaseOfflineStore.get_historical_features(
            config, [projection], refs, label_frame(case), registry, "p"
        ).to_df()


STORES: dict[str, Callable[[Case, Path], Any]] = {
    "ours, `duckdb`": lambda case, folder: ours("duckdb", case, folder),
    "ours, `pandas`": lambda case, folder: ours("pandas", case, folder),
    "ours, `spark` (Sail)": lambda case, folder: ours("spark", case, folder),
    "Feast's Dask": lambda case, folder: by_feast({"type": "dask"}, "file", case, folder),
    "Feast's Spark": lambda case, folder: by_feast({"type": "spark", "spark_conf": SPARK}, "spark", case, folder),
    "Feast's DuckDB": lambda case, folder: by_feast({"type": "duckdb"}, "file", case, folder),
}


def difference(case: Case, result: Any) -> str:
    """Empty if the result equals the brute-force search, else the first difference."""
    if len(result) != len(case.labels):
        return f"{len(result)} rows out for {len(case.labels)} in"
    rows = case.rows if case.created else [{**values, "created": None} for values in case.rows]
    expected = point_in_time.joined(
        rows, case.labels, {key: case.alias.get(key, key) for key in KEYS}, FEATURES, case.ttl
    )
    wrong = []
    for n, *cells in zip(result["n"], *(result[name] for name in FEATURES), strict=True):
        got = tuple(None if value is None or value != value else value for value in cells)
        if got not in expected[int(n)]:
            values, right = case.labels[int(n)], " or ".join(str(answer[0]) for answer in expected[int(n)])
            wrong.append(f"({values['a']}, {values['b']}) gets {got[0]}, not {right}")
    if wrong:
        return f"{len(wrong)} of {len(case.labels)} wrong: {wrong[0]}"
    return "" if [*map(int, result["n"])] == [*range(len(case.labels))] else "right, in another order"


def run_case(store: str, case: Case) -> str:
    """What a store gets wrong in a case: empty, the first difference, or how it failed."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return difference(case, STORES[store](case, Path(folder)))
        except Exception as error:  # a store may raise anything, and that is its result
            first_line = next((line for line in str(error).splitlines() if line.strip()), "")
            message = first_line.replace(folder, "...").replace("|", "/")
            return f"fails: {type(error).__name__}: {message[:110]}"


def run_all(store: str) -> list[str]:
    """`run_case` for all cases, in a child process."""
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "bench.stores", "--store", store],
        capture_output=True,
        text=True,
        check=True,
    )
    results: list[str] = json.loads(result.stdout.splitlines()[-1])
    return results


def report() -> str:
    """The comparison as Markdown."""
    all_cases = cases()
    by_store = {store: run_all(store) for store in STORES}
    lines = [
        "# Offline stores, compared",
        "",
        (
            "Written by `python -m bench.stores --write docs`. Each store runs the same cases; the brute-force search"
            " in `tests/point_in_time.py` gives the right result."
        ),
        (
            "The cases are in `bench/stores.py`; a seed always gives the same random case. Feast's DuckDB store needs"
            " `ibis-framework`, which Millrace does not install: put it on PYTHONPATH for this run. Versions:"
            f" feast {version('feast')}, dask {version('dask')}, pyspark {version('pyspark')}, duckdb"
            f" {version('duckdb')}, pandas {version('pandas')}."
        ),
        "",
    ]
    for store, results in by_store.items():
        wrong = [(case.name, result) for case, result in zip(all_cases, results, strict=True) if result]
        lines += [f"## {store}", "", f"{len(all_cases) - len(wrong)} of {len(all_cases)} cases right.", ""]
        if len(wrong) == len(all_cases) and len({result for _, result in wrong}) == 1:
            lines += [f"Every case: {wrong[0][1]}", ""]
        elif wrong:
            lines += [
                "| case | result |",
                "|---|---|",
                *(f"| {name} | {result} |" for name, result in wrong),
                "",
            ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--store", choices=STORES, help="run one store and print its results as JSON")
    parser.add_argument(
        "--write", type=Path, metavar="FOLDER", help="where to write offline_stores.md; without it, it is printed"
    )
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.store:
        print(f"\n{json.dumps([run_case(arguments.store, case) for case in cases()])}")
        return
    text = report()
    if arguments.write:
        (arguments.write / "offline_stores.md").write_text(text)
    else:
        print(text)


if __name__ == "__main__":
    main()

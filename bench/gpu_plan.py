"""`make gpu-plan`: which operators of each transform and each commit RAPIDS would run on a GPU, and why others would
not. No GPU is needed.

Plans are made by a Spark of this process over a lake with a row in each table, in RAPIDS' `explainOnly` mode. Where
there is a GPU, the job then runs on it (`bench.gpu_run`). Writes docs/gpu-plan.md with `--write docs`.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

from bench import gpu_run
from contracts import catalog
from contracts.interval import Interval
from contracts.model import BOOLEAN, DATE, DOUBLE, LONG, STRING, TIMESTAMP, Column, DecimalType, Layer, Load, Table
from lake import settings

OPERATOR = re.compile(r"^\s*([*!])(Exec|Command) <(\w+)>", re.MULTILINE)
"""`#` marks an operator that RAPIDS takes out of the plan, `@` one that an operator above takes with it."""
BLOCK = re.compile(r"^\S+ \S+ (?:INFO|WARN|ERROR) ", re.MULTILINE)
"""Where a line of Spark's log begins."""
REASON = re.compile(
    r"^\s*!(Exec|Command|Expression|Output|Partitioning) <(\w+)>.*? cannot (?:run on GPU|be replaced)[^\n]*?because"
    r" ([^\n]+)",
    re.MULTILINE,
)
FOLLOWS = ("not all expressions can be replaced", "the Exec ", "Parent")
"""Reasons that only pass on the reason of another line."""
MIDNIGHTS = {
    "one midnight": Interval(date(2017, 3, 2), date(2017, 3, 3)),
    "many midnights": Interval(date(2017, 3, 1), date(2017, 5, 1)),
}
CELLS: dict[Any, Any] = {
    LONG: 1,
    STRING: "A",
    DOUBLE: 0.5,
    BOOLEAN: True,
    DATE: date(2017, 3, 1),
    TIMESTAMP: datetime(2017, 3, 1, tzinfo=UTC),
}


@dataclass
class Verdict:
    """What RAPIDS says of one plan."""

    name: str
    operators: int = 0
    on_gpu: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, told: str) -> None:
        """Count another plan of the same thing."""
        signs = [sign for sign, _, _ in OPERATOR.findall(told)]
        self.operators += len(signs)
        self.on_gpu += signs.count("*")
        for _, name, why in REASON.findall(told):
            if not why.startswith(FOLLOWS) and f"{name}: {why.strip()}" not in self.reasons:
                self.reasons.append(f"{name}: {why.strip()}")


def main() -> int:
    """Explain everything, run it where there is a GPU, and print a page. Exit status 1 when the GPU's tables differ, or
    when it took no part.
    """
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_plan", description=__doc__)
    parser.add_argument("--write", type=Path, help="folder that gets gpu-plan.md")
    options = parser.parse_args()
    home = settings.home() / "gpu"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    print("Fetching RAPIDS, a gigabyte, if it is not there; then planning", file=sys.stderr, flush=True)
    spark, log = classic_session(home)
    os.environ["MILLRACE_LAKE"] = str(home / "lake")
    fill()
    told = page([*transforms(spark), *commits(spark, log)])
    spark.stop()
    more, problems = run_where_there_is_one(home)
    print(told + more)
    if options.write:
        (options.write / "gpu-plan.md").write_text(told + more)
    return 1 if problems else 0


def run_where_there_is_one(home: Path) -> tuple[str, list[str]]:
    """What the page says of a run on this machine's GPU, and what went wrong in it."""
    name = gpu_run.gpu()
    if not name:
        print("There is no GPU here: nothing was run on one", file=sys.stderr)
        return "", []
    found = gpu_run.run(home / "run")
    return gpu_run.section(name, found), found.problems


def classic_session(home: Path) -> tuple[Any, Path]:
    """A Spark below this process, whose log goes to a file: RAPIDS' interface is no part of Spark Connect."""
    from etl.engine import OPTIONS
    from etl.spark import gpu, jars, java, server

    log = home / "spark.log"
    files = jars.fetched((*jars.DELTA, *gpu.RAPIDS))
    kept = {
        name: value
        for name, value in server.settings_of(0, "local[2]").items()
        if not name.startswith(("spark.connect", "spark.executor", "spark.task"))
    }
    kept |= {**OPTIONS, **gpu.PLAN_ONLY, "spark.jars": ",".join(map(str, files)), "spark.driver.memory": "3g"}
    os.environ["JAVA_HOME"] = str(java.find().resolve().parent.parent)
    from pyspark.sql import SparkSession

    with _output_to(log):
        builder = SparkSession.builder
        for name, value in kept.items():
            builder = builder.config(name, value)
        spark = builder.getOrCreate()
    return spark, log


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Processes started inside write to the file for as long as they live."""
    kept = os.dup(1), os.dup(2)
    sys.stdout.flush()
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)


def fill() -> None:
    """A row in each bronze and silver table."""
    from lake import publishing
    from lake.delta import CommitMetadata

    for table in (*catalog.tables(Layer.BRONZE), *catalog.tables(Layer.SILVER)):
        publishing.publish(table, [staged(table)], CommitMetadata("plan"), base=None)


def staged(table: Table) -> Path:
    """A parquet file with one row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from lake.publishing import arrow_type

    path = settings.table_path(table.qualified) / "_stage" / "one.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    row = {column.name: _cell(column) for column in table.columns}
    pq.write_table(
        pa.Table.from_pylist(
            [row], schema=pa.schema([(column.name, arrow_type(column.type)) for column in table.columns])
        ),
        path,
    )
    return path


def _cell(column: Column) -> Any:
    if column.allowed:
        return column.allowed[0]
    return Decimal("1.00") if isinstance(column.type, DecimalType) else CELLS[column.type]


def transforms(spark: Any) -> Iterator[Verdict]:
    """Every silver and gold transform, with what staging does to its rows."""
    from etl import stage
    from etl.gold import aggregate

    explain = spark._jvm.com.nvidia.spark.rapids.ExplainPlan.explainPotentialGpuPlan
    for table in (*catalog.tables(Layer.SILVER), *catalog.tables(Layer.GOLD)):
        frames = [spark.read.format("delta").load(str(settings.table_path(name))) for name in table.inputs]
        if table.layer == Layer.SILVER:
            cleaned = stage.clean(table, *frames)
            plans = {
                "": cleaned.select(*table.column_names),
                "duplicates": stage._without_duplicates(table, cleaned).select(*table.column_names),
            }
        elif table.load == Load.SNAPSHOT:
            plans = {"": stage.transform(table).features(*frames).select(*table.column_names)}
        else:
            inputs, prepare = (
                dict(zip(table.inputs, frames, strict=True)),
                stage.transform(table).events if stage.has_transform(table) else None,
            )
            plans = {
                name: aggregate.features(table, [midnights], inputs, prepare) for name, midnights in MIDNIGHTS.items()
            }
        for part, frame in plans.items():
            verdict = Verdict(f"{table.qualified}{f', {part}' if part else ''}")
            verdict.add(explain(frame._jdf, "ALL"))
            yield verdict


def commits(spark: Any, log: Path) -> Iterator[Verdict]:
    """Every kind of commit: what the log says of its command while it is made. Delta reads its own log along with it,
    in small queries that are left out.
    """
    from etl import engine
    from etl.commits.delta_spark import DeltaSpark
    from lake import delta
    from lake.delta import CommitMetadata

    engine.session = lambda: spark
    done, state, day = DeltaSpark(), CommitMetadata("plan"), [Interval(date(2017, 3, 1), date(2017, 3, 2))]

    def base(table: Table) -> int | None:
        return delta.version_of(table.qualified)

    for table in (*catalog.tables(Layer.SILVER), *catalog.tables(Layer.GOLD)):
        yield _watched(
            log, f"publish {table.qualified}", partial(done.publish, table, [staged(table)], state, base=base(table))
        )
        if table.time_column:
            yield _watched(
                log,
                f"replace days of {table.qualified}",
                partial(done.publish, table, [staged(table)], state, base=base(table), replace=day),
            )


def _watched(log: Path, name: str, act: Any) -> Verdict:
    before = log.stat().st_size
    act()
    with log.open("rb") as file:
        file.seek(before)
        told = file.read().decode(errors="replace")
    verdict = Verdict(name)
    verdict.add("\n".join(block for block in BLOCK.split(told) if re.search(r"^\s*[*!]Command <", block, re.MULTILINE)))
    return verdict


def page(found: list[Verdict]) -> str:
    """A table of shares, then the reasons."""
    from etl.spark import gpu

    lines = [
        "# GPU plan",
        "",
        (
            f"Made by `make gpu-plan` with RAPIDS {gpu.RAPIDS[0].version} in `explainOnly` mode, in which no GPU takes"
            " part. A share counts the operators of the physical plan that would run on one. Commits count their"
            " commands; Delta's small queries of its own log stay on the CPU."
        ),
        "",
        "| plan | operators | on the GPU | share |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {one.name} | {one.operators} | {one.on_gpu} | {one.on_gpu / max(one.operators, 1):.0%} |" for one in found
    ]
    reasons: dict[str, list[str]] = {}
    for one in found:
        for reason in one.reasons:
            reasons.setdefault(reason, []).append(one.name)
    lines += ["", "Why others stay on the CPU:" if reasons else "Nothing stays on the CPU.", ""]
    lines += [f"- {reason} ({', '.join(names)})" for reason, names in reasons.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())

"""`make gpu-plan`: which operators of each transform and commit RAPIDS would run on a GPU, and why not the others.

It needs no GPU: a Spark in this process plans over a lake with one row per table, in RAPIDS' `explainOnly` mode. If the
machine has a GPU, the job then runs on it (`bench.gpu_run`). `--write docs` writes docs/gpu-plan.md.
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
"""`*` runs on the GPU, `!` stays on the CPU. Not counted: `#`, which RAPIDS removes from the plan, and `@`, which is
removed with an operator above it.
"""
BLOCK = re.compile(r"^\S+ \S+ (?:INFO|WARN|ERROR) ", re.MULTILINE)
"""The start of an entry of Spark's log."""
REASON = re.compile(
    r"^\s*!(Exec|Command|Expression|Output|Partitioning) <(\w+)>.*? cannot (?:run on GPU|be replaced)[^\n]*?because"
    r" ([^\n]+)",
    re.MULTILINE,
)
FOLLOWS = ("not all expressions can be replaced", "the Exec ", "Parent")
"""Reasons that only repeat another line's reason."""
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
class PlanCoverage:
    """What RAPIDS says about one plan."""

    name: str
    operators: int = 0
    on_gpu: int = 0
    reasons: list[str] = field(default_factory=list)

    def add(self, explanation: str) -> None:
        """Add the explanation of another plan of the same step."""
        signs = [sign for sign, _, _ in OPERATOR.findall(explanation)]
        self.operators += len(signs)
        self.on_gpu += signs.count("*")
        for _, name, why in REASON.findall(explanation):
            if not why.startswith(FOLLOWS) and f"{name}: {why.strip()}" not in self.reasons:
                self.reasons.append(f"{name}: {why.strip()}")


def main() -> int:
    """Explain every plan, run the job if there is a GPU, and print a page. Exit status 1 if the GPU's tables differ or
    it took no part.
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
    text = page([*transforms(spark), *commits(spark, log)])
    spark.stop()
    run_section, problems = run_on_gpu(home)
    print(text + run_section)
    if options.write:
        (options.write / "gpu-plan.md").write_text(text + run_section)
    return 1 if problems else 0


def run_on_gpu(home: Path) -> tuple[str, list[str]]:
    """The page's section about a run on this machine's GPU, and the problems of that run; both empty without a GPU."""
    name = gpu_run.gpu()
    if not name:
        print("There is no GPU here: nothing was run on one", file=sys.stderr)
        return "", []
    comparison = gpu_run.run(home / "run")
    return gpu_run.section(name, comparison), comparison.problems


def classic_session(home: Path) -> tuple[Any, Path]:
    """A classic Spark session and the file of its log. RAPIDS' interface is not available over Spark Connect."""
    from etl.engine import OPTIONS
    from etl.spark import gpu, jars, java, server

    log = home / "spark.log"
    files = jars.fetched((*jars.DELTA, *gpu.RAPIDS))
    options = {
        name: value
        for name, value in server.settings_of(0, "local[2]").items()
        if not name.startswith(("spark.connect", "spark.executor", "spark.task"))
    }
    options |= {**OPTIONS, **gpu.PLAN_ONLY, "spark.jars": ",".join(map(str, files)), "spark.driver.memory": "3g"}
    os.environ["JAVA_HOME"] = str(java.find().resolve().parent.parent)
    from pyspark.sql import SparkSession

    with _output_to(log):
        builder = SparkSession.builder
        for name, value in options.items():
            builder = builder.config(name, value)
        spark = builder.getOrCreate()
    return spark, log


@contextmanager
def _output_to(log: Path) -> Iterator[None]:
    """Redirect stdout and stderr of child processes that start inside to the file, for as long as they live."""
    originals = os.dup(1), os.dup(2)
    sys.stdout.flush()
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(originals[0], 1)
        os.dup2(originals[1], 2)


def fill() -> None:
    """Publish one row in each bronze and silver table."""
    from lake import publishing
    from lake.delta import CommitMetadata

    for table in (*catalog.tables(Layer.BRONZE), *catalog.tables(Layer.SILVER)):
        publishing.publish(table, [staged(table)], CommitMetadata("plan"), base=None)


def staged(table: Table) -> Path:
    """A staged parquet file with one row."""
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


def transforms(spark: Any) -> Iterator[PlanCoverage]:
    """The GPU coverage of every silver and gold transform, with what staging adds to it."""
    from etl.deduplicate import deduplicate
    from etl.gold import aggregate
    from etl.stage import clean
    from etl.transforms import has_transform, transform

    explain = spark._jvm.com.nvidia.spark.rapids.ExplainPlan.explainPotentialGpuPlan
    for table in (*catalog.tables(Layer.SILVER), *catalog.tables(Layer.GOLD)):
        frames = [spark.read.format("delta").load(str(settings.table_path(name))) for name in table.inputs]
        if table.layer == Layer.SILVER:
            cleaned = clean(table, *frames)
            plans = {
                "": cleaned.select(*table.column_names),
                "duplicates": deduplicate(table, cleaned).select(*table.column_names),
            }
        elif table.load == Load.SNAPSHOT:
            plans = {"": transform(table).features(*frames).select(*table.column_names)}
        else:
            inputs, prepare = (
                dict(zip(table.inputs, frames, strict=True)),
                transform(table).events if has_transform(table) else None,
            )
            plans = {
                name: aggregate.features(table, [midnights], inputs, prepare) for name, midnights in MIDNIGHTS.items()
            }
        for part, frame in plans.items():
            coverage = PlanCoverage(f"{table.qualified}{f', {part}' if part else ''}")
            coverage.add(explain(frame._jdf, "ALL"))
            yield coverage


def commits(spark: Any, log: Path) -> Iterator[PlanCoverage]:
    """The GPU coverage of every kind of commit, from Spark's log while it runs, without Delta's queries of its log."""
    from etl import engine
    from etl.commits.delta_spark import DeltaSpark
    from lake import delta
    from lake.delta import CommitMetadata

    engine.session = lambda: spark
    committer, metadata, day = DeltaSpark(), CommitMetadata("plan"), [Interval(date(2017, 3, 1), date(2017, 3, 2))]

    def base(table: Table) -> int | None:
        return delta.version_of(table.qualified)

    for table in (*catalog.tables(Layer.SILVER), *catalog.tables(Layer.GOLD)):
        yield _watched(
            log,
            f"publish {table.qualified}",
            partial(committer.publish, table, [staged(table)], metadata, base=base(table)),
        )
        if table.time_column:
            yield _watched(
                log,
                f"replace days of {table.qualified}",
                partial(committer.publish, table, [staged(table)], metadata, base=base(table), replace=day),
            )


def _watched(log: Path, name: str, act: Any) -> PlanCoverage:
    before = log.stat().st_size
    act()
    with log.open("rb") as file:
        file.seek(before)
        text = file.read().decode(errors="replace")
    coverage = PlanCoverage(name)
    coverage.add(
        "\n".join(block for block in BLOCK.split(text) if re.search(r"^\s*[*!]Command <", block, re.MULTILINE))
    )
    return coverage


def page(coverages: list[PlanCoverage]) -> str:
    """docs/gpu-plan.md: a table of shares, then the reasons."""
    from etl.spark import gpu

    lines = [
        "# GPU plan",
        "",
        (
            f"Written by `make gpu-plan` with RAPIDS {gpu.RAPIDS[0].version} in `explainOnly` mode, which uses no GPU."
            " A share counts the operators of the physical plan that would run on one. Commits count their"
            " commands; Delta's small queries of its own log stay on the CPU."
        ),
        "",
        "| plan | operators | on the GPU | share |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {coverage.name} | {coverage.operators} | {coverage.on_gpu} |"
        f" {coverage.on_gpu / max(coverage.operators, 1):.0%} |"
        for coverage in coverages
    ]
    reasons: dict[str, list[str]] = {}
    for coverage in coverages:
        for reason in coverage.reasons:
            reasons.setdefault(reason, []).append(coverage.name)
    lines += ["", "Why the others stay on the CPU:" if reasons else "Nothing stays on the CPU.", ""]
    lines += [f"- {reason} ({', '.join(names)})" for reason, names in reasons.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())

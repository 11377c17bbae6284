"""Time the main job in this process, without Airflow: a year at once, or a year and one more day. Prints JSON.

`python -m bench.main_job --mode year|day`, with MILLRACE_HOME set to a home whose landing zone holds the sample.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from datetime import date
from itertools import pairwise
from typing import Any

from contracts.interval import DAY
from contracts.report import TableReport
from etl import engine
from lake import settings
from millrace import pipeline

START, END = "2017-01-01", "2018-01-02"


def main() -> int:
    """Run one mode on an empty lake."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=("year", "day"), default="year")
    parser.add_argument("--start", default=START, help="first day")
    parser.add_argument("--end", default=END, help="day after the last")
    parser.add_argument(
        "--run-days", type=int, default=100_000, help="length of the runs over the past, in days (default: one run)"
    )
    parser.add_argument(
        "--last-days",
        type=int,
        default=1,
        help="in mode day, how many single days to run after the past; the median is reported (default: 1)",
    )
    options = parser.parse_args()
    shutil.rmtree(settings.lake(), ignore_errors=True)
    started = time.perf_counter()
    imports()
    result: dict[str, Any] = {"imports_s": time.perf_counter() - started}
    started = time.perf_counter()
    engine.session().range(1).count()
    result |= {"session_s": time.perf_counter() - started, "engine": engine.describe(), "gpu": plans_for_gpu()}
    if options.mode == "year":
        result["year"] = timed(options.start, options.end)
    else:
        last = str(date.fromisoformat(options.end) - options.last_days * DAY)
        result["year"], result["day"] = (
            timed_in_runs(options.start, last, options.run_days),
            timed_one_by_one(last, options.end),
        )
    json.dump(result, sys.stdout)
    return 0


def plans_for_gpu() -> bool:
    """Whether the engine's plans name operators of RAPIDS."""
    return "Gpu" in engine.session().range(10).selectExpr("sum(id)")._explain_string(mode="simple")


def imports() -> None:
    """Import what a task inherits from Airflow's scheduler."""
    import deltalake
    import great_expectations
    import pyspark.sql.connect.session

    del deltalake, great_expectations, pyspark


def timed(start: str, end: str) -> dict[str, Any]:
    """Wall and CPU seconds of one run, and seconds per phase and table."""
    wall, cpu = time.perf_counter(), time.process_time()
    reports = pipeline.run_all(start, end, f"bench-{time.time()}")
    return {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu, **shares(reports)}


def timed_in_runs(start: str, end: str, days: int) -> dict[str, Any]:
    """The same summed over consecutive runs; phases and tables are those of the last run."""
    runs = consecutive_runs(start, end, days)
    return {
        **runs[-1],
        **{name: sum(run[name] for run in runs) for name in ("wall_s", "cpu_s", "rows_in")},
        "runs_s": [run["wall_s"] for run in runs],
    }


def timed_one_by_one(start: str, end: str) -> dict[str, Any]:
    """The median of consecutive one-day runs."""
    runs = sorted(consecutive_runs(start, end, 1), key=lambda run: run["wall_s"])
    return {**runs[len(runs) // 2], "runs_s": [run["wall_s"] for run in runs]}


def consecutive_runs(start: str, end: str, days: int) -> list[dict[str, Any]]:
    """Consecutive runs of `days` days each."""
    first, last = date.fromisoformat(start), date.fromisoformat(end)
    borders = [*(first + offset * DAY for offset in range(0, (last - first).days, days)), last]
    return [timed(str(run_start), str(run_end)) for run_start, run_end in pairwise(borders)]


def shares(reports: list[TableReport]) -> dict[str, Any]:
    """Seconds per phase, summed over tables (two run at a time), seconds per table, and rows in."""
    phases = {
        phase: sum(report.seconds.get(phase, 0.0) for report in reports) for phase in ("stage", "audit", "publish")
    }
    return {
        "phases": phases,
        "tables": {report.table: report.seconds for report in reports},
        "rows_in": sum(report.account.rows_in for report in reports),
    }


if __name__ == "__main__":
    sys.exit(main())

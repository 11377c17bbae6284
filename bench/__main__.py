"""`make bench`: the main job against a hand-written DuckDB + delta-rs script, interleaved in one run, medians of three.

With `--demo`, also times `make demo` from an empty home, to see Airflow's share. Writes
`$MILLRACE_HOME/bench/result.json` and prints the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any

from lake import settings

DEMO_PORT = "8097"


def main() -> int:
    """Measure and report."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--repeat", type=int, default=3, help="runs per contestant; figures are medians (default 3)")
    parser.add_argument("--demo", action="store_true", help="also time the demo from an empty home (two minutes a run)")
    options = parser.parse_args()
    home = settings.home() / "bench"
    land(home)
    rounds = [one_round(home, number, options.repeat) for number in range(options.repeat)]
    result: dict[str, Any] = {"machine": machine(), "rounds": rounds, **summary(rounds)}
    if options.demo:
        result["demo"] = [demo(home / "demo") for _ in range(options.repeat)]
    (home / "result.json").write_text(json.dumps(result, indent=1))
    print_summary(result)
    print(f"All figures: {home / 'result.json'}")
    return 0


def machine() -> dict[str, Any]:
    """The machine the figures come from: CPUs, Python, load."""
    return {"cpus": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]}


def land(home: Path) -> None:
    """Land the sample in `home`, unless it is there."""
    run([sys.executable, "-W", "ignore", "-m", "millrace", "sample"], home)


def one_round(home: Path, number: int, of: int) -> dict[str, Any]:
    """Run each contestant once, back to back, so that a noisy minute hits all of them."""
    print(f"Round {number + 1} of {of}: DuckDB script ...", end=" ", flush=True)
    lake = home / "duckdb_lake"
    shutil.rmtree(lake, ignore_errors=True)
    duckdb = run(
        [sys.executable, "-m", "bench.duckdb_baseline", "--landing", str(home / "landing"), "--lake", str(lake)], home
    )
    print(f"{duckdb['total_s']:.1f} s; main job ...", end=" ", flush=True)
    year = run([sys.executable, "-W", "ignore", "-m", "bench.main_job", "--mode", "year"], home)
    print(f"{year['year']['wall_s']:.1f} s; one more day ...", end=" ", flush=True)
    day = run([sys.executable, "-W", "ignore", "-m", "bench.main_job", "--mode", "day"], home)
    print(f"{day['day']['wall_s']:.2f} s", flush=True)
    return {"duckdb": duckdb, "main": year, "day": day}


def run(command: list[str], home: Path) -> Any:
    """The JSON that the command prints, or None. SystemExit with its output when it fails."""
    result = subprocess.run(
        command, cwd=settings.CHECKOUT, env={**os.environ, "MILLRACE_HOME": str(home)}, capture_output=True, text=True
    )
    if result.returncode:
        raise SystemExit(f"{' '.join(command[-4:])} failed:\n{result.stdout}\n{result.stderr}")
    return json.loads(result.stdout[result.stdout.index("{") :]) if "{" in result.stdout else None


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The headline figures: medians over rounds, of ratios within a round."""
    years = [single["main"]["year"] for single in rounds]
    return {
        "duckdb_s": median(single["duckdb"]["total_s"] for single in rounds),
        "year_s": median(job["wall_s"] for job in years),
        "year_to_duckdb": median(single["main"]["year"]["wall_s"] / single["duckdb"]["total_s"] for single in rounds),
        "cpu_to_duckdb": median(single["main"]["year"]["cpu_s"] / single["duckdb"]["cpu_s"] for single in rounds),
        "audit_share": median(job["phases"]["audit"] / sum(job["phases"].values()) for job in years),
        "day_s": median(single["day"]["day"]["wall_s"] for single in rounds),
        "day_to_year": median(single["day"]["day"]["wall_s"] / single["day"]["year"]["wall_s"] for single in rounds),
        "rows_per_s": median(job["rows_in"] / job["wall_s"] for job in years),
    }


def demo(home: Path) -> dict[str, float]:
    """Seconds of the demo from an empty home: all of it, its DAG run, work in tasks, and time without any task."""
    shutil.rmtree(home, ignore_errors=True)
    environment = {**os.environ, "MILLRACE_HOME": str(home), "MILLRACE_PORT": DEMO_PORT}
    started = time.perf_counter()
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "millrace.demo"],
        cwd=settings.CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - started
    subprocess.run(
        [sys.executable, "-m", "millrace.services", "down"], cwd=settings.CHECKOUT, env=environment, capture_output=True
    )
    if result.returncode:
        raise SystemExit(f"the demo failed:\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}")
    match = re.search(
        r"Airflow's run: ([\d.]+) s wall, ([\d.]+) s of work in the tasks .*, ([\d.]+) s in which no task ran",
        result.stdout,
    )
    wall, work, idle = (float(seconds) for seconds in match.groups()) if match else (0.0, 0.0, 0.0)
    return {"demo_s": seconds, "run_s": wall, "work_s": work, "idle_s": idle}


def print_summary(result: dict[str, Any]) -> None:
    """Print the figures, one per line."""
    lines = [
        (
            "whole year, raw to gold, without Airflow",
            f"{result['year_s']:.1f} s, {result['rows_per_s'] / 1e6:.1f} M rows/s over all tables",
        ),
        ("hand-written DuckDB + delta-rs script", f"{result['duckdb_s']:.1f} s"),
        (
            "ratio (limit 3, goal 1.25)",
            f"{result['year_to_duckdb']:.2f} in wall time, {result['cpu_to_duckdb']:.2f} in CPU time",
        ),
        ("audits' share (limit 30 %, goal 10 %)", f"{result['audit_share']:.1%}"),
        ("one more day", f"{result['day_s']:.2f} s"),
        ("one more day / the year (limit 3 %)", f"{result['day_to_year']:.1%}"),
    ]
    if result.get("demo"):
        medians = {name: median(single[name] for single in result["demo"]) for name in result["demo"][0]}
        lines.append(("demo, from an empty home (limit 180 s)", f"{medians['demo_s']:.0f} s"))
        lines.append(
            (
                "its DAG run",
                (
                    f"{medians['run_s']:.0f} s, {medians['idle_s']:.0f} s of it with no task running"
                    f" ({medians['idle_s'] / max(medians['run_s'], 1):.0%})"
                ),
            )
        )
    print()
    for name, text in lines:
        print(f"  {name:<44} {text}")


if __name__ == "__main__":
    sys.exit(main())

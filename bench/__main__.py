"""`make bench`: the main job against a hand-written DuckDB + delta-rs script, interleaved in one run, medians of three.

With `--demo`, also `make demo` from an empty home, for Airflow's share. Writes `$MILLRACE_HOME/bench/result.json` and
prints the ratios.
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
    parser.add_argument(
        "--repeat", type=int, default=3, help="runs of each contestant; figures are medians (default 3)"
    )
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
    """What the figures were measured on."""
    return {"cpus": os.cpu_count(), "python": platform.python_version(), "load": os.getloadavg()[0]}


def land(home: Path) -> None:
    """The sample, once."""
    run([sys.executable, "-W", "ignore", "-m", "millrace", "sample"], home)


def one_round(home: Path, number: int, of: int) -> dict[str, Any]:
    """Each contestant once, one after the other, so that a noisy minute hits all."""
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
    """Run in a process of its own; its last output as JSON, if it is some."""
    done = subprocess.run(
        command, cwd=settings.CHECKOUT, env={**os.environ, "MILLRACE_HOME": str(home)}, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command[-4:])} failed:\n{done.stdout}\n{done.stderr}")
    return json.loads(done.stdout[done.stdout.index("{") :]) if "{" in done.stdout else None


def summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures that matter, as medians over rounds of ratios within a round."""
    return {
        "duckdb_s": median(one["duckdb"]["total_s"] for one in rounds),
        "year_s": median(one["main"]["year"]["wall_s"] for one in rounds),
        "year_to_duckdb": median(one["main"]["year"]["wall_s"] / one["duckdb"]["total_s"] for one in rounds),
        "cpu_to_duckdb": median(one["main"]["year"]["cpu_s"] / one["duckdb"]["cpu_s"] for one in rounds),
        "audit_share": median(
            one["main"]["year"]["phases"]["audit"] / sum(one["main"]["year"]["phases"].values()) for one in rounds
        ),
        "day_s": median(one["day"]["day"]["wall_s"] for one in rounds),
        "day_to_year": median(one["day"]["day"]["wall_s"] / one["day"]["year"]["wall_s"] for one in rounds),
        "rows_per_s": median(one["main"]["year"]["rows_in"] / one["main"]["year"]["wall_s"] for one in rounds),
    }


def demo(home: Path) -> dict[str, float]:
    """The demo from an empty home, timed from outside, with what it says about Airflow's part."""
    shutil.rmtree(home, ignore_errors=True)
    environment = {**os.environ, "MILLRACE_HOME": str(home), "MILLRACE_PORT": DEMO_PORT}
    started = time.perf_counter()
    done = subprocess.run(
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
    if done.returncode:
        raise SystemExit(f"the demo failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    found = re.search(
        r"Airflow's run: ([\d.]+) s wall, ([\d.]+) s of work in the tasks .*, ([\d.]+) s in which no task ran",
        done.stdout,
    )
    wall, work, idle = (float(one) for one in found.groups()) if found else (0.0, 0.0, 0.0)
    return {"demo_s": seconds, "run_s": wall, "work_s": work, "idle_s": idle}


def print_summary(result: dict[str, Any]) -> None:
    """A page to read."""
    lines = [
        (
            "whole year, raw to gold, without Airflow",
            f"{result['year_s']:.1f} s, {result['rows_per_s'] / 1e6:.1f} M rows/s over all tables",
        ),
        ("hand-written DuckDB + delta-rs script", f"{result['duckdb_s']:.1f} s"),
        (
            "ratio (at most 3, wanted 1.25)",
            f"{result['year_to_duckdb']:.2f} in wall time, {result['cpu_to_duckdb']:.2f} in CPU time",
        ),
        ("audits' share (at most 30 %, wanted 10 %)", f"{result['audit_share']:.1%}"),
        ("one more day", f"{result['day_s']:.2f} s"),
        ("one more day / the year (at most 3 %)", f"{result['day_to_year']:.1%}"),
    ]
    if result.get("demo"):
        middle = {name: median(one[name] for one in result["demo"]) for name in result["demo"][0]}
        lines.append(("demo, from an empty home (under 180 s)", f"{middle['demo_s']:.0f} s"))
        lines.append(
            (
                "its DAG run",
                (
                    f"{middle['run_s']:.0f} s, {middle['idle_s']:.0f} s of it without any task at work"
                    f" ({middle['idle_s'] / max(middle['run_s'], 1):.0%})"
                ),
            )
        )
    print()
    for name, text in lines:
        print(f"  {name:<44} {text}")


if __name__ == "__main__":
    sys.exit(main())

"""The second half of `make gpu-plan`, where there is a GPU: the whole job, all transforms and all commits, on the CPU
and on the GPU of this machine, every table compared row by row, times side by side.

What it compares are two engines, whatever they are, so that it can be tried without a GPU.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench import parity
from bench.parity import EngineRun, TableParity
from contracts import catalog

SPARK = {"MILLRACE_ENGINE": "spark"}
CONTESTANTS = {"cpu": {**SPARK, "MILLRACE_SPARK_PROFILE": "cpu"}, "gpu": {**SPARK, "MILLRACE_SPARK_PROFILE": "gpu"}}
"""The two engines by name, the GPU last."""
START, END = "2017-01-01", "2017-02-01"


@dataclass
class Comparison:
    """What both took, and every table on both."""

    runs: list[EngineRun]
    tables: list[TableParity]

    @property
    def problems(self) -> list[str]:
        """What makes the comparison fail: tables that differ, or a last engine whose plans name no GPU."""
        told = [
            f"{one.table} differs: {difference}"
            for one in self.tables
            if not one.equal
            for difference in one.differences or ["see the fingerprints"]
        ]
        return told + [
            f"no plan of {one.engine} names an operator of the GPU: RAPIDS took no part"
            for one in self.runs[-1:]
            if not one.gpu
        ]


def gpu() -> str:
    """The first GPU of this machine as its driver names it; empty where there is none."""
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next(iter(done.stdout.splitlines()), "").strip() if done.returncode == 0 else ""


def run(
    home: Path,
    contestants: dict[str, dict[str, str]] = CONTESTANTS,
    start: str = START,
    end: str = END,
    landing: Path | None = None,
) -> Comparison:
    """The job over these days on each, in a process and a lake of its own; of the sample, unless a landing zone is
    named.
    """
    if landing is None:
        parity.land(home)
    runs = [
        parity.one_run(
            home, name, start, end, {**environment, **({"MILLRACE_LANDING": str(landing)} if landing else {})}
        )
        for name, environment in contestants.items()
    ]
    lakes = {name: parity.lake_of(home, name) for name in contestants}
    return Comparison(runs, [parity.compared(table, lakes) for table in catalog.tables()])


def section(name: str, found: Comparison) -> str:
    """The part of the page that only a machine with a GPU writes."""
    first, last = found.runs[0], found.runs[-1]
    lines = [
        "",
        f"## Run on {name}",
        "",
        (
            "The whole job over the sample's first month, the last day as a run of its own."
            f" **{'Every table is equal, row by row.' if not found.problems else 'IT FAILED.'}**"
        ),
        "",
        "| engine | all but the last day | one more day | session starts in | operators on the GPU |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {one.engine} | {one.year_s:.1f} s | {one.day_s:.2f} s | {one.session_s:.1f} s |"
        f" {'yes' if one.gpu else 'no'} |"
        for one in found.runs
    ]
    lines += ["", f"{last.engine} took {last.year_s / first.year_s:.2f} times as long as {first.engine}."]
    lines += [f"- {problem}" for problem in found.problems]
    return "\n".join(lines) + "\n"

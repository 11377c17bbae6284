"""The second half of `make gpu-plan`, on a machine with a GPU: the main job on CPU and GPU, with every table compared.

It compares any two engines, so it can be tested without a GPU.
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
"""The environment of both engines, the GPU last."""
START, END = "2017-01-01", "2017-02-01"


@dataclass
class Comparison:
    """Both runs, and every table on both."""

    runs: list[EngineRun]
    tables: list[TableParity]

    @property
    def problems(self) -> list[str]:
        """Why the comparison fails: tables that differ, or a last engine whose plans name no GPU operator."""
        problems = [
            f"{table.table} differs: {difference}"
            for table in self.tables
            if not table.equal
            for difference in table.differences or ["see the fingerprints"]
        ]
        last = self.runs[-1]
        if not last.gpu:
            problems.append(f"no plan of {last.engine} names an operator of the GPU: RAPIDS took no part")
        return problems


def gpu() -> str:
    """The name of this machine's first GPU; empty if there is none."""
    try:
        result = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next(iter(result.stdout.splitlines()), "").strip() if result.returncode == 0 else ""


def run(
    home: Path,
    contestants: dict[str, dict[str, str]] = CONTESTANTS,
    start: str = START,
    end: str = END,
    landing: Path | None = None,
) -> Comparison:
    """Run the job over these days on each contestant, with its own process and lake. Lands the sample unless a landing
    zone is given.
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


def section(name: str, comparison: Comparison) -> str:
    """The part of docs/gpu-plan.md that only a machine with a GPU writes."""
    first, last = comparison.runs[0], comparison.runs[-1]
    lines = [
        "",
        f"## Run on {name}",
        "",
        (
            "The whole job over the sample's first month, the last day as a separate run."
            f" **{'Every table is equal, row by row.' if not comparison.problems else 'IT FAILED.'}**"
        ),
        "",
        "| engine | all but the last day | one more day | session start | operators on the GPU |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {run.engine} | {run.year_s:.1f} s | {run.day_s:.2f} s | {run.session_s:.1f} s |"
        f" {'yes' if run.gpu else 'no'} |"
        for run in comparison.runs
    ]
    lines += ["", f"{last.engine} took {last.year_s / first.year_s:.2f} times as long as {first.engine}."]
    lines += [f"- {problem}" for problem in comparison.problems]
    return "\n".join(lines) + "\n"

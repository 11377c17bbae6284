"""One commit, killed at one step, in a process per case: `python killing.py ENGINE HOME,ACT,STEP ...`.

A step is the entry or the exit of a function of those that commit. STEP is its number; -1 kills at none and prints them
all; `after S` kills S seconds after the statement began. Prints a JSON line per case: the exit code (minus the signal)
and the steps that were passed, each with a number for what the home then held. Imports are paid once: a case is a fork.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from etl.commits import committer, delta_spark
from lake import delta, files, publishing, storage
from lake.commits import delta_rs
from lake.delta import CommitMetadata
from tests.unit.etl.visits import VISITS, of, staged, visit

NAME = VISITS.qualified
DAY = of("2017-03-01", "2017-03-02")
STATE = CommitMetadata("killed", inputs={"bronze.visits": 1}, changed_days=(DAY,), code="abc")
COMMITTING = {str(Path(module.__file__)) for module in (delta_rs, delta_spark, publishing, files, storage)}
THINKING = (
    "arrow_type",
    "_comment",
    "arrow_schema",
    "days_sql",
    "_literal",
    "_plain",
    "nullable",
    "_statistics",
    "_add_action",
    "fenced",
    "untouched",
    "ensure_version",
    "_name",
)
"""Functions that leave nothing behind."""
HEAVY = ("deltalake", "duckdb", "pyarrow.dataset", "pysail.spark", "pyspark.sql.connect.session")


def base() -> int | None:
    return delta.version_of(NAME)


ACTS: dict[str, Callable[[], Any]] = {
    "create": lambda: committer().publish(VISITS, [staged(visit(3)), staged(visit(4), name="b")], STATE, base=base()),
    "append": lambda: committer().publish(VISITS, [staged(visit(3)), staged(visit(4), name="b")], STATE, base=base()),
    "replace": lambda: committer().publish(VISITS, [staged(visit(3))], STATE, base=base(), replace=[DAY]),
    "whole": lambda: committer().publish(VISITS, [staged(visit(3))], STATE, base=base(), whole=True),
    "optimize": lambda: committer().optimize(VISITS),
    "vacuum": lambda: committer().vacuum(VISITS, timedelta(0)),
}


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def contents(home: Path) -> int:
    """A number that differs when any file or folder of the home does."""
    found = ((str(path), path.lstat()) for path in sorted(home.rglob("*")))
    return hash(
        tuple((name, status.st_ino, status.st_size, status.st_nlink, status.st_mtime_ns) for name, status in found)
    )


def watched(step: int, home: Path, passed: list[tuple[str, int]]) -> Callable[..., None]:
    """Counts steps, and kills at one."""

    def see(frame: Any, event: str, _: Any) -> None:
        code = frame.f_code
        if (
            event not in ("call", "return")
            or code.co_filename not in COMMITTING
            or code.co_name in THINKING
            or code.co_name.startswith("<")
        ):
            return
        if len(passed) == step:
            kill()
        sys.setprofile(None)
        passed.append((f"{'before' if event == 'call' else 'after'} {code.co_name}", contents(home)))
        sys.setprofile(see)

    return see


def killed(home: str, act: str, step: str) -> tuple[int, list[tuple[str, int]]]:
    """Exit code and steps of an act, killed at the step."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.environ["MILLRACE_HOME"] = home
        passed: list[tuple[str, int]] = []
        if step.startswith("after "):
            threading.Timer(float(step[6:]), kill).start()
        else:
            sys.setprofile(watched(int(step), Path(home), passed))
        try:
            ACTS[act]()
        finally:
            sys.setprofile(None)
            os.write(writing, json.dumps(passed).encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as output:
        text = output.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), json.loads(text or "[]")


if __name__ == "__main__":
    for name in HEAVY:
        importlib.import_module(name)
    os.environ["MILLRACE_ENGINE"] = sys.argv[1]
    for case in sys.argv[2:]:
        print(json.dumps(killed(*case.split(","))), flush=True)

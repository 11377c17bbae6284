"""A committer is killed with SIGKILL at every step of every kind of commit that changes a file. The rerun ends in the
same rows, each once, on delta-rs and on delta-spark.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable

from etl.commits import committer
from lake import delta, settings
from lake.delta import CommitMetadata
from lake.publishing import PublishError
from tests import patience
from tests.integration.engines.killing import ACTS, DAY, NAME, STATE
from tests.landing import rows
from tests.unit.etl.visits import VISITS, staged, visit

EXPECTED = {
    "create": [3, 4],
    "append": [1, 2, 3, 4],
    "replace": [2, 3],
    "whole": [3],
    "optimize": [1, 2],
    "vacuum": [1, 2],
}
MAINTENANCE_RUNS = ("optimize", "vacuum")
AROUND = ("before _session", "before _newest", "after sync_log")
"""The steps beside the statement of delta-spark and of the log."""
ALL = (
    "after open_at",
    "before _write",
    "after _rows",
    "after _write",
    "before _newest",
    "before sync_log",
    "after sync_log",
    "before _metadata",
    "after _confirm",
)
ON_SPARK = {"append": ALL, "create": ("before _newest",), "replace": ("before _newest",), "optimize": AROUND}
"""At which steps: a session and a statement take seconds there. A creation and a replacement are an append with another
option, so they are killed where that option has done its work and nobody knows of it yet. An overwrite is a
replacement, and delta-rs vacuums.
"""


def prepare(home: Path, act: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table with two rows of two days, in two files if they are to be compacted, and with a file that no version
    needs.
    """
    monkeypatch.setenv("MILLRACE_HOME", str(home))
    monkeypatch.setenv("MILLRACE_ENGINE", "sail")
    if act != "create":
        rows_of = [[visit(1)], [visit(2, "2017-03-02")]] if act == "optimize" else [[visit(1), visit(2, "2017-03-02")]]
        for number, some in enumerate(rows_of):
            committer().publish(
                VISITS, [staged(*some)], CommitMetadata("first", code="abc", changed_days=(DAY,)), base=number or None
            )
        (settings.table_path(NAME) / "part-unneeded.parquet").write_bytes(b"")
    return home


def kill(url: str, cases: list[tuple[Path, str, str]]) -> list[tuple[int, list[tuple[str, int]]]]:
    script = [
        sys.executable,
        "-W",
        "ignore",
        str(Path(__file__).with_name("killing.py")),
        url,
        *(f"{home},{act},{step}" for home, act, step in cases),
    ]
    done = subprocess.run(
        script,
        cwd=settings.CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(settings.CHECKOUT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def rerun(act: str) -> None:
    """What a run does that follows: plan from the table as it finds it. While an orphaned statement is at work it may
    be refused, and is tried again.
    """
    deadline = time.monotonic() + patience.SECONDS
    while delta.last_commit(delta.open_table(NAME)) != STATE:
        try:
            ACTS[act]()
        except PublishError:
            assert time.monotonic() < deadline
        else:
            break


def found() -> list[int]:
    return [row["visit_id"] for row in rows(NAME, "visit_id")]


def check(act: str, step: str, home: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the rerun the table is as it was or as it shall be, after it as it shall be, and a next commit finds
    nothing in its way.
    """
    monkeypatch.setenv("MILLRACE_HOME", str(home))
    before = found() if delta.version_of(NAME) else []
    assert before in (([] if act == "create" else [1, 2]), EXPECTED[act]), step
    monkeypatch.setenv("MILLRACE_ENGINE", url)
    rerun(act)
    assert found() == EXPECTED[act], step
    runs = [state.run_id for state in delta.commit_history(delta.open_to_write(NAME)) if state]
    assert act in MAINTENANCE_RUNS or runs.count("killed") == 1, step
    monkeypatch.setenv("MILLRACE_ENGINE", "sail")
    committer().publish(VISITS, [staged(visit(9))], CommitMetadata("next"), base=delta.version_of(NAME))
    assert found() == [*EXPECTED[act], 9], step
    assert sum(file["num_records"] for file in delta.data_files(DeltaTable(str(settings.table_path(NAME))))) == len(
        found()
    ), step


def everywhere(
    url: str, act: str, folder: Path, monkeypatch: pytest.MonkeyPatch, only: tuple[str, ...] = ()
) -> set[str]:
    """Kill at the first step of each name in `only`, or else at the first of each state of the files: a dead process
    leaves nothing else. Check after each; all steps.
    """
    template = prepare(folder / "template", act, monkeypatch)
    template.mkdir(exist_ok=True)
    ((code, passed),) = kill(url, [(Path(shutil.copytree(template, folder / "whole")), act, "-1")])
    assert code == 0
    names, states = zip(*passed, strict=True)
    steps = (
        [names.index(name) for name in only]
        if only
        else [number for number, state in enumerate(states) if state not in states[:number]]
    )
    homes = {number: Path(shutil.copytree(template, folder / str(number))) for number in steps}
    killed = kill(url, [(home, act, str(number)) for number, home in homes.items()])
    for (number, home), (ended, _) in zip(homes.items(), killed, strict=True):
        assert ended == -signal.SIGKILL, names[number]
        check(act, names[number], home, url, monkeypatch)
    assert len(steps) >= (len(only) or 2)
    return {*names}


@pytest.mark.parametrize("act", ACTS)
def test_delta_rs_killed_at_every_step(home: Path, act: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = everywhere("sail", act, tmp_path, monkeypatch)
    wanted = {"before sync_log", "after sync_log"}
    if act in ("create", "append", "replace", "whole"):
        wanted |= {
            "before open_at",
            "after open_at",
            "before _move_into_table",
            "after _move_into_table",
            "before _commit",
            "after _commit",
        }
    if act == "replace":
        wanted |= {"before _rewrite_kept_rows", "after _rewrite_kept_rows"}
    assert wanted <= steps


@pytest.mark.parametrize("act", ON_SPARK)
@pytest.mark.slow
def test_delta_spark_killed_around_the_statement(
    home: Path, act: str, tmp_path: Path, spark_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {*ON_SPARK[act]} <= everywhere(spark_url, act, tmp_path, monkeypatch, ON_SPARK[act])


@pytest.mark.parametrize("act", ["append", "replace"])
@pytest.mark.slow
def test_delta_spark_killed_in_the_middle_of_a_statement(
    home: Path, act: str, tmp_path: Path, spark_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the kill falls is for the machine to say; whatever is left goes on on the server, and the rerun meets
    it.
    """
    template = prepare(tmp_path / "template", act, monkeypatch)
    cases: list[Any] = [
        (Path(shutil.copytree(template, tmp_path / str(tenth))), act, f"after {tenth / 10}") for tenth in (8, 16)
    ]
    kill(spark_url, cases)
    for home_of, _, step in cases:
        check(act, step, home_of, spark_url, monkeypatch)

"""A process dies at the very write that it is to die at, and its last kill point can be read afterwards."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lake import settings
from tests.chaos import kill_points
from tests.chaos.kill_points import KillPoint

SCRIPT = """
import json, os, sys
from pathlib import Path
from lake.files import write_whole
from tests.chaos.kill_points import KillPoint, KillPointMonitor
home, (name, nth), delay = Path(sys.argv[1]), json.loads(sys.argv[2]), float(sys.argv[3])
os.setsid()
monitor = KillPointMonitor(home, home.parent / "mark", KillPoint(name, nth), delay)
monitor.install()
write_whole(home / "a" / "1.json", b"new")
write_whole(home / "a" / "2.json", b"new")
(home.parent / "outside").write_text("")
if delay:
    while True:
        pass
print(json.dumps(monitor.passed))
"""
WRITES = [
    "open a/.#.json.#",
    "fsync a/.#.json.#",
    "fsynced a/.#.json.#",
    "rename a/#.json",
    "fsync a",
    "fsynced a",
]


def killed(folder: Path, point: KillPoint, delay: float = 0.0) -> subprocess.CompletedProcess[str]:
    (folder / "home").mkdir()
    command = [sys.executable, "-c", SCRIPT, str(folder / "home"), json.dumps(point), str(delay)]
    return subprocess.run(command, cwd=settings.CHECKOUT, capture_output=True, text=True)


def test_every_write_below_the_home_is_a_kill_point_and_no_other(tmp_path: Path) -> None:
    done = killed(tmp_path, KillPoint("never", 1))
    assert done.returncode == 0, done.stderr
    assert [tuple(point) for point in json.loads(done.stdout)] == [(name, nth) for nth in (1, 2) for name in WRITES]


@pytest.mark.parametrize(("nth", "files"), [(1, set()), (2, {"1.json"})])
def test_it_dies_before_the_rename_of_that_count(tmp_path: Path, nth: int, files: set[str]) -> None:
    point = KillPoint("rename a/#.json", nth)
    assert killed(tmp_path, point).returncode == -signal.SIGKILL
    assert {path.name for path in (tmp_path / "home" / "a").glob("[0-9]*")} == files
    assert kill_points.last(tmp_path / "mark") == point


def test_a_delayed_kill_ends_a_process_that_is_busy(tmp_path: Path) -> None:
    assert killed(tmp_path, KillPoint("fsynced a", 2), 0.01).returncode == -signal.SIGALRM


@pytest.mark.parametrize(
    ("name", "phase"),
    [
        ("before create_write_transaction lake/silver/tickets", "publish silver"),
        ("open lake/silver/tickets/_stage/#/part-#", "stage"),
        ("open lake/_locks/silver.tickets.lock", "lock"),
        ("rename feast/online/current.json", "pointer"),
        ("rename lake/_releases/#.json", "release"),
        ("open feast/online/release-#.sqlite", "materialize"),
    ],
)
def test_a_kill_point_belongs_to_a_phase(name: str, phase: str) -> None:
    assert KillPoint(name, 1).phase == phase

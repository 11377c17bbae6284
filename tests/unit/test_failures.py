"""A failed test is named while the run goes on."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]

TESTS = """
import time
import pytest

@pytest.fixture
def broken():
    raise KeyError("absent")

def test_fails():
    assert 1 == 2, "the reason"

def test_setup(broken):
    pass

def test_hangs():
    time.sleep(60)
"""


def test_failures_are_shown_at_once_and_a_hanging_test_ends(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    options = ["-p", "tests.failures", "-n", "2", "--timeout", "1", "--rootdir", str(tmp_path), "--no-summary"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
    )
    shown = [line for line in run.stdout.splitlines() if line.startswith("FAILED")]
    assert sorted(shown) == [
        "FAILED test_some.py::test_fails - AssertionError: the reason",
        "FAILED test_some.py::test_hangs - Failed: Timeout (>1.0s) from pytest-timeout.",
        "FAILED test_some.py::test_setup (setup) - KeyError: 'absent'",
    ], run.stdout + run.stderr

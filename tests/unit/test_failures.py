"""A failed test is named while the run goes on, and a test that hangs fails, however it hangs."""

import subprocess
import sys
from pathlib import Path

from tests import patience

REPOSITORY = Path(__file__).parents[2]

TESTS = """
import ctypes
import faulthandler
import time
import pytest
from hypothesis import given, strategies as st

@pytest.fixture
def broken():
    raise KeyError("absent")

def test_fails():
    assert 1 == 2, "the reason"

def test_setup(broken):
    pass

@pytest.mark.timeout(1)
def test_hangs():
    time.sleep(600)

@pytest.mark.timeout(1)
@given(st.just(1))
def test_hangs_in_an_example(number):
    time.sleep(600)

def test_cannot_be_interrupted():
    faulthandler.dump_traceback_later(1, exit=True)
    ctypes.PyDLL(None).sleep(600)

def test_after():
    assert False, "still run"
"""


def test_failures_are_shown_at_once_and_hanging_tests_fail(tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(TESTS)
    options = ["-p", "tests.parallel", "-p", "tests.failures", "-n", "1", "--rootdir", str(tmp_path), "--no-summary"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=patience.SECONDS,
    )
    shown = [line.removeprefix("FAILED test_some.py::") for line in run.stdout.splitlines() if "FAILED " in line]
    assert shown == [
        "test_fails - AssertionError: the reason",
        "test_setup (setup) - KeyError: 'absent'",
        "test_hangs - Failed: Timeout (>1.0s) from pytest-timeout.",
        "test_hangs_in_an_example - Failed: Timeout (>1.0s) from pytest-timeout.",
        "test_cannot_be_interrupted - worker 'gw0' crashed while running 'test_some.py::test_cannot_be_interrupted'",
        "test_after - AssertionError: still run",
    ], run.stdout + run.stderr

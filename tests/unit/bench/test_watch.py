"""What a benchmark says of memory: of a process and all below it, and of nothing twice. Each process says when it is
ready to be looked at, so no look comes too early or too late.
"""

import subprocess
import sys

import pytest

from bench import watch
from tests import patience

READY = "print('ready', flush=True); sys.stdin.readline()"
HOLDING = """
import os, subprocess, sys, time
held = bytearray(b"x") * (200 << 20)
"""
A_CHILD_THAT_SHARES = f"""
child = os.fork()
if child == 0:
    {READY}
    os._exit(0)
os.waitpid(child, 0)
"""
A_CHILD_WITH_ITS_OWN = f"""
child = os.fork()
if child == 0:
    more = bytearray(b"x") * (200 << 20)
    {READY}
    os._exit(0)
os.waitpid(child, 0)
"""
PROGRAM = f"import sys; held = bytearray(b'x') * (150 << 20); {READY}"
A_PROGRAM = f"subprocess.run([sys.executable, '-c', {PROGRAM!r}], check=True)"


def mebibytes_of(code: str) -> int:
    """What a look at the family of processes finds while it stands still."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING + code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            return watch.memory_of(process.pid) >> 20
        finally:
            process.stdin.write("\n")
            process.stdin.close()


def test_a_child_that_shares_its_parents_memory_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "FORKING_SECONDS", patience.SECONDS)
    assert 200 <= mebibytes_of(A_CHILD_THAT_SHARES) < 300


def test_a_child_that_goes_on_looking_like_its_parent_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "FORKING_SECONDS", 0)
    assert mebibytes_of(A_CHILD_THAT_SHARES) >= 400


def test_a_child_with_memory_of_its_own_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "FORKING_SECONDS", patience.SECONDS)
    assert mebibytes_of(A_CHILD_WITH_ITS_OWN) > 400


def test_a_program_is_counted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "FORKING_SECONDS", patience.SECONDS)
    assert 350 <= mebibytes_of(A_PROGRAM) < 450


def test_a_command_gives_its_answer_and_its_peak() -> None:
    answer, peak = watch.run(
        [sys.executable, "-c", HOLDING + f"time.sleep({2 * watch.EVERY_SECONDS})\nprint('{{\"answer\": 1}}')"], {}
    )
    assert answer == {"answer": 1}
    assert 0 < peak < 300


def test_a_command_that_fails_says_what_it_said() -> None:
    with pytest.raises(SystemExit, match=r"failed:\n.*no such thing"):
        watch.run([sys.executable, "-c", "raise SystemExit('no such thing')"], {})

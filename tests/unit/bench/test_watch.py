"""What a benchmark says of memory: of a process and all below it, and of nothing twice."""

import sys

import pytest

from bench import watch

HOLDING = """
import os, subprocess, sys, time
held = bytearray(b"x") * (200 << 20)
"""
CHILDREN_OF_A_MOMENT = """
for _ in range(6):
    child = os.fork()
    if child == 0:
        time.sleep(0.3)
        os._exit(0)
    os.waitpid(child, 0)
print("{}")
"""
A_CHILD_THAT_STAYS = """
child = os.fork()
held = bytearray(b"x") * (200 << 20)
time.sleep(2)
if child:
    os.waitpid(child, 0)
    print('{"answer": 1}')
"""
PROGRAMS_OF_A_MOMENT = """
for _ in range(4):
    subprocess.run([sys.executable, "-c", "import time; held = bytearray(b'x') * (150 << 20); time.sleep(0.3)"], check=True)
print("{}")
"""


def peak_of(code: str) -> tuple[object, int]:
    return watch.run([sys.executable, "-c", HOLDING + code], {})


def test_a_child_that_shares_its_parents_memory_is_not_counted() -> None:
    _, peak = peak_of(CHILDREN_OF_A_MOMENT)
    assert 200 <= peak < 300


def test_a_child_with_memory_of_its_own_is_counted() -> None:
    answer, peak = peak_of(A_CHILD_THAT_STAYS)
    assert answer == {"answer": 1}
    assert peak > 400


def test_a_program_is_counted_at_once() -> None:
    _, peak = peak_of(PROGRAMS_OF_A_MOMENT)
    assert 350 <= peak < 450


def test_a_command_that_fails_says_what_it_said() -> None:
    with pytest.raises(SystemExit, match=r"failed:\n.*no such thing"):
        watch.run([sys.executable, "-c", "raise SystemExit('no such thing')"], {})

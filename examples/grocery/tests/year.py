"""The whole sample, carried through every layer: computed once for all processes of a test run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from grocery.tests import oracle
from tests.conftest import command
from tests.parallel import once

NAME = "year"
PARTS = ("landing", "lake", "feast", "data_docs")
"""What a run and `serve` leave in a home."""


def home(factory: pytest.TempPathFactory) -> Path:
    """A home that holds it. Read it, do not write to it."""
    return once(factory, NAME, _compute)


def _compute(path: Path) -> None:
    interval = ("--start", str(oracle.START), "--end", str(oracle.END))
    for arguments in (("sample",), ("run", *interval), ("serve",)):
        done = command(*arguments, home=path)
        assert done.returncode == 0, done.stdout + done.stderr


def offer(computed: Path, factory: pytest.TempPathFactory) -> None:
    """Take the year of this home, which has just been computed, for that of all others, unless they have one."""

    def copy(path: Path) -> None:
        for part in PARTS:
            shutil.copytree(computed / part, path / part, copy_function=_link)

    once(factory, NAME, copy)


def _link(source: str, target: str) -> None:
    """Data files are written once. What is written again in place is copied."""
    if source.endswith(".parquet"):
        Path(target).hardlink_to(source)
    else:
        shutil.copy2(source, target)

"""The code that makes a training set: package version, Git commit if there is one, and the version of pyarrow, which
writes the file.
"""

from __future__ import annotations

import subprocess

import pyarrow as pa

from lake.manifest import Code
from lake.settings import CHECKOUT, version


def current() -> Code:
    """The code of this checkout."""
    return Code(version(), _commit(), pa.__version__)


def _commit() -> str | None:
    """The commit, with `+` for local changes; None without Git, or where the checkout is part of another repository."""
    output = _git("rev-parse", "--show-prefix", "HEAD")
    prefix, *rest = output.split("\n") if output else ("",)
    if prefix or not rest:
        return None
    return rest[0] + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(CHECKOUT), *arguments], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout

"""The code that makes a training set: Millrace's version and Git commit, that of the project, and the version of
pyarrow, which writes the file.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import pyarrow as pa

from contracts import project
from lake.manifest import Code
from lake.settings import CHECKOUT, version


def current() -> Code:
    """The code of this checkout and, where it lies outside, of the project."""
    root = project.current().root
    of_project = None if root.is_relative_to(CHECKOUT) else _commit(root, may_be_inside=True)
    return Code(version(), _commit(CHECKOUT), pa.__version__, of_project)


def _commit(folder: Path, *, may_be_inside: bool = False) -> str | None:
    """The folder's commit, with `+` for local changes below it; None without Git and, unless it `may_be_inside`, where
    the folder is only a part of a repository.
    """
    output = _git(folder, "rev-parse", "--show-prefix", "HEAD")
    prefix, *rest = output.split("\n") if output else ("",)
    if (prefix and not may_be_inside) or not rest:
        return None
    return rest[0] + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no", "--", ".") else "")


def _git(folder: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=30
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout

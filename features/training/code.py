"""Which code makes a training set: the package's version, the Git commit where there is one, and pyarrow, which writes
the file.
"""

from __future__ import annotations

import subprocess
import tomllib

import pyarrow as pa

from lake.manifest import Code
from lake.settings import CHECKOUT


def present() -> Code:
    """The code of this checkout."""
    return Code(_version(), _commit(), pa.__version__)


def _version() -> str:
    return str(tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["version"])


def _commit() -> str | None:
    """None without Git, or where the checkout is no repository of its own."""
    told = _git("rev-parse", "--show-prefix", "HEAD")
    prefix, *rest = told.split("\n") if told else ("",)
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

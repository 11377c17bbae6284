"""Notice that the project's contracts have changed since this process loaded them, and start it again with those."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

from contracts import project
from millrace.output import print_line


def start_again(change: ContractChangedError) -> NoReturn:
    """Replace this process with a new one of the same command."""
    print_line(f"{change}. Starting again with it")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


class ContractChangedError(Exception):
    """A contract is no longer the one that this process has loaded."""


class ContractFiles:
    """The files that this process has loaded the project's contracts from.

    A process keeps what it has imported: it would drop a field that a contract has gained since.
    """

    def __init__(self) -> None:
        files = {getattr(module, "__file__", None) for name, module in sys.modules.items() if _is_of_project(name)}
        self._states = {Path(file): (_stamp(Path(file)), _content(Path(file))) for file in sorted(filter(None, files))}

    def ensure_unchanged(self) -> None:
        """ContractChangedError where a file has another content than was loaded."""
        for path, (stamp, content) in self._states.items():
            if (now := _stamp(path)) == stamp:
                continue
            if _content(path) != content:
                raise ContractChangedError(f"{path} has changed")
            self._states[path] = now, content


def _is_of_project(module: str) -> bool:
    return module.startswith(f"{project.current().name}.")


def _stamp(path: Path) -> tuple[int, int]:
    """What changes with a file, and costs little to ask for; zeros without a file."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_ino


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""

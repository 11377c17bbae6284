"""Errors of the machine in one sentence: what failed, on which path, and what to do about it.

A full disk looks like an OSError, an `OperationalError` of sqlite or an `IOException` of DuckDB, depending on who met
it. All of them are recognized here. What a table, a file or a param did wrong has errors of its own, whose messages are
complete.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from contracts import project
from lake import settings

ROOM = "See that {where} has room and can be written"
RIGHT = "See that this user may read and write {where}"
FOLDER = "Move the file that stands where a folder belongs"
REMEDIES = {
    errno.ENOSPC: ROOM,
    errno.EDQUOT: ROOM,
    errno.EFBIG: ROOM,
    errno.EROFS: "Mount the file system of {where} for writing, or set MILLRACE_HOME to a folder that can be written",
    errno.EACCES: RIGHT,
    errno.EPERM: RIGHT,
    errno.ELOOP: "Put a folder, or a link to one, in the place of the symbolic link that leads back to itself",
    errno.ENOTDIR: FOLDER,
    errno.EEXIST: FOLDER,
    errno.EISDIR: "Move the folder that stands where a file belongs",
    errno.ENAMETOOLONG: "Choose a shorter path for MILLRACE_HOME, MILLRACE_LAKE or MILLRACE_LANDING",
    errno.EMFILE: "Raise the limit on open files (`ulimit -n`)",
    errno.ENFILE: "Raise the limit on open files of this machine",
    errno.EIO: "Look into the kernel's log (`dmesg`): the disk of {where} fails",
    errno.ENOMEM: "Free some memory",
}
NUMBER = re.compile(r"(?:os error |\[Errno |errno )(\d+)")
"""How Rust, Python and Arrow spell a number in a message."""
PHRASES = {
    "no space left on device": errno.ENOSPC,
    "database or disk is full": errno.ENOSPC,
    "attempt to write a readonly database": errno.EROFS,
    "read-only file system": errno.EROFS,
    "unable to open database file": errno.EACCES,
    "too many levels of symbolic links": errno.ELOOP,
    "file too large": errno.EFBIG,
}
"""How those say it that give no number: sqlite, DuckDB, C++."""


class Explanation(NamedTuple):
    """What the machine refused, and what to do about it."""

    told: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.told}. {self.remedy}, then run the same command again"


def explain(error: BaseException, root: Callable[[], Path] = settings.home) -> Explanation | None:
    """What the machine has to do with an error, by itself or as its cause; None when the machine is not at fault.

    `root` is where to look when the error names no path, as sqlite, DuckDB and a failed `write` do not.
    """
    for cause in _causes(error):
        number = _number(cause)
        if number in REMEDIES:
            path = _path(cause)
            told = f"{os.strerror(number)}: {path}" if path else os.strerror(number)
            if number == errno.ENOSPC and path:
                told += f" ({_free(Path(path))})"
            return Explanation(told, REMEDIES[number].format(where=_root(path, root)))
    return None


def sentence(error: BaseException) -> str | None:
    """What to print instead of a traceback: the message of an error of ours, or what the machine refused. None for a
    defect.
    """
    if is_ours(error):
        return str(error)
    explanation = explain(error)
    return str(explanation) if explanation else None


def is_ours(error: BaseException) -> bool:
    """Whether an error is one of Millrace's own, whose message is complete."""
    package = type(error).__module__.split(".")[0]
    return package in (*project.ENGINE, "__main__") or package in project.packages()


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        yield error
        seen.append(error)
        error = error.__cause__ or error.__context__


def _number(error: BaseException) -> int:
    """The error number that an error carries or spells; 0 when there is none."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if is_ours(error):
        return 0  # its sentence may quote another error, and has its own remedy
    text = str(error)
    if found := NUMBER.search(text):
        return int(found[1])
    return next((number for phrase, number in PHRASES.items() if phrase in text.lower()), 0)


def _path(error: BaseException) -> str:
    """The path that an error names, as far as it names one."""
    if isinstance(error, OSError) and error.filename:
        return os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    quoted = re.search(r"""["'](/[^"']+)["']""", str(error))
    return quoted[1] if quoted else ""


def _root(path: str, default: Callable[[], Path]) -> str:
    """The folder that a user knows and that holds a path: the lake, the landing zone or the home, else the path
    itself.
    """
    for root in (settings.lake, settings.landing, settings.home) if path else (default,):
        with suppress(OSError, RuntimeError, ValueError):
            if not path or Path(path).is_relative_to(str(root())):
                return str(root())
    return path or "MILLRACE_HOME"


def _free(path: Path) -> str:
    """How much room the file system of a path has."""
    for folder in (path, *path.parents):
        try:
            usage = shutil.disk_usage(folder)
        except OSError:
            continue
        return f"{usage.free:,} of {usage.total:,} bytes are free there"
    return "nothing is free there"

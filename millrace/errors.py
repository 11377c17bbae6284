"""Explain errors of the machine in a sentence: what failed, on which path, and what to do about it.

A full disk surfaces as an OSError, as sqlite's `OperationalError` or as DuckDB's `IOException`, depending on which
library ran into it; all are recognized here. Errors about tables, files and params are Millrace's own classes, whose
messages are complete.
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
"""How Rust, Python and Arrow write an errno in a message."""
PHRASES = {
    "no space left on device": errno.ENOSPC,
    "database or disk is full": errno.ENOSPC,
    "attempt to write a readonly database": errno.EROFS,
    "read-only file system": errno.EROFS,
    "unable to open database file": errno.EACCES,
    "too many levels of symbolic links": errno.ELOOP,
    "file too large": errno.EFBIG,
}
"""Messages of sqlite, DuckDB and C++, which have no errno."""


class Explanation(NamedTuple):
    """What the machine refused, and what to do about it."""

    reason: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.reason}. {self.remedy}, then run the same command again"


def explain(error: BaseException, root: Callable[[], Path] = settings.home) -> Explanation | None:
    """Explain an error that the machine caused, directly or as one of its causes; None for any other error.

    `root` gives the folder to name if the error names no path, as with sqlite, DuckDB and a failed `write`.
    """
    for cause in _causes(error):
        number = _number(cause)
        if number in REMEDIES:
            path = _path(cause)
            reason = f"{os.strerror(number)}: {path}" if path else os.strerror(number)
            if number == errno.ENOSPC and path:
                reason += f" ({_free_space(Path(path))})"
            return Explanation(reason, REMEDIES[number].format(where=_root(path, root)))
    return None


def sentence(error: BaseException) -> str | None:
    """What to print instead of a traceback: the message of Millrace's own error, or an explanation of the machine's.

    None for a defect.
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
    """The errno that an error carries or mentions; 0 if there is none."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    if is_ours(error):
        return 0  # its sentence may quote another error, and has its own remedy
    text = str(error)
    if match := NUMBER.search(text):
        return int(match[1])
    return next((number for phrase, number in PHRASES.items() if phrase in text.lower()), 0)


def _path(error: BaseException) -> str:
    """The path that an error names; empty if it names none."""
    if isinstance(error, OSError) and error.filename:
        return os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    quoted = re.search(r"""["'](/[^"']+)["']""", str(error))
    return quoted[1] if quoted else ""


def _root(path: str, default: Callable[[], Path]) -> str:
    """The folder with this path that a user knows: the lake, the landing zone or the home; else the path itself."""
    for root in (settings.lake, settings.landing, settings.home) if path else (default,):
        with suppress(OSError, RuntimeError, ValueError):
            if not path or Path(path).is_relative_to(str(root())):
                return str(root())
    return path or "MILLRACE_HOME"


def _free_space(path: Path) -> str:
    """How much space the file system of a path has left."""
    for folder in (path, *path.parents):
        try:
            usage = shutil.disk_usage(folder)
        except OSError:
            continue
        return f"{usage.free:,} of {usage.total:,} bytes are free there"
    return "nothing is free there"

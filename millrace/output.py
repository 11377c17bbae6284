"""Write to standard output: lines with the time, and errors of the output itself, which are an OSError without a path
like many others.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TextIO


class OutputError(RuntimeError):
    """Standard output cannot be written; the message says why."""


class _Output:
    """A text stream whose failed writes are an OutputError. A closed pipe is no error: `millrace settings | head`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._translated():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._translated():
            self._stream.flush()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise SystemExit(1) from None
            raise OutputError(
                f"standard output cannot be written: {error.strerror}. Send it to a file or a disk with room"
            ) from error


@contextmanager
def checked() -> Iterator[None]:
    """Within it, a failed write to standard output raises OutputError. At its end everything is written."""
    original = sys.stdout
    sys.stdout = _Output(original)
    try:
        yield
        sys.stdout.flush()
    except (OutputError, SystemExit):
        try:
            original.flush()
        except OSError:  # Python would fail again, on what is left in its buffer, at exit
            os.dup2(os.open(os.devnull, os.O_WRONLY), original.fileno())
        raise
    finally:
        sys.stdout = original


def print_line(text: str) -> None:
    """Print a line with the time, at once, as components log."""
    print(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} {text}", flush=True)

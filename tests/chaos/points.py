"""The points of an operation: each time its process writes something below its home. A process can be killed at the n-th of a kind, and tells its last one to who killed it.

What Python writes is seen by an audit hook, before it is done; what delta-rs writes, by its calls, before and after; syncs, before and after. What an engine writes into a stage by itself
is not seen: kills by the clock fall there. A point is named after the call and the path, without numbers and hashes, and counted for each name by itself: two tables that
are carried at the same time by two threads do not disturb each other's counts.
"""

from __future__ import annotations

import functools
import mmap
import os
import re
import signal
import sys
import threading
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

WIDTH = 512
PATHS = {"os.rename": 1, "os.remove": 0, "os.link": 1, "shutil.rmtree": 0, "shutil.copyfile": 1}
"""Audit events, and which of their arguments is what they change."""
CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
VARYING = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{32}|\d+")
PHASES = (
    ("lock", r"\.lock$"),
    ("release", "lake/_releases"),
    ("training set", "lake/(_training_sets|training)"),
    ("quarantine", "lake/quarantine"),
    ("stage", "/_stage"),
    ("publish bronze", "lake/bronze"),
    ("publish silver", "lake/silver"),
    ("publish gold", "lake/gold"),
    ("pointer", "current.json"),
    ("materialize", "feast/online"),
    ("registry", "feast"),
    ("data docs", "data_docs"),
    ("lineage", "lineage"),
)


class Point(NamedTuple):
    """The `nth` time (from 1) that this was about to happen, or had just happened."""

    name: str
    nth: int

    @property
    def phase(self) -> str:
        """Which part of an operation that is."""
        return next((phase for phase, pattern in PHASES if re.search(pattern, self.name)), "other")


class Watch:
    """Counts the points of this process, and dies at one: at once, or `delay` seconds later by a timer of the kernel, whatever the process does then."""

    def __init__(self, home: Path, mark: Path | None = None, die_at: Point | None = None, delay: float = 0.0) -> None:
        self.root, self.die_at, self.delay = f"{home}/", die_at, delay
        self.passed: list[Point] = []
        self._counts: Counter[str] = Counter()
        self._lock = threading.RLock()
        self._mark = _mapped(mark) if mark else None

    def install(self) -> None:
        """See everything from here on; there is no way back but the end of the process."""
        self._patch()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        sys.addaudithook(self._audit)

    def see(self, what: str, path: Any) -> None:
        """Count it if it concerns the home."""
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if not text.startswith(self.root):
            return
        name = f"{what} {VARYING.sub('#', text.removeprefix(self.root))}"
        with self._lock:
            self._counts[name] += 1
            point = Point(name, self._counts[name])
            self.passed.append(point)
            if self._mark is not None:
                self._mark[:WIDTH] = f"{point.nth} {point.name}".encode()[:WIDTH].ljust(WIDTH)
            if point == self.die_at:
                self._die()

    def _die(self) -> None:
        if self.delay:
            signal.setitimer(signal.ITIMER_REAL, self.delay)
        else:
            os.killpg(0, signal.SIGKILL)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if flags & CHANGING:
                self.see("open", path)
        elif event in PATHS:
            self.see(event.partition(".")[2], arguments[PATHS[event]])

    def _patch(self) -> None:
        import deltalake
        from deltalake import DeltaTable
        from deltalake.table import TableOptimizer

        sync = os.fsync

        def fsync(descriptor: int) -> None:
            path = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
            self.see("fsync", path)
            sync(descriptor)
            self.see("fsynced", path)

        os.fsync = fsync
        for name in ("create_write_transaction", "vacuum", "create_checkpoint", "delete"):
            setattr(DeltaTable, name, self._around(name, getattr(DeltaTable, name), lambda table, *_: table.table_uri))
        TableOptimizer.compact = self._around("compact", TableOptimizer.compact, lambda optimizer, *_: optimizer.table.table_uri)
        DeltaTable.create = self._around("create", DeltaTable.create, lambda path, *_: path)
        deltalake.write_deltalake = self._around("write_deltalake", deltalake.write_deltalake, lambda path, *_: path)

    def _around(self, name: str, act: Any, path_of: Any) -> Any:
        @functools.wraps(act)
        def acting(*arguments: Any, **options: Any) -> Any:
            path = str(path_of(*arguments)).removeprefix("file://").rstrip("/")
            self.see(f"before {name}", path)
            done = act(*arguments, **options)
            self.see(f"after {name}", path)
            return done

        return acting


def _mapped(path: Path) -> mmap.mmap:
    path.write_bytes(b" " * WIDTH)
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), WIDTH)


def last(mark: Path) -> Point | None:
    """The last point that a process passed, after its death."""
    text = mark.read_text().strip() if mark.exists() else ""
    nth, _, name = text.partition(" ")
    return Point(name, int(nth)) if name else None

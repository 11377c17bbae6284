"""Kill points: the writes of a process below its home. A process can die at the n-th write of a kind.

An audit hook sees what Python writes (open for writing, rename, remove, link), just before it happens. Calls of
delta-rs and fsync are seen before and after. What an engine writes by itself into a stage is not seen; kills by the
clock hit there. A kill point is named after the call and the path, without digits and hashes, and each name has a
count of its own: two tables that two threads write at the same time do not disturb each other's counts.
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
"""Audit event -> position of the argument that names the changed path."""
CHANGING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
VARYING = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{32}|\d+")
PHASES = (
    ("lock", r"\.lock$"),
    ("release", "lake/_releases"),
    ("training set", "lake/(_training_sets|training)"),
    ("quarantine", "lake/quarantine"),
    ("stage", "/_stage"),
    ("links", "/_reading"),
    ("publish bronze", "lake/bronze"),
    ("publish silver", "lake/silver"),
    ("publish gold", "lake/gold"),
    ("pointer", "current.json"),
    ("materialize", "feast/online"),
    ("registry", "feast"),
    ("data docs", "data_docs"),
    ("lineage", "lineage"),
)


class KillPoint(NamedTuple):
    """The `nth` write of that name, from 1."""

    name: str
    nth: int

    @property
    def call(self) -> str:
        """What was called, without the path."""
        return self.name.rpartition(" ")[0]

    @property
    def phase(self) -> str:
        """The part of an operation that the write belongs to."""
        return next((phase for phase, pattern in PHASES if re.search(pattern, self.name)), "other")


class KillPointMonitor:
    """Counts the kill points of this process and kills its group at one of them.

    With a `delay` the process dies so many seconds later, by a kernel timer, whatever it is doing then.
    The newest kill point is kept in the file `mark`, which survives the kill.
    """

    def __init__(
        self, home: Path, mark: Path | None = None, die_at: KillPoint | None = None, delay: float = 0.0
    ) -> None:
        self.root, self.die_at, self.delay = f"{home}/", die_at, delay
        self.passed: list[KillPoint] = []
        self._counts: Counter[str] = Counter()
        self._lock = threading.RLock()
        self._mark = _mapped(mark) if mark else None

    def install(self) -> None:
        """Start counting. An audit hook cannot be removed: it ends with the process."""
        if os.getpgrp() != os.getpid():
            raise RuntimeError(
                "this process does not lead a group of its own: its kill would hit the caller. Call os.setsid() first"
            )
        self._patch()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        sys.addaudithook(self._audit)

    def record(self, call: str, path: Any) -> None:
        """Count a call on a path below the home, and die if it is the kill point."""
        text = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else ""
        if not text.startswith(self.root):
            return
        name = f"{call} {VARYING.sub('#', text.removeprefix(self.root))}"
        with self._lock:
            self._counts[name] += 1
            point = KillPoint(name, self._counts[name])
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
                self.record("open", path)
        elif event in PATHS:
            self.record(event.partition(".")[2], arguments[PATHS[event]])

    def _patch(self) -> None:
        import deltalake
        from deltalake import DeltaTable
        from deltalake.table import TableOptimizer

        sync = os.fsync

        def fsync(descriptor: int) -> None:
            path = os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: PTH115
            self.record("fsync", path)
            sync(descriptor)
            self.record("fsynced", path)

        os.fsync = fsync
        for name in ("create_write_transaction", "vacuum", "create_checkpoint", "delete"):
            setattr(DeltaTable, name, self._around(name, getattr(DeltaTable, name), lambda table, *_: table.table_uri))
        TableOptimizer.compact = self._around(
            "compact", TableOptimizer.compact, lambda optimizer, *_: optimizer.table.table_uri
        )
        DeltaTable.create = self._around("create", DeltaTable.create, lambda path, *_: path)
        deltalake.write_deltalake = self._around("write_deltalake", deltalake.write_deltalake, lambda path, *_: path)

    def _around(self, name: str, act: Any, path_of: Any) -> Any:
        @functools.wraps(act)
        def acting(*arguments: Any, **options: Any) -> Any:
            path = str(path_of(*arguments)).removeprefix("file://").rstrip("/")
            self.record(f"before {name}", path)
            result = act(*arguments, **options)
            self.record(f"after {name}", path)
            return result

        return acting


def _mapped(path: Path) -> mmap.mmap:
    path.write_bytes(b" " * WIDTH)
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), WIDTH)


def last(mark: Path) -> KillPoint | None:
    """The last kill point that a dead process passed; None when it passed none."""
    text = mark.read_text().strip() if mark.exists() else ""
    nth, _, name = text.partition(" ")
    return KillPoint(name, int(nth)) if name else None

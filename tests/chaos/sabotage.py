"""Sabotage: guards broken on purpose, each in one place, to show that the harness notices.

`python -m tests.chaos --sabotage NAME` must exit with 1.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def torn_files() -> None:
    """Small files are written in place, in two halves, without a rename."""
    from lake import files

    def write_whole(path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
            file.flush()
            files.sync(path)
            file.write(content[len(content) // 2 :])
        files.sync(path)

    files.write_whole = write_whole


def release_first() -> None:
    """A release names the versions to come before the tables are published."""
    from contracts import catalog
    from contracts.model import Layer
    from lake import delta, release
    from millrace import pipeline

    carry = pipeline.run_all

    def run_all(start: str, end: str, *others: Any) -> Any:
        names = [table.qualified for layer in (Layer.SILVER, Layer.GOLD) for table in catalog.tables(layer)]
        versions = {name: delta.version_of(name) for name in names}
        if None not in versions.values():
            moving = (
                "silver.transactions",
                "gold.customer_activity",
                "gold.customer_product",
                "gold.product_popularity",
            )
            release.write(
                {name: (version or 0) + (name in moving) for name, version in versions.items()},
                end,
                {name: delta.id_of(name) for name in names},
            )
        return carry(start, end, *others)

    pipeline.run_all = run_all


def no_lock() -> None:
    """Tables have no lock, and a commit does not check whether the table has moved."""
    from contextlib import nullcontext

    from etl import quarantine
    from lake import publishing

    publishing.locked = quarantine.locked = lambda _: nullcontext()  # type: ignore[assignment]
    publishing.ensure_version = lambda *_: None


def two_commits() -> None:
    """Old rows are removed in one commit, and the rows that replace them are added in the next."""
    from lake import publishing
    from lake.commits.delta_rs import maintenance_metadata

    commit = publishing._commit

    def committed(table: Any, contract: Any, added: Any, removed: Any, metadata: Any) -> None:
        if removed:
            commit(table, contract, [], removed, maintenance_metadata(metadata))
            table.update_incremental()
        commit(table, contract, added, [], metadata)

    publishing._commit = committed


def pointer_first() -> None:
    """The pointer moves to a generation before it is loaded, and every generation is loaded from scratch."""
    from features.online import materialize, sqlite

    create = sqlite.SqliteDraft.__init__

    def created(self: Any, label: str) -> None:
        create(self, label)
        sqlite._point_to(self.path.name)

    sqlite.SqliteDraft.__init__ = created  # type: ignore[method-assign]
    materialize._base = lambda *_: None


def view_by_view() -> None:
    """A load writes into the generation that is being read, view by view."""
    from features.online import sqlite

    def opened(self: Any) -> None:
        current = sqlite._pointer_files()
        if current and not getattr(self, "_own", False):
            self.path.unlink(missing_ok=True)
            self.path = sqlite.folder() / current[0]
        self._own = True
        self.connection = sqlite.sqlite3.connect(self.path, isolation_level=None)

    sqlite.SqliteDraft._open = opened  # type: ignore[method-assign]
    sqlite.SqliteDraft.copy_from = lambda *_: None  # type: ignore[method-assign]
    finish = sqlite.SqliteDraft.finish

    def finished(self: Any, about: Any) -> None:
        self.connection.execute("BEGIN")
        finish(self, about)

    sqlite.SqliteDraft.finish = finished  # type: ignore[method-assign]


def vacuum_all() -> None:
    """A vacuum ignores what releases and training sets pin."""
    from millrace import maintenance

    maintenance.pinned_versions = lambda *_: ()


def load_again() -> None:
    """Bronze does not skip the files that it has loaded."""
    from etl.bronze import load

    load._known_files = lambda *_: {}


def quarantine_last() -> None:
    """Rejected rows are written after the table is published instead of before."""
    from etl import quarantine
    from millrace import pipeline

    replace, publish = quarantine.replace, pipeline._publish
    waiting: dict[int, Any] = {}

    def later(staged: Any, bad: Any, run_id: str) -> tuple[int | None, int]:
        rows = bad.count() if bad is not None else 0
        waiting[id(staged)] = bad.toArrow() if bad is not None else None
        return None, rows + len(staged.rejected)

    def published(staged: Any, account: Any, run_id: str) -> int:
        version = publish(staged, account, run_id)
        held = waiting.pop(id(staged))
        replace(staged, _Arrow(held) if held is not None else None, run_id)
        return version

    quarantine.replace, pipeline._publish = later, published


class _Arrow:
    """A computed frame, in the shape that quarantine reads."""

    def __init__(self, table: Any) -> None:
        self.table = table

    def toArrow(self) -> Any:  # noqa: N802 (Spark's name)
        return self.table


def manifest_first() -> None:
    """The manifest of a training set is written before its table."""
    from features.training import sets
    from lake import manifest

    put, write = sets._put, manifest.write
    held: list[Any] = []
    sets._put = lambda *arguments: held.append(arguments)

    def written(made: Any) -> None:
        write(made)
        while held:
            put(*held.pop())

    manifest.write = written
    sets.rebuild = _with(sets.rebuild, sets, put)


def _with(act: Callable[..., Any], module: Any, put: Any) -> Callable[..., Any]:
    def acting(*arguments: Any, **options: Any) -> Any:
        module._put = put
        return act(*arguments, **options)

    return acting


@dataclass(frozen=True)
class Sabotage:
    """A broken guard, and the steps whose kills can show it; the others are not killed."""

    act: Callable[[], None]
    kinds: tuple[str, ...]


RUNS, SERVES = ("run", "two-runs", "run-and-tidy"), ("serve", "serve-back")
ACTS = {
    act.__name__.replace("_", "-"): Sabotage(act, kinds)
    for act, kinds in (
        (load_again, RUNS),
        (manifest_first, ("create",)),
        (no_lock, RUNS),
        (pointer_first, SERVES),
        (quarantine_last, RUNS),
        (release_first, RUNS),
        (torn_files, (*RUNS, *SERVES, "create")),
        (two_commits, RUNS),
        (vacuum_all, ("vacuum",)),
        (view_by_view, SERVES),
    )
}


def apply(name: str) -> None:
    """Break that guard in this process; nothing for an empty name."""
    if name:
        ACTS[name].act()

"""Published tables as data frames of the engine: at a version, and held while a run works on them.

What needs no engine is in `lake.delta`.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from etl import engine
from lake import delta, settings, storage
from lake.delta import ANYWHERE, LakeError, Within

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

FEW_FILES = 24
"""Data files that Sail is given by name. It looks into each of them before it plans (5 ms for two files, 11 for 29), so
for more its own reader is cheaper, which goes by the log (10 ms with 200 files in it).
"""
OUR_NAMES = re.compile(r"part-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.zst\.parquet")
"""Of the data files that `lake.publishing` writes and moves."""


def read(qualified: str, version: int, within: Within = ANYWHERE) -> DataFrame:
    """The table at that version, as the engine reads it. A caller that goes on to filter says by `within` what it
    keeps: rows whose columns lie in one of these closed ranges of days or numbers.

    Sail goes through the whole log for each table of each plan, so a day would cost more with each year before it. This
    process knows the log already: inside of `holding_files`, and where few files can hold such rows, it names them to
    Sail.
    """
    held = _holding.get()
    picked = _few_files(qualified, version, within) if held else None
    links = _linked(picked.files, held) if picked and held else None
    if picked and links:
        return engine.session().read.schema(picked.columns).parquet(*map(str, links))
    if picked and links is not None:
        return engine.empty(picked.columns)
    return (
        engine.session().read.format("delta").option("versionAsOf", version).load(str(settings.table_path(qualified)))
    )


@contextmanager
def holding_files(qualified: str) -> Iterator[None]:
    """Inside, tables may be read by the names of their files, which hard links hold below the folder of `qualified`;
    the caller has its lock.

    Sail reads a file that is gone as if it were empty, and does not say so. What a link holds stays, whoever moves or
    removes the file.
    """
    if not _sail_on_a_disk():
        yield
        return
    folder = settings.table_path(qualified) / "_reading"
    storage.remove_tree(folder)  # of a run that was killed
    before = _holding.set(folder)
    try:
        yield
    finally:
        _holding.reset(before)
        storage.remove_tree(folder)


_holding: ContextVar[Path | None] = ContextVar("holding", default=None)
"""The folder of this run's links."""


@dataclass(frozen=True)
class FileSelection:
    """Data files with their sizes, and their table's columns as DDL."""

    columns: str
    files: dict[Path, int]


def _sail_on_a_disk() -> bool:
    """Spark distributes the work on a log, and in a bucket each file would have to be asked for."""
    return settings.engine() == "sail" and not storage.is_remote(settings.lake())


def _few_files(qualified: str, version: int, within: Within) -> FileSelection | None:
    """The files to read; None where the engine had better look for itself: for files that others wrote, too, whose
    columns may have other types inside, which Sail does not bring together.
    """
    table = delta.open_table(qualified) if _sail_on_a_disk() else None
    if table is None or table.version() != version:
        return None
    found = delta.data_files(table, within=within)
    if len(found) > FEW_FILES or not all(OUR_NAMES.fullmatch(one["path"]) for one in found):
        return None
    root = settings.table_path(qualified)
    columns = ", ".join(f"`{column.name}` {column.type.type}" for column in table.schema().fields)
    return FileSelection(columns, {root / one["path"]: one["size_bytes"] for one in found})


def _linked(files: dict[Path, int], folder: Path) -> list[Path] | None:
    """Links to the files, each as long as the log says; None where one is not there, or the file system has no hard
    links.
    """
    links = {folder / path.name: path for path in files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for link, path in links.items():
            if not link.exists():
                link.hardlink_to(path)
        whole = [link.stat().st_size for link in links] == [*files.values()]
    except OSError:
        return None
    return [*links] if whole else None


def check_format() -> None:
    """Refuse a lake that a newer Millrace wrote, whose path cannot be used, or that the engine does not see; mark a new
    one with the format that this code writes.
    """
    delta.check_format()
    if settings.engine().startswith("sc://") and not storage.is_remote(settings.lake()):
        _refuse_engine_elsewhere(settings.engine(), settings.lake())


@cache
def _refuse_engine_elsewhere(url: str, lake: Path) -> None:
    """An engine on another machine has another disk: what it writes is not found here, and Sail reads a file that it
    does not find as empty.
    """
    folder = lake / "_engine" / uuid.uuid4().hex
    engine.session().range(1).write.parquet(str(folder))
    found = storage.tree(folder, ".parquet")
    storage.remove_tree(folder)
    if not found:
        raise LakeError(
            f"the engine at {url.split(';')[0]} does not see the lake at {lake}: what it wrote there is not here."
            " Mount that folder at the same path where the engine runs, or keep the lake in a bucket (MILLRACE_LAKE=s3://bucket/path)"
        )

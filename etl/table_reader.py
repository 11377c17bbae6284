"""Read published tables as the engine's data frames, at a version, and hold their files while a run reads them.

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
"""At most so many data files are named to Sail. It opens each of them before it plans (5 ms for two files, 11 for 29);
for more files its own reader of the log is cheaper (10 ms for 200 files).
"""
OWN_FILE = re.compile(r"part-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.zst\.parquet")
"""The names of the data files that `lake.publishing` writes."""


def read(qualified: str, version: int, within: Within = ANYWHERE) -> DataFrame:
    """The table at that version. Callers that filter afterwards give `within`, the closed ranges of days or numbers
    that their filter keeps, by column: files outside of them may be skipped.

    Sail reads the whole log for each table of each plan, so every day would cost more than the one before. This process
    has the log in memory: inside `holding_files`, and where few files can hold such rows, it names them to Sail.
    """
    folder = _links_folder.get()
    selected = _few_files(qualified, version, within) if folder else None
    links = _link_files(selected.files, folder) if selected and folder else None
    if selected and links:
        return engine.session().read.schema(selected.columns).parquet(*map(str, links))
    if selected and links is not None:
        return engine.empty(selected.columns)
    if engine.describe()[0] == "sail":
        delta.checkpoint_older(qualified, version)
    return (
        engine.session().read.format("delta").option("versionAsOf", version).load(str(settings.table_path(qualified)))
    )


@contextmanager
def holding_files(qualified: str) -> Iterator[None]:
    """Inside, `read` may name files to Sail, through hard links below the folder of the table `qualified`. The caller
    holds that table's lock.

    Sail silently reads a missing file as an empty one. A linked file stays readable, whoever moves or removes it.
    """
    if not _is_sail_on_local_disk():
        yield
        return
    folder = settings.table_path(qualified) / "_reading"
    storage.remove_tree(folder)  # left by a killed run
    before = _links_folder.set(folder)
    try:
        yield
    finally:
        _links_folder.reset(before)
        storage.remove_tree(folder)


_links_folder: ContextVar[Path | None] = ContextVar("links_folder", default=None)
"""Where this run links the files that it reads; None outside `holding_files`."""


@dataclass(frozen=True)
class FileSelection:
    """Data files with their sizes in bytes, and their table's columns as DDL."""

    columns: str
    files: dict[Path, int]


def _is_sail_on_local_disk() -> bool:
    """Spark distributes the reading of a log, and in a bucket each file would cost a request."""
    return settings.engine() == "sail" and not storage.is_remote(settings.lake())


def _few_files(qualified: str, version: int, within: Within) -> FileSelection | None:
    """The files to name to Sail; None where its own reader is the better choice: for many files, and for files of
    other writers, whose columns may have other physical types, which Sail does not convert.
    """
    table = delta.open_table(qualified) if _is_sail_on_local_disk() else None
    if table is None or table.version() != version:
        return None
    files = delta.data_files(table, within=within)
    if len(files) > FEW_FILES or not all(OWN_FILE.fullmatch(file["path"]) for file in files):
        return None
    root = settings.table_path(qualified)
    columns = ", ".join(f"`{column.name}` {column.type.type}" for column in table.schema().fields)
    return FileSelection(columns, {root / file["path"]: file["size_bytes"] for file in files})


def _link_files(files: dict[Path, int], folder: Path) -> list[Path] | None:
    """Hard links to the files; None where one is missing or not as long as the log says, or where the file system has
    no hard links.
    """
    links = {folder / path.name: path for path in files}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for link, path in links.items():
            if not link.exists():
                link.hardlink_to(path)
        complete = [link.stat().st_size for link in links] == [*files.values()]
    except OSError:
        return None
    return [*links] if complete else None


def check_format() -> None:
    """Ensure that this process and the engine can use the lake, and mark a new lake with the format of this code.

    LakeError where a newer Millrace wrote it, its path is unusable, or the engine does not see it.
    """
    delta.check_format()
    if settings.engine().startswith("sc://") and not storage.is_remote(settings.lake()):
        _ensure_engine_sees_lake(settings.engine(), settings.lake())


@cache
def _ensure_engine_sees_lake(url: str, lake: Path) -> None:
    """LakeError where an engine on another machine has another disk: its writes would not arrive here, and Sail reads
    files that it does not find as empty.
    """
    folder = lake / "_engine" / uuid.uuid4().hex
    engine.session().range(1).write.parquet(str(folder))
    written = storage.tree(folder, ".parquet")
    storage.remove_tree(folder)
    if not written:
        raise LakeError(
            f"the engine at {url.split(';')[0]} does not see the lake at {lake}: what it wrote there is not here."
            " Mount that folder at the same path where the engine runs, or keep the lake in a bucket"
            " (MILLRACE_LAKE=s3://bucket/path)"
        )

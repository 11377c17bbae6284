"""Read Delta tables of the lake: open them, read the metadata of their commits, find what changed since a version.

Writing is in `lake.publishing`. Every commit carries a `CommitMetadata`, so a table alone tells what it was built from.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import date, datetime
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts import project
from contracts.interval import DAY, Interval, merged
from contracts.model import Table
from lake import settings, storage
from lake.storage import Entry

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import DeltaTable

METADATA_KEY = "millrace"
COMMIT_KEY = "commit"
"""Key of a unique commit name beside the metadata: tells a commit of this process from one of an orphaned statement."""
FILES_ATTRIBUTE = "_millrace_files"
"""Attribute of an open table that caches the add actions of its version."""
Within = Mapping[str, Sequence[tuple[Any, Any]]]
"""Column -> closed ranges of days or numbers."""
ANYWHERE: Within = {}
ADDED_COLUMNS = "columns"
"""Run id of a commit that adds columns to a bronze table."""
MAINTENANCE_RUNS = ("optimize", "vacuum", ADDED_COLUMNS)
"""Run ids of commits that change no row."""
STREAM_RUNS = "stream-"
"""What the run ids of commits begin with that bring messages of a topic, and that no run carries on by itself."""
FEATURES = {"appendOnly", "invariants", "timestampNtz"}
"""Delta table features under which a data file still holds all of its rows under the table's own column names."""


class LakeError(RuntimeError):
    """The lake cannot be read safely; the message names the table and what to do."""


@dataclass(frozen=True)
class CommitMetadata:
    """What one commit did: the input versions, the days whose rows it replaced, the digest of the code.

    `ids` are the Delta table ids of the inputs: a table that was removed and rebuilt counts its versions from 0 again.
    `horizon` is the exclusive end of the days that the table covers, for tables with a value on idle days.
    """

    run_id: str
    inputs: dict[str, int] = field(default_factory=dict)
    changed_days: tuple[Interval, ...] = ()
    horizon: date | None = None
    code: str = ""
    account: dict[str, int] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The commit's metadata value. `changed_days` keeps its old key, `touched`."""
        plain = asdict(self)
        del plain["changed_days"]
        plain["format"] = settings.LAKE_FORMAT
        plain["touched"] = [[str(days.start), str(days.end)] for days in self.changed_days]
        plain["horizon"] = str(self.horizon) if self.horizon else None
        return json.dumps(plain)

    @classmethod
    def from_json(cls, text: str) -> CommitMetadata:
        """The inverse of `to_json`."""
        plain = json.loads(text)
        plain.pop("format")
        plain.pop(COMMIT_KEY, None)
        plain["changed_days"] = tuple(
            Interval(date.fromisoformat(start), date.fromisoformat(end)) for start, end in plain.pop("touched")
        )
        plain["horizon"] = date.fromisoformat(plain["horizon"]) if plain["horizon"] else None
        return cls(**plain)


def open_table(qualified: str, version: int | None = None) -> DeltaTable | None:
    """The table at a version, the newest by default; None when it was never published. Read-only: callers share it."""
    path = settings.table_path(qualified)
    newest = _newest_commit(path)
    _ensure_log_is_intact(qualified, path, newest)
    mark = newest.mark if newest else None
    cached = _opened.get(str(path))
    if cached and cached[0] == mark and version in (None, cached[1].version()):
        return cached[1]
    table = _open(qualified, path, version)
    if table and mark and version is None:
        _opened[str(path)] = (mark, table)
    return table


_opened: dict[str, tuple[tuple[Any, ...], DeltaTable]] = {}
"""Path -> newest commit and open table: reading the log takes 2 ms and more, so an unchanged one is not read again."""


def remember(qualified: str, table: DeltaTable) -> None:
    """Cache a table that has just committed its newest version. From then on the caller must only read it."""
    path = settings.table_path(qualified)
    newest = _newest_commit(path)
    if newest and newest.name == f"{table.version():020}.json":
        _opened[str(path)] = (newest.mark, table)


def checkpoint_older(qualified: str, version: int) -> None:
    """Write a checkpoint of a version that has none and is older than the newest one, which Sail cannot read otherwise:
    0.7.2 then looks for no checkpoint before it, and ends with "Missing commit file". Best effort: Spark needs none.
    """
    from deltalake.exceptions import DeltaError

    log = settings.table_path(qualified) / "_delta_log"
    with suppress(DeltaError, OSError, ValueError, TypeError, KeyError):
        hint = storage.read(log / "_last_checkpoint")
        if hint is None or json.loads(hint)["version"] <= version:
            return
        table = None if storage.read(log / f"{version:020}.checkpoint.parquet") else open_table(qualified, version)
        if table is not None:
            table.create_checkpoint()


def open_to_write(qualified: str) -> DeltaTable | None:
    """The newest version, uncached: the caller may commit to it and update it."""
    path = settings.table_path(qualified)
    _ensure_log_is_intact(qualified, path, _newest_commit(path))
    return _open(qualified, path, None)


def _open(qualified: str, path: Path, version: int | None) -> DeltaTable | None:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    try:
        table = DeltaTable(str(path), version=version)
    except TableNotFoundError:
        return None
    except DeltaError as error:
        _ensure_log_is_intact(qualified, path, _newest_commit(path), thorough=True)
        message = str(error).splitlines()[0].rstrip(".")
        raise LakeError(
            f"{qualified}: the Delta table at {path} cannot be read: {message}. {_remedy(message)}"
        ) from error
    _ensure_protocol_is_supported(qualified, table)
    return table


def _remedy(message: str) -> str:
    """What to do about an error of delta-rs on opening a table."""
    if "CRC file version" in message:
        return (
            "A commit was removed and its checksum was not: remove all files of that number from its _delta_log,"
            " hidden ones too, then run again"
        )
    if "heckpoint" in message or "arquet" in message:
        return (
            "A checkpoint is missing or torn, as after a power cut. It only sums up commits, which are all there:"
            " remove _last_checkpoint and each *.checkpoint.parquet from its _delta_log, then run again"
        )
    if "nsupported" in message or "not supported" in message:
        return "Something newer wrote it: update Millrace, or restore the table to a version that this Millrace wrote"
    return "Restore its _delta_log from a copy, or move the folder away and run again"


def _newest_commit(path: Path) -> Entry | None:
    """The last commit file of the log. The numbers have leading zeros, so names sort by version."""
    return storage.newest(path / "_delta_log", ".json")


def _ensure_protocol_is_supported(qualified: str, table: DeltaTable) -> None:
    protocol = table.protocol()
    features = {*(protocol.reader_features or ()), *(protocol.writer_features or ())}
    reader, writer = protocol.min_reader_version, protocol.min_writer_version
    if features <= FEATURES and (reader, writer) in ((1, 1), (1, 2), (1, 7), (3, 7)):
        return
    unsupported = (
        f"the features {', '.join(sorted(features - FEATURES))}"
        if features - FEATURES
        else f"reader version {reader} and writer version {writer}"
    )
    raise LakeError(
        f"{qualified}: the table asks for {unsupported}, which this Millrace does not support. Update Millrace, or"
        " restore the table to a version that this Millrace wrote. Nothing of this table was written"
    )


def _ensure_log_is_intact(qualified: str, path: Path, newest: Entry | None, *, thorough: bool = False) -> None:
    """Raise LakeError for a newest commit that is empty or, if `thorough`, cut short.

    Delta reads an empty commit as no commit at all, so each opening checks for it. One that is cut short is an error of
    Delta, and only then looked for.
    """
    if newest is None:
        return
    damage = ""
    if newest.size == 0:
        damage = "empty"
    elif thorough and _is_cut_short(path / "_delta_log" / newest.name):
        damage = "cut short"
    if damage:
        raise LakeError(
            f"{qualified}: the newest commit {newest.name} is {damage}, as after a power cut. Remove that file and all"
            f" others of its number in the table's _delta_log (*{newest.name.removesuffix('.json')}*), and"
            " _last_checkpoint if it is there, to return to the version before it, then run again"
        )


def _is_cut_short(commit: Path) -> bool:
    try:
        for line in commit.read_text().splitlines():
            json.loads(line)
    except ValueError:
        return True
    return False


def version_of(qualified: str) -> int | None:
    """The newest version; None when there is no table."""
    table = open_table(qualified)
    return table.version() if table else None


def id_of(qualified: str) -> str:
    """The Delta table id, which changes when a table is removed and rebuilt; empty when there is no table."""
    table = open_table(qualified)
    return str(table.metadata().id) if table else ""


def commit_history(table: DeltaTable, *, since: int = -1) -> list[CommitMetadata | None]:
    """The metadata of each commit after version `since`, newest first; None for a commit that Millrace did not make.

    The commit that creates a table has no rows and is left out.
    """
    commits = table.history(max(table.version() - since, 0)) if since >= 0 else table.history()
    return [
        parse_commit(commit)
        for commit in commits
        if commit["version"] > since and commit.get("operation") != "CREATE TABLE"
    ]


def parse_commit(commit: dict[str, Any]) -> CommitMetadata | None:
    """The metadata of a commit: delta-rs keeps it under METADATA_KEY, delta-spark as `userMetadata`."""
    text = commit.get(METADATA_KEY) or commit.get("userMetadata")
    try:
        return CommitMetadata.from_json(text) if text else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def last_commit(table: DeltaTable | None) -> CommitMetadata | None:
    """The metadata of the newest commit; None when the table is new or something else wrote to it last."""
    if table is None:
        return None
    commits = commit_history(table, since=table.version() - 1)
    return commits[0] if commits else None


def commit_of(qualified: str, version: int) -> CommitMetadata | None:
    """The metadata of the commit that made a version; None when something else than Millrace made it, or its entry in
    the log was cleaned up.

    It is looked up in the newest version's history: delta-rs gives an older version the newest commits under the wrong
    numbers.
    """
    newest = open_table(qualified)
    if newest is None or newest.version() < version:
        return None
    commits = newest.history(newest.version() - version + 1)
    return next((parse_commit(commit) for commit in commits if commit["version"] == version), None)


def changed_since(table: DeltaTable, version: int) -> tuple[Interval, ...] | None:
    """The days whose rows changed after `version`; None when that is unknown: something else committed in between, the
    log was cleaned up, or the table was rebuilt.
    """
    if table.version() < version:
        return None
    commits = commit_history(table, since=version)
    if None in commits or len(commits) < table.version() - version:
        return None
    return merged(days for commit in commits if commit for days in commit.changed_days)


def rows_changed_since(table: DeltaTable, version: int) -> bool:
    """Whether a commit after `version` may have changed a row: any but compaction and vacuum."""
    commits = commit_history(table, since=version)
    return (
        table.version() < version
        or len(commits) < table.version() - version
        or any(commit is None or commit.run_id not in MAINTENANCE_RUNS for commit in commits)
    )


def extent(table: DeltaTable, contract: Table) -> Interval | None:
    """The days from the oldest row to the newest, by the files' statistics; None when no row has a day: deletions have
    none.
    """
    column = contract.time_column
    timed = [
        file
        for file in data_files(table, column)
        if file["num_records"] != 0 and file.get(f"null_count.{column}") != file["num_records"]
    ]
    if not timed:
        return None
    days = [_day(file.get(f"{bound}.{column}")) for file in timed for bound in ("min", "max")]
    return Interval(min(days), max(days) + DAY)


def size(table: DeltaTable, root: Path) -> tuple[int, int]:
    """Rows and bytes of the version. Where the log has no row count, the file's footer has."""
    import pyarrow.compute as pc

    files = _actions(table)
    rows, size_bytes = (pc.sum(files[name]).as_py() or 0 for name in ("num_records", "size_bytes"))
    uncounted = files.filter(pc.is_null(files["num_records"]))["path"].to_pylist()
    return rows + sum(storage.footer(root / path).num_rows for path in uncounted), size_bytes


def data_files(table: DeltaTable, ranged: str | None = None, within: Within = ANYWHERE) -> list[dict[str, Any]]:
    """The log's entry of each data file of the version that may hold rows `within`: path, size_bytes, num_records, and
    min, max and null_count of the column `ranged`.
    """
    files = _actions(table)
    for column, ranges in within.items():
        files = files.filter(_may_meet(files, column, ranges))
    names = ["path", "size_bytes", "num_records", f"min.{ranged}", f"max.{ranged}", f"null_count.{ranged}"]
    entries: list[dict[str, Any]] = files.select([name for name in names if name in files.column_names]).to_pylist()
    return entries


def newest_instant(contract: Table, table: DeltaTable, column: str) -> datetime | None:
    """The newest value of a timestamp column, in milliseconds like the log's bounds; None when there is no value.

    Files without a bound in the log are read.
    """
    import pyarrow.compute as pc

    files = _actions(table)
    name = f"max.{column}"
    bounded = name in files.column_names
    newest: datetime | None = pc.max(files[name]).as_py() if bounded else None
    unbounded = files.filter(pc.is_null(files[name]))["path"].to_pylist() if bounded else files["path"].to_pylist()
    read = _newest_of_files(settings.table_path(contract.qualified), unbounded, column) if unbounded else None
    return max((value for value in (newest, read) if value), default=None)


def _newest_of_files(root: Path, files: list[str], column: str) -> datetime | None:
    import duckdb

    with storage.readable(duckdb.connect(), root) as con:
        con.execute("SET TimeZone='UTC'")
        paths = [str(root / path) for path in files]
        newest: datetime | None = con.execute(f"SELECT max({column}) FROM read_parquet(?)", [paths]).fetchall()[0][0]
    return newest


def on_days(column: str | None, days: Sequence[Interval]) -> Within:
    """These days as ranges of a column; ANYWHERE without a column."""
    return {column: [(interval.start, interval.end - DAY) for interval in days]} if column else ANYWHERE


def _actions(table: DeltaTable) -> pa.Table:
    """The add actions of the version, cached: a run asks for them thirty times."""
    import pyarrow as pa

    version, actions = getattr(table, FILES_ATTRIBUTE, (None, None))
    if actions is None or version != table.version():
        actions = pa.table(table.get_add_actions(flatten=True))
        setattr(table, FILES_ATTRIBUTE, (table.version(), actions))
    return actions


def _may_meet(files: pa.Table, column: str, ranges: Sequence[tuple[Any, Any]]) -> pa.Array:
    """For each file, whether it may hold a value of one of the ranges: always, where it has no statistics."""
    import pyarrow as pa
    import pyarrow.compute as pc

    names = (f"min.{column}", f"max.{column}")
    if not set(names) <= set(files.column_names):
        return pa.repeat(True, files.num_rows)
    low, high = (
        files[name].cast(pa.date32()) if pa.types.is_timestamp(files[name].type) else files[name] for name in names
    )
    meets = [
        pc.and_(pc.less_equal(low, pa.scalar(last, low.type)), pc.greater_equal(high, pa.scalar(first, high.type)))
        for first, last in ranges
    ]
    return pc.fill_null(reduce(pc.or_, meets, pa.repeat(False, files.num_rows)), True)


def file_days(
    table: DeltaTable, contract: Table, within: Within = ANYWHERE
) -> list[tuple[dict[str, Any], date, date, int]]:
    """`data_files` of a contract's table, each with its first and last day in `time_column` and its row count."""
    column = contract.time_column
    return [
        (file, _day(file.get(f"min.{column}")), _day(file.get(f"max.{column}")), file["num_records"])
        for file in data_files(table, column, within)
    ]


def _day(value: Any) -> date:
    if value is None:
        raise LakeError(
            "a data file carries no statistics on its time column, so an interval cannot be replaced safely. Rewrite"
            " the table, or drop it and run again"
        )
    day = value.date() if hasattr(value, "date") else value
    return day if isinstance(day, date) else date.fromisoformat(str(day)[:10])


def _ensure_path_is_usable() -> None:
    """LakeError for a path with characters that Delta's URLs escape: Sail loses a %20, delta-rs a %."""
    path = str(settings.lake())
    unsafe = sorted({*re.sub(r"[A-Za-z0-9/._+=,:&'-]", "", path)})
    if unsafe:
        raise LakeError(
            f"the lake's path {path} has {' '.join(map(repr, unsafe))}, which the engines cannot find again. Use a"
            " folder whose path has only ASCII letters, digits and / . _ - + = , : & ': set MILLRACE_LAKE (or"
            " MILLRACE_HOME), or move the checkout. Nothing was written"
        )


def check_format() -> None:
    """Mark a new lake with its format and project.

    LakeError for the lake of a newer Millrace or of another project, and for a path that cannot be used.
    """
    _ensure_path_is_usable()
    name, owner = project.current().name, _read_marker().get("project")
    if owner not in (None, name):
        raise LakeError(
            f"the lake at {settings.lake()} belongs to the project {owner}, and this is {name}. Give each project a"
            " home of its own (MILLRACE_HOME), or set MILLRACE_PROJECT"
        )
    if owner is None:
        storage.write_whole(_marker(), json.dumps({"format": settings.LAKE_FORMAT, "project": name}).encode())


def lake_format() -> int | None:
    """The format that the lake is marked with, or None; LakeError for a newer one."""
    return _read_marker().get("format")


def _read_marker() -> dict[str, Any]:
    """The content of the lake's marker, at least its `format`; empty where there is none."""
    path = _marker()
    content = storage.read(path)
    if content is None:
        return {}
    try:
        marker: dict[str, Any] = json.loads(content)
        version = marker["format"]
    except (ValueError, TypeError, KeyError):
        raise LakeError(
            f'{path} does not name the lake\'s format. Write {{"format": {settings.LAKE_FORMAT}}} into it if this'
            " Millrace made the lake"
        ) from None
    if not isinstance(version, int) or version > settings.LAKE_FORMAT:
        raise LakeError(
            f"the lake at {settings.lake()} has format {version}, and this Millrace reads up to {settings.LAKE_FORMAT}."
            " Update Millrace, or point MILLRACE_LAKE elsewhere. Nothing was written"
        )
    return marker


def _marker() -> Path:
    return settings.lake() / "_millrace.json"

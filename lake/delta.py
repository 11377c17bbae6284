"""Delta tables as they lie in the lake: open them, read what earlier commits recorded, find what changed since a
version.

Writing is in `lake.publishing`. Each commit of ours carries a `CommitMetadata` in its metadata, so what a table was
built from is known from the table alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, datetime, timedelta
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
"""A name of the commit's own beside its state, where a statement of another process must not be mistaken for ours."""
LISTED = "_millrace_files"
"""Attribute of an open table that keeps what was listed of its version."""
Within = Mapping[str, Sequence[tuple[Any, Any]]]
"""Of columns, closed ranges of days or numbers."""
ANYWHERE: Within = {}
TIDYING = ("optimize", "vacuum")
"""The runs of commits that change no row."""
FEATURES = {"appendOnly", "invariants", "timestampNtz"}
"""Delta table features that leave what we rely on as it is: a data file holds its table's rows, all of them, under
their own column names.
"""


class LakeError(RuntimeError):
    """The lake cannot be read safely; the message names the table and what to do."""


@dataclass(frozen=True)
class CommitMetadata:
    """What one commit did: the versions it was built from, the days whose rows it replaced, the code that did it.

    `ids` are the inputs' own identities: a table that was removed and made anew counts its versions from 0 again.
    `horizon` is the exclusive end of the days that the table covers, for tables that must speak about idle days.
    """

    run_id: str
    inputs: dict[str, int] = field(default_factory=dict)
    touched: tuple[Interval, ...] = ()
    horizon: date | None = None
    code: str = ""
    account: dict[str, int] = field(default_factory=dict)
    ids: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """The commit's metadata value."""
        plain = asdict(self)
        plain["format"] = settings.LAKE_FORMAT
        plain["touched"] = [[str(one.start), str(one.end)] for one in self.touched]
        plain["horizon"] = str(self.horizon) if self.horizon else None
        return json.dumps(plain)

    @classmethod
    def from_json(cls, text: str) -> CommitMetadata:
        """The inverse of `to_json`."""
        plain = json.loads(text)
        plain.pop("format")
        plain.pop(COMMIT_KEY, None)
        plain["touched"] = tuple(Interval(date.fromisoformat(a), date.fromisoformat(b)) for a, b in plain["touched"])
        plain["horizon"] = date.fromisoformat(plain["horizon"]) if plain["horizon"] else None
        return cls(**plain)


def open_table(qualified: str, version: int | None = None) -> DeltaTable | None:
    """The table, at a version or the newest one; None when it was never published. It is shared with other callers:
    only read it.
    """
    path = settings.table_path(qualified)
    newest = _newest_commit(path)
    _refuse_torn_log(qualified, path, newest)
    mark = newest.mark if newest else None
    known = _opened.get(str(path))
    if known and known[0] == mark and version in (None, known[1].version()):
        return known[1]
    found = _open(qualified, path, version)
    if found and mark and version is None:
        _opened[str(path)] = (mark, found)
    return found


_opened: dict[str, tuple[tuple[Any, ...], DeltaTable]] = {}
"""Tables as they were read last, with the commit that was their newest: a log that has not moved is not read again,
which takes 2 ms and more with its length.
"""


def remember(qualified: str, table: DeltaTable) -> None:
    """Have the next readers take this table, which has just committed its newest version; the caller only reads it from
    then on.
    """
    path = settings.table_path(qualified)
    newest = _newest_commit(path)
    if newest and newest.name == f"{table.version():020}.json":
        _opened[str(path)] = (newest.mark, table)


def open_to_write(qualified: str) -> DeltaTable | None:
    """The newest version, for a caller of its own that goes on to commit and update it."""
    path = settings.table_path(qualified)
    _refuse_torn_log(qualified, path, _newest_commit(path))
    return _open(qualified, path, None)


def _open(qualified: str, path: Path, version: int | None) -> DeltaTable | None:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError, TableNotFoundError

    try:
        found = DeltaTable(str(path), version=version)
    except TableNotFoundError:
        return None
    except DeltaError as error:
        _refuse_torn_log(qualified, path, _newest_commit(path), thorough=True)
        told = str(error).splitlines()[0].rstrip(".")
        remedy = "Restore its _delta_log from a copy, or move the folder away and run again"
        if "nsupported" in told or "not supported" in told:
            remedy = (
                "Something newer wrote it: update Millrace, or restore the table to a version that this Millrace wrote"
            )
        if "heckpoint" in told or "arquet" in told:
            remedy = (
                "A checkpoint is missing or torn, as after a power cut. It only sums up commits, which are all there:"
                " remove _last_checkpoint and each *.checkpoint.parquet from its _delta_log, then run again"
            )
        if "CRC file version" in told:
            remedy = (
                "A commit was removed and its checksum was not: remove all files of that number from its _delta_log,"
                " hidden ones too, then run again"
            )
        raise LakeError(f"{qualified}: the Delta table at {path} cannot be read: {told}. {remedy}") from error
    _refuse_newer_protocol(qualified, found)
    return found


def _newest_commit(path: Path) -> Entry | None:
    """The last of the log's commit files, which are numbered with leading zeros."""
    return storage.newest(path / "_delta_log", ".json")


def _refuse_newer_protocol(qualified: str, table: DeltaTable) -> None:
    protocol = table.protocol()
    features = {*(protocol.reader_features or ()), *(protocol.writer_features or ())}
    by_version = (protocol.min_reader_version, protocol.min_writer_version)
    if features <= FEATURES and by_version in ((1, 1), (1, 2), (1, 7), (3, 7)):
        return
    odd = (
        f"the features {', '.join(sorted(features - FEATURES))}"
        if features - FEATURES
        else f"reader version {by_version[0]} and writer version {by_version[1]}"
    )
    raise LakeError(
        f"{qualified}: the table asks for {odd}, which this Millrace does not know how to keep. Update Millrace, or"
        " restore the table to a version that this Millrace wrote. Nothing of this table was written"
    )


def _refuse_torn_log(qualified: str, path: Path, newest: Entry | None, *, thorough: bool = False) -> None:
    """An empty newest commit reads as no commit at all, so it is looked for each time; one that is cut short only when
    Delta cannot read the table.
    """
    if newest is None:
        return
    state = (
        "empty"
        if newest.size == 0
        else "cut short"
        if thorough and _is_cut_short(path / "_delta_log" / newest.name)
        else ""
    )
    if state:
        raise LakeError(
            f"{qualified}: the newest commit {newest.name} is {state}, as after a power cut. Remove that file and all"
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
    """The newest version, or None."""
    table = open_table(qualified)
    return table.version() if table else None


def id_of(qualified: str) -> str:
    """The Delta table's own id, which a table built anew does not share; empty when there is no table."""
    table = open_table(qualified)
    return str(table.metadata().id) if table else ""


def states(table: DeltaTable, *, since: int = -1) -> list[CommitMetadata | None]:
    """The recorded state of each commit after version `since`, newest first; None for a commit that is not ours.

    The commit that creates a table carries no rows and is left out.
    """
    newer = table.history(max(table.version() - since, 0)) if since >= 0 else table.history()
    return [
        state_of(commit) for commit in newer if commit["version"] > since and commit.get("operation") != "CREATE TABLE"
    ]


def state_of(commit: dict[str, Any]) -> CommitMetadata | None:
    """What a commit of the log recorded: under our own key where delta-rs wrote it, as user metadata where delta-spark
    did.
    """
    text = commit.get(METADATA_KEY) or commit.get("userMetadata")
    try:
        return CommitMetadata.from_json(text) if text else None
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def last_state(table: DeltaTable | None) -> CommitMetadata | None:
    """The newest recorded state; None when the table is new or was last written by someone else."""
    if table is None:
        return None
    recorded = states(table, since=table.version() - 1)
    return recorded[0] if recorded else None


def changed_since(table: DeltaTable, version: int) -> tuple[Interval, ...] | None:
    """The days whose rows changed after `version`; None when that is unknown: a foreign commit came in between, the log
    was cleaned, or the table was made anew.
    """
    if table.version() < version:
        return None
    recorded = states(table, since=version)
    if None in recorded or len(recorded) < table.version() - version:
        return None
    return merged(one for state in recorded if state for one in state.touched)


def rows_changed_since(table: DeltaTable, version: int) -> bool:
    """Whether a commit after `version` may have changed a row: any, unless it only tidied up."""
    recorded = states(table, since=version)
    return (
        table.version() < version
        or len(recorded) < table.version() - version
        or any(one is None or one.run_id not in TIDYING for one in recorded)
    )


def extent(table: DeltaTable, contract: Table) -> Interval | None:
    """The days between the oldest and the newest row, from the files' statistics; None when the table is empty."""
    ranges = [(low, high) for _, low, high, rows in file_days(table, contract) if rows != 0]
    if not ranges:
        return None
    return Interval(min(low for low, _ in ranges), max(high for _, high in ranges) + timedelta(days=1))


def size(table: DeltaTable, root: Path) -> tuple[int, int]:
    """Rows and bytes of the version. Files whose rows the log does not count are looked into."""
    import pyarrow.compute as pc

    found = _actions(table)
    rows, held = (pc.sum(found[name]).as_py() or 0 for name in ("num_records", "size_bytes"))
    uncounted = found.filter(pc.is_null(found["num_records"]))["path"].to_pylist()
    return rows + sum(storage.footer(root / path).num_rows for path in uncounted), held


def data_files(table: DeltaTable, ranged: str | None = None, within: Within = ANYWHERE) -> list[dict[str, Any]]:
    """What the log says of each data file of the version that may hold rows `within`: path, size_bytes, num_records,
    and min and max of one column.
    """
    found = _actions(table)
    for column, ranges in within.items():
        found = found.filter(_may_meet(found, column, ranges))
    wanted = ["path", "size_bytes", "num_records", f"min.{ranged}", f"max.{ranged}"]
    rows: list[dict[str, Any]] = found.select([name for name in wanted if name in found.column_names]).to_pylist()
    return rows


def newest_instant(contract: Table, table: DeltaTable, column: str) -> datetime | None:
    """The newest value of a timestamp column, cut down to milliseconds as the log's bounds are; None without a value.

    Files of which the log keeps no bound are looked into.
    """
    import pyarrow.compute as pc

    files = _actions(table)
    name = f"max.{column}"
    bounded = name in files.column_names
    newest: datetime | None = pc.max(files[name]).as_py() if bounded else None
    unbounded = files.filter(pc.is_null(files[name]))["path"].to_pylist() if bounded else files["path"].to_pylist()
    inside = _newest_inside(settings.table_path(contract.qualified), unbounded, column) if unbounded else None
    return max((value for value in (newest, inside) if value), default=None)


def _newest_inside(root: Path, files: list[str], column: str) -> datetime | None:
    import duckdb

    with storage.readable(duckdb.connect(), root) as con:
        con.execute("SET TimeZone='UTC'")
        paths = [str(root / path) for path in files]
        newest: datetime | None = con.execute(f"SELECT max({column}) FROM read_parquet(?)", [paths]).fetchall()[0][0]
    return newest


def on_days(column: str | None, days: Sequence[Interval]) -> Within:
    """These days of a column."""
    return {column: [(one.start, one.end - DAY) for one in days]} if column else ANYWHERE


def _actions(table: DeltaTable) -> pa.Table:
    """The log's entries of the version's data files, made once: a run asks for them thirty times."""
    import pyarrow as pa

    version, known = getattr(table, LISTED, (None, None))
    if known is None or version != table.version():
        known = pa.table(table.get_add_actions(flatten=True))
        setattr(table, LISTED, (table.version(), known))
    return known


def _may_meet(files: pa.Table, column: str, ranges: Sequence[tuple[Any, Any]]) -> pa.Array:
    """For each file, whether it may hold a value of one of the ranges. One without statistics may hold any."""
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
    """The same of a contract's table, each with the first and last day of `time_column` in it, and its row count."""
    column = contract.time_column
    return [
        (one, _day(one.get(f"min.{column}")), _day(one.get(f"max.{column}")), one["num_records"])
        for one in data_files(table, column, within)
    ]


def _day(value: Any) -> date:
    if value is None:
        raise LakeError(
            "a data file carries no statistics on its time column, so an interval cannot be replaced safely. Rewrite"
            " the table, or drop it and run again"
        )
    day = value.date() if hasattr(value, "date") else value
    return day if isinstance(day, date) else date.fromisoformat(str(day)[:10])


def _refuse_odd_path() -> None:
    """Delta names files by URL. What a URL writes as %20 is not found again by Sail, nor by delta-rs where a name has a
    % of its own.
    """
    path = str(settings.lake())
    odd = sorted({*re.sub(r"[A-Za-z0-9/._+=,:&'-]", "", path)})
    if odd:
        raise LakeError(
            f"the lake's path {path} has {' '.join(map(repr, odd))}, which the engines cannot find again. Use a folder"
            " whose path has only ASCII letters, digits and / . _ - + = , : & ': set MILLRACE_LAKE (or MILLRACE_HOME),"
            " or move the checkout. Nothing was written"
        )


def check_format() -> None:
    """Refuse a lake that a newer Millrace wrote, or whose path cannot be used; mark a new one with the format that this
    code writes and with its project. LakeError for another project's.
    """
    _refuse_odd_path()
    marked, name = _marked(), project.current().name
    owner = marked.get("project")
    if owner not in (None, name):
        raise LakeError(
            f"the lake at {settings.lake()} belongs to the project {owner}, and this is {name}. Give each project a"
            " home of its own (MILLRACE_HOME), or set MILLRACE_PROJECT"
        )
    if owner is None:
        storage.write_whole(_marker(), json.dumps({"format": settings.LAKE_FORMAT, "project": name}).encode())


def lake_format() -> int | None:
    """The format that the lake is marked with, or None; LakeError for a newer one. Nothing is written."""
    return _marked().get("format")


def _marked() -> dict[str, Any]:
    """What the lake's marker says, `format` at least; empty where there is none."""
    marker = _marker()
    content = storage.read(marker)
    if content is None:
        return {}
    try:
        marked: dict[str, Any] = json.loads(content)
        found = marked["format"]
    except (ValueError, TypeError, KeyError):
        raise LakeError(
            f'{marker} does not name the lake\'s format. Write {{"format": {settings.LAKE_FORMAT}}} into it if this'
            " Millrace made the lake"
        ) from None
    if not isinstance(found, int) or found > settings.LAKE_FORMAT:
        raise LakeError(
            f"the lake at {settings.lake()} has format {found}, and this Millrace reads up to {settings.LAKE_FORMAT}."
            " Update Millrace, or point MILLRACE_LAKE elsewhere. Nothing was written"
        )
    return marked


def _marker() -> Path:
    return settings.lake() / "_millrace.json"

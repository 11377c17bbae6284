"""Publishing: staged parquet files become part of a Delta table in one commit, or not at all.

The staged files themselves are moved under the table and committed, so rows are written once. Replacing days removes
the files that hold them and rewrites what else those files held, in the same commit. One writer per table at a time,
and a commit names the version it was based on: if the table has moved, it is refused.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts.interval import Interval
from contracts.model import BOOLEAN, DATE, DOUBLE, LONG, STRING, TIMESTAMP, DecimalType, Table, Type
from lake import delta, settings, storage
from lake.bucket import LockedError
from lake.delta import METADATA_KEY, CommitMetadata

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import CommitProperties, DeltaTable

LOCK_SECONDS = 600
CHECKPOINT_EVERY = 10
"""Commits, as on Spark. Without checkpoints each opening reads all that ever were: 16 years of days are 6,000."""
RETENTION = {
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
}
"""Table properties that keep old versions readable: a release and a training set pin them for years.

Log entries go after 30 days by default. delta-spark from 4.1 on reads no version from before the other one, which is a
week by default, whether or not its files are there; and a vacuum of another tool goes by it. Ours spares what is
pinned, and goes by its own number of days otherwise.
"""
FENCE = "millrace"
"""The transaction that each commit of ours names, with the version that it makes. A statement that a killed client left
on a Spark finds it taken, and is refused there.
"""


class PublishError(RuntimeError):
    """The commit was refused; the table is as it was."""


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock of a table (or another name) among all processes that share this lake."""
    try:
        with storage.locked(settings.lake() / "_locks" / f"{name}.lock", LOCK_SECONDS):
            yield
    except LockedError:
        raise PublishError(
            f"{name}: another process has held the lock for {LOCK_SECONDS} s. Wait for the other run to end, or end it,"
            " then run again"
        ) from None


def arrow_type(kind: Type) -> pa.DataType:
    """The Arrow type of a contract's type."""
    import pyarrow as pa

    if isinstance(kind, DecimalType):
        return pa.decimal128(kind.precision, kind.scale)
    plain = {
        LONG: pa.int64(),
        STRING: pa.string(),
        DOUBLE: pa.float64(),
        BOOLEAN: pa.bool_(),
        DATE: pa.date32(),
        TIMESTAMP: pa.timestamp("us", tz="UTC"),
    }
    return plain[kind]


def arrow_schema(contract: Table) -> pa.Schema:
    """The table's columns, required ones not nullable, comments and PII as field metadata that Delta keeps."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field(c.name, arrow_type(c.type), nullable=not c.required, metadata=_comment(c.doc, c.unit, c.pii))
            for c in contract.columns
        ]
    )


def _comment(doc: str, unit: str | None, pii: str) -> dict[str, str]:
    return {"comment": f"{doc} [{unit}]" if unit else doc, "pii": str(pii)}


def open_or_create(contract: Table) -> DeltaTable:
    """The table, created empty with the contract's schema and comments when it is new. A schema that differs is
    refused.
    """
    from deltalake import DeltaTable

    found = delta.open_to_write(contract.qualified)
    if found is not None:
        refuse_other_schema(contract, found)
        return found
    path = settings.table_path(contract.qualified)
    storage.make_folder(path)
    return DeltaTable.create(
        str(path),
        schema=arrow_schema(contract),
        name=contract.qualified,
        description=f"{contract.doc}; {contract.grain}. Owner: {contract.owner}",
        configuration=dict(RETENTION),
    )


def keep_versions(table: DeltaTable, properties: CommitProperties) -> None:
    """Give a table that former code made the properties of RETENTION, in a commit with these `properties`; nothing is
    committed where they are there.
    """
    present = table.metadata().configuration
    if lacking := {name: value for name, value in RETENTION.items() if present.get(name) != value}:
        table.alter.set_table_properties(lacking, commit_properties=properties)
        table.update_incremental()


def refuse_other_schema(contract: Table, found: DeltaTable) -> None:
    """Raise PublishError unless the published table has the contract's columns and types.

    A table is not changed in place: rows of before a column was added would hold NULL in it, which is no value of a
    feature.
    """
    import pyarrow as pa

    got = {field.name: str(field.type) for field in pa.schema(found.schema().to_arrow())}
    expected = {field.name: str(field.type) for field in arrow_schema(contract)}
    if got != expected:
        names = sorted(name for name in got.keys() | expected.keys() if got.get(name) != expected.get(name))
        raise PublishError(
            f"{contract.qualified}: the published table and contracts/{contract.layer}/{contract.name}.py differ in"
            f" {', '.join(_difference(name, got.get(name), expected.get(name)) for name in names)}. Remove"
            f" {settings.table_path(contract.qualified)}, then run again: the table is rebuilt as a whole from"
            f" {_before(contract)}. Former releases and training sets cannot read it afterwards: copy the folder first"
            " if you need them. Or change the contract back"
        )


def _difference(name: str, got: str | None, expected: str | None) -> str:
    """A column whose type in the published table is not that of the contract."""
    if got is None:
        return f"{name} {expected} (which the table lacks)"
    if expected is None:
        return f"{name} {got} (which the contract lacks)"
    return f"{name} {got} (the contract says {expected})"


def _before(contract: Table) -> str:
    return (
        ", ".join(contract.inputs)
        or f"the landing zone by a run over all of its days, {settings.landing() / contract.name}"
    )


def publish(
    contract: Table,
    staged: Sequence[Path],
    state: CommitMetadata,
    *,
    base: int | None,
    replace: Sequence[Interval] = (),
    whole: bool = False,
) -> int:
    """Commit the staged files and return the version that holds them.

    `replace` names the days whose rows go as the new ones come; `whole` replaces all rows; neither appends. `base` is
    the version that the work was based on (None for a new table): when the table has moved on since, nothing is
    written. The caller holds the table's lock.
    """
    table = open_at(contract, base)
    adds = [_move_under(contract, path) for path in staged]
    removes = _superseded(table, contract, replace, whole)
    kept = [file for file, partly in removes if partly]
    if kept:
        adds += _remainder(contract, kept, replace)
    _commit(table, contract, adds, [file for file, _ in removes], state)
    return settled(contract, table)


def open_at(contract: Table, base: int | None) -> DeltaTable:
    """The table at the version that the work was based on, created when that is None; PublishError when it has moved
    on, be it while it is opened.
    """
    refuse_moved(contract, base, delta.version_of(contract.qualified))
    table = open_or_create(contract)
    refuse_moved(contract, base or 0, table.version())
    return table


def refuse_moved(contract: Table, base: int | None, known: int | None) -> None:
    """Raise PublishError unless the table is at the version that the work was based on."""
    if known != base:
        raise PublishError(
            f"{contract.qualified}: the table moved from version {base} to {known} while this run worked. Nothing was"
            " written; run the interval again"
        )


def fenced(table: DeltaTable) -> list[Any]:
    """The transactions of the commit that follows the table's version: the fence."""
    from deltalake import Transaction

    return [Transaction(FENCE, table.version() + 1)]


def settled(contract: Table, table: DeltaTable) -> int:
    """The version that the table, opened to write, has just committed: on the disk, and what the next reader takes."""
    table.update_incremental()
    version: int = table.version()
    sync_log(contract.qualified, version)
    if version and version % CHECKPOINT_EVERY == 0:
        _checkpoint(contract, table)
    delta.remember(contract.qualified, table)
    return version


def _checkpoint(contract: Table, table: DeltaTable) -> None:
    """Sum the log up in one file, for those who open the table later. The commit stands without it, so a failure is no
    error.
    """
    from deltalake.exceptions import DeltaError

    log = settings.table_path(contract.qualified) / "_delta_log"
    with suppress(DeltaError, OSError):
        table.create_checkpoint()
        for path in (log / f"{table.version():020}.checkpoint.parquet", log / "_last_checkpoint", log):
            storage.sync(path)


def sync_log(qualified: str, version: int) -> None:
    """Have a commit on the disk, which Delta writers do not see to."""
    root = settings.table_path(qualified)
    for path in (root, root / "_delta_log" / f"{version:020}.json", root / "_delta_log"):
        storage.sync(path)


def _superseded(
    table: DeltaTable, contract: Table, replace: Sequence[Interval], whole: bool
) -> list[tuple[dict[str, Any], bool]]:
    """The files whose rows must go, each with whether it also holds rows that must stay."""
    if not whole and not replace:
        return []
    if whole:
        return [(one, False) for one in delta.data_files(table)]
    concerned = delta.file_days(table, contract, delta.on_days(contract.time_column, replace))
    return [(file, not any(one.start <= low and high < one.end for one in replace)) for file, low, high, _ in concerned]


def _remainder(contract: Table, files: list[dict[str, Any]], replace: Sequence[Interval]) -> list[Any]:
    """What the partly replaced files hold besides the replaced days, written anew."""
    import duckdb
    import pyarrow.parquet as pq

    root = settings.table_path(contract.qualified)
    adds = []
    with storage.readable(duckdb.connect(), root) as con:
        con.execute("SET TimeZone='UTC'")
        for file in files:
            names = ", ".join(contract.column_names)
            rows = con.sql(
                f"SELECT {names} FROM read_parquet(?) WHERE NOT ({days_sql(contract, replace)})",
                params=[str(root / file["path"])],
            ).to_arrow_table()
            if rows.num_rows:
                target = root / f"part-{uuid.uuid4()}.zst.parquet"
                with target.open("wb") as output:
                    pq.write_table(rows.cast(nullable(contract)), output, compression="zstd")
                adds.append(_add_action(contract, target))
    return adds


def nullable(contract: Table) -> pa.Schema:
    """The table's columns, each of which may be NULL, as files hold them: what is required is for the audit to
    judge.
    """
    import pyarrow as pa

    return pa.schema([pa.field(c.name, arrow_type(c.type)) for c in contract.columns])


def days_sql(contract: Table, days: Sequence[Interval]) -> str:
    """A condition, in the SQL that DuckDB and Spark share, that a row's time lies in one of the intervals. The
    session's time zone must be UTC.
    """
    column = contract.time_column
    return (
        " OR ".join(
            f"({column} >= {_literal(contract, one.start)} AND {column} < {_literal(contract, one.end)})"
            for one in days
        )
        or "false"
    )


def _literal(contract: Table, day: date) -> str:
    kind = contract.column(contract.time_column or "").type
    return f"DATE '{day}'" if kind == DATE else f"TIMESTAMP '{day} 00:00:00'"


def _move_under(contract: Table, staged: Path) -> Any:
    target = settings.table_path(contract.qualified) / f"part-{uuid.uuid4()}.zst.parquet"
    storage.move(staged, target)
    return _add_action(contract, target)


def _add_action(contract: Table, path: Path) -> Any:
    from deltalake.transaction import AddAction

    return AddAction(
        path.name, path.stat().st_size, {}, int(time.time() * 1000), True, json.dumps(_statistics(contract, path))
    )


def _statistics(contract: Table, path: Path) -> dict[str, Any]:
    """Row count, and per column NULLs, minimum and maximum, as the Delta log wants them, from the parquet footer.

    Text has no bounds, as readers compare it differently, nor have doubles and decimals, which JSON may round.
    """
    footer = storage.footer(path)
    position = {footer.schema.column(i).name: i for i in range(footer.num_columns)}
    groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    result: dict[str, Any] = {"numRecords": footer.num_rows, "minValues": {}, "maxValues": {}, "nullCount": {}}
    for column in contract.columns:
        found = [group.column(position[column.name]).statistics for group in groups if group.num_rows]
        if not found or any(one is None or not one.has_null_count for one in found):
            continue
        result["nullCount"][column.name] = sum(one.null_count for one in found)
        ranged = [one for one in found if one.has_min_max]
        if ranged and column.type not in (STRING, DOUBLE, BOOLEAN) and not isinstance(column.type, DecimalType):
            result["minValues"][column.name] = _plain(min(one.min for one in ranged))
            result["maxValues"][column.name] = _plain(max(one.max for one in ranged))
    return result


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return f"{value.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
    if isinstance(value, date):
        return value.isoformat()
    return value


def _commit(
    table: DeltaTable, contract: Table, adds: list[Any], removes: list[dict[str, Any]], state: CommitMetadata
) -> None:
    from deltalake import CommitProperties
    from deltalake.exceptions import CommitFailedError
    from deltalake.transaction import RemoveAction

    gone = [
        RemoveAction(one["path"], deletion_timestamp=int(time.time() * 1000), data_change=True, size=one["size_bytes"])
        for one in removes
    ]
    properties = CommitProperties(
        custom_metadata={METADATA_KEY: state.to_json()}, app_transactions=fenced(table), max_commit_retries=0
    )
    try:
        table.create_write_transaction([*adds, *gone], "append", table.schema(), commit_properties=properties)
    except CommitFailedError as error:
        raise PublishError(
            f"{contract.qualified}: another writer committed at the same time ({error}). Nothing was written; run the"
            " interval again"
        ) from error

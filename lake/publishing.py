"""Publish staged parquet files to a Delta table in one commit.

The staged files themselves are moved into the table's folder, so rows are written once. Replacing days removes the
files that hold them and rewrites the other rows of those files, in the same commit. One writer per table at a time: a
commit names the version that it was computed from, and is refused when the table has a newer one.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace as changed
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contracts.interval import Interval
from contracts.model import BOOLEAN, DATE, DOUBLE, LONG, STRING, TIMESTAMP, Column, DecimalType, Layer, Table, Type
from lake import delta, settings, storage
from lake.bucket import LockedError
from lake.delta import METADATA_KEY, CommitMetadata

if TYPE_CHECKING:
    import pyarrow as pa
    from deltalake import CommitProperties, DeltaTable

LOCK_SECONDS = 600
CHECKPOINT_EVERY = 10
"""Commits, as on Spark. Without checkpoints each opening reads the whole log: 16 years of days are 6,000 commits."""
RETENTION = {
    "delta.logRetentionDuration": "interval 3650 days",
    "delta.deletedFileRetentionDuration": "interval 3650 days",
}
"""Table properties that keep old versions readable: releases and training sets pin them for years.

By default the log is cleaned up after 30 days. delta-spark 4.1 refuses versions older than
`deletedFileRetentionDuration`, a week by default, even where their files exist, and other tools vacuum by it. Our own
vacuum keeps pinned versions, and takes its own number of days for the others.
"""
STREAM_RETENTION = {
    "delta.logRetentionDuration": "interval 3 days",
    "delta.deletedFileRetentionDuration": "interval 1 days",
}
"""The same for a table with a topic, of which no release pins a version. At a commit every two seconds, the log would
have 300,000 files after a week, and listing them takes 0.15 s. A run that comes later than that reads the whole table.
"""
FENCE = "millrace"
"""Delta transaction id of every commit; its version is the table version that the commit makes. Spark refuses the
statement of a killed client whose version is taken.
"""


class PublishError(RuntimeError):
    """The commit was refused; the table is unchanged."""


class SchemaError(PublishError):
    """The published table and the contract differ in these columns, in a way that no commit can bring together."""

    def __init__(self, message: str, columns: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.columns = tuple(columns)


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock of a table, or of another name, among all processes that share the lake."""
    try:
        with storage.locked(settings.lake() / "_locks" / f"{name}.lock", LOCK_SECONDS):
            yield
    except LockedError:
        raise PublishError(
            f"{name}: another process has held the lock for {LOCK_SECONDS} s. Wait for the other run to end, or end it,"
            " then run again"
        ) from None


def arrow_type(column_type: Type) -> pa.DataType:
    """The Arrow type of a contract's type."""
    import pyarrow as pa

    if isinstance(column_type, DecimalType):
        return pa.decimal128(column_type.precision, column_type.scale)
    arrow_types = {
        LONG: pa.int64(),
        STRING: pa.string(),
        DOUBLE: pa.float64(),
        BOOLEAN: pa.bool_(),
        DATE: pa.date32(),
        TIMESTAMP: pa.timestamp("us", tz="UTC"),
    }
    return arrow_types[column_type]


def arrow_schema(contract: Table) -> pa.Schema:
    """The table's columns: required ones not nullable, comment and PII tag as field metadata, which Delta keeps."""
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
    """The table; a new one is created empty, with the contract's schema. PublishError for a table of another schema."""
    from deltalake import DeltaTable

    table = delta.open_to_write(contract.qualified)
    if table is not None:
        ensure_schema(contract, table)
        return table
    path = settings.table_path(contract.qualified)
    storage.make_folder(path)
    return DeltaTable.create(
        str(path),
        schema=arrow_schema(contract),
        name=contract.qualified,
        description=f"{contract.doc}; {contract.grain}. Owner: {contract.owner}",
        configuration=dict(retention(contract)),
    )


def retention(contract: Table) -> dict[str, str]:
    """The table properties that say how long old versions are kept."""
    return STREAM_RETENTION if contract.topic else RETENTION


def ensure_retention(contract: Table, table: DeltaTable, properties: CommitProperties) -> None:
    """Set the properties of `retention` on a table that has others, as of an earlier release, in one commit."""
    current = table.metadata().configuration
    if missing := {name: value for name, value in retention(contract).items() if current.get(name) != value}:
        table.alter.set_table_properties(missing, commit_properties=properties)
        table.update_incremental()


def ensure_schema(contract: Table, table: DeltaTable) -> None:
    """Raise SchemaError unless the published table has the contract's columns and types, or lacks only columns that can
    be added.

    Bronze takes optional columns, which older rows do not have (see `take_columns`). Tables of silver and gold take any
    column: a new one changes the fingerprint of their code, so all of their rows are computed again, and `publish`
    replaces rows and columns in one commit.
    """
    got, expected = _types(table), {field.name: str(field.type) for field in arrow_schema(contract)}
    differing = sorted(name for name in got.keys() | expected.keys() if got.get(name) != expected.get(name))
    wrong = [name for name in differing if name in got or not _is_addable(contract, name)]
    if not wrong:
        return
    lacked = [name for name in differing if name not in got]
    raise SchemaError(
        f"{contract.qualified}: the published table and contracts/{contract.layer}/{contract.name}.py differ in"
        f" {', '.join(_difference(name, got.get(name), expected.get(name)) for name in wrong)}."
        f" Remove {settings.table_path(contract.qualified)}, then run again: the table is rebuilt as a whole from"
        f" {_upstream(contract)}. Former releases and training sets cannot read it afterwards: copy the folder"
        f" first if you need them. Or change the contract{_in_contract(contract, wrong, lacked, got, expected)}",
        wrong,
    )


def _types(table: DeltaTable) -> dict[str, str]:
    """Column -> Arrow type of a published table."""
    import pyarrow as pa

    return {field.name: str(field.type) for field in pa.schema(table.schema().to_arrow())}


def _is_addable(contract: Table, name: str) -> bool:
    """Whether a published table without the column takes it."""
    return contract.layer in (Layer.SILVER, Layer.GOLD) or (
        contract.layer == Layer.BRONZE and not contract.column(name).required
    )


def missing_columns(contract: Table, table: DeltaTable) -> list[Column]:
    """The contract's columns that the published table lacks."""
    got = _types(table)
    return [column for column in contract.columns if column.name not in got]


def take_columns(contract: Table) -> None:
    """Add the optional columns that the contract of a published bronze table has gained, in a commit of its own that
    changes no row: rows that were published before have NULL there. SchemaError for any other difference.

    The caller holds the table's lock. delta-rs commits it on every engine: Sail ignores `mergeSchema`.
    """
    from deltalake import CommitProperties, Schema

    table = delta.open_to_write(contract.qualified)
    if table is None:
        return
    ensure_schema(contract, table)
    names = {column.name for column in missing_columns(contract, table)}
    if not names:
        return
    import pyarrow as pa

    fields = [field for field in arrow_schema(contract) if field.name in names]
    last = delta.last_commit(table)
    metadata = changed(last, run_id=delta.ADDED_COLUMNS, changed_days=()) if last else None
    table.alter.add_columns(
        list(Schema.from_arrow(pa.schema(fields)).fields),
        commit_properties=CommitProperties(
            custom_metadata={METADATA_KEY: (metadata or CommitMetadata(delta.ADDED_COLUMNS)).to_json()},
            app_transactions=fence_transactions(table),
            max_commit_retries=0,
        ),
    )
    finish_commit(contract, table)


def _difference(name: str, got: str | None, expected: str | None) -> str:
    """How a column of the published table differs from the contract."""
    if got is None:
        return f"{name} {expected} (which the table lacks)"
    if expected is None:
        return f"{name} {got} (which the contract lacks)"
    return f"{name} {got} (the contract says {expected})"


def _in_contract(
    contract: Table, wrong: Sequence[str], lacked: Sequence[str], got: Mapping[str, str], expected: Mapping[str, str]
) -> str:
    """What to change in the contract of a bronze table, which may hold what its sources no longer have."""
    if contract.layer != Layer.BRONZE:
        return " back"
    remedies = []
    for name in wrong:
        if name not in got:
            remedies.append(f"declare {name} optional, and require it in silver (rows published before lack it)")
        elif name in expected:
            remedies.append(f"give {name} its type back, and cast it in silver")
        else:
            near = [other for other in lacked if expected[other] == got[name]]
            renamed = f', with source="{near[0]}" if it is called {near[0]} now' if len(near) == 1 else ""
            remedies.append(f"declare {name} again{renamed} (files and messages without it have NULL there)")
    return f": {'; '.join(remedies)}"


def _upstream(contract: Table) -> str:
    """What the table is rebuilt from, in words."""
    return (
        ", ".join(contract.inputs)
        or f"the landing zone by a run over all of its days, {settings.landing() / contract.name}"
    )


def publish(
    contract: Table,
    staged: Sequence[Path],
    metadata: CommitMetadata,
    *,
    base: int | None,
    replace: Sequence[Interval] = (),
    whole: bool = False,
    transactions: Mapping[str, int] | None = None,
) -> int:
    """Commit the staged files and return the version that holds them.

    `replace` names the days whose old rows are removed; `whole` removes all; with neither, rows are appended.
    `transactions` are application transactions, id -> version, of the same commit. `base` is the version that the rows
    were computed from (None for a new table): PublishError when the table has a newer one, and nothing is written. The
    caller holds the table's lock.
    """
    table = open_at(contract, base)
    added = [_move_into_table(contract, path) for path in staged]
    if missing_columns(contract, table) and (staged or whole):
        if not whole:
            raise SchemaError(
                f"{contract.qualified}: the contract has gained columns while this run worked. Run the interval again"
            )
        _commit(table, contract, added, None, metadata, transactions or {})
        return finish_commit(contract, table)
    removed = _files_to_remove(table, contract, replace, whole)
    partly_replaced = [file for file, partly in removed if partly]
    if partly_replaced:
        added += _rewrite_kept_rows(contract, partly_replaced, replace)
    _commit(table, contract, added, [file for file, _ in removed], metadata, transactions or {})
    return finish_commit(contract, table)


def open_at(contract: Table, base: int | None) -> DeltaTable:
    """The table at version `base`, created when that is None; PublishError when it has another, even while opening."""
    ensure_version(contract, base, delta.version_of(contract.qualified))
    table = open_or_create(contract)
    ensure_version(contract, base or 0, table.version())
    return table


def ensure_version(contract: Table, base: int | None, version: int | None) -> None:
    """Raise PublishError unless the table is at the version that the rows were computed from."""
    if version != base:
        raise PublishError(
            f"{contract.qualified}: the table moved from version {base} to {version} while this run worked. Nothing was"
            " written; run the interval again"
        )


def fence_transactions(table: DeltaTable) -> list[Any]:
    """The transactions of the table's next commit (see FENCE)."""
    from deltalake import Transaction

    return [Transaction(FENCE, table.version() + 1)]


def finish_commit(contract: Table, table: DeltaTable) -> int:
    """fsync and cache the version that was just committed; a checkpoint where one is due. Returns the version."""
    table.update_incremental()
    version: int = table.version()
    sync_log(contract.qualified, version)
    if version and version % CHECKPOINT_EVERY == 0:
        write_checkpoint(contract, table)
    delta.remember(contract.qualified, table)
    return version


def write_checkpoint(contract: Table, table: DeltaTable) -> None:
    """Write a checkpoint, best effort: the commit is valid without it."""
    from deltalake.exceptions import DeltaError

    log = settings.table_path(contract.qualified) / "_delta_log"
    with suppress(DeltaError, OSError):
        table.create_checkpoint()
        for path in (log / f"{table.version():020}.checkpoint.parquet", log / "_last_checkpoint", log):
            storage.sync(path)


def sync_log(qualified: str, version: int) -> None:
    """fsync a commit, which Delta writers do not."""
    root = settings.table_path(qualified)
    for path in (root, root / "_delta_log" / f"{version:020}.json", root / "_delta_log"):
        storage.sync(path)


def _files_to_remove(
    table: DeltaTable, contract: Table, replace: Sequence[Interval], whole: bool
) -> list[tuple[dict[str, Any], bool]]:
    """The files to remove, each with whether it also has rows of other days."""
    if not whole and not replace:
        return []
    if whole:
        return [(file, False) for file in delta.data_files(table)]
    files = delta.file_days(table, contract, delta.on_days(contract.time_column, replace))
    return [(file, not any(days.start <= low and high < days.end for days in replace)) for file, low, high, _ in files]


def _rewrite_kept_rows(contract: Table, files: list[dict[str, Any]], replace: Sequence[Interval]) -> list[Any]:
    """Write the rows that the files have outside of the replaced days to new files."""
    import duckdb
    import pyarrow.parquet as pq

    root = settings.table_path(contract.qualified)
    added = []
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
                    pq.write_table(rows.cast(nullable_schema(contract)), output, compression="zstd")
                added.append(_add_action(contract, target))
    return added


def nullable_schema(contract: Table) -> pa.Schema:
    """The schema of data files: every column is nullable, because the audit, not the file, enforces `required`."""
    import pyarrow as pa

    return pa.schema([pa.field(c.name, arrow_type(c.type)) for c in contract.columns])


def days_sql(contract: Table, days: Sequence[Interval]) -> str:
    """A SQL condition for DuckDB and Spark: the row's time lies in one of the intervals. Sessions must be in UTC."""
    column = contract.time_column
    return (
        " OR ".join(
            f"({column} >= {_literal(contract, interval.start)} AND {column} < {_literal(contract, interval.end)})"
            for interval in days
        )
        or "false"
    )


def _literal(contract: Table, day: date) -> str:
    column_type = contract.column(contract.time_column or "").type
    return f"DATE '{day}'" if column_type == DATE else f"TIMESTAMP '{day} 00:00:00'"


def _move_into_table(contract: Table, staged: Path) -> Any:
    target = settings.table_path(contract.qualified) / f"part-{uuid.uuid4()}.zst.parquet"
    storage.move(staged, target)
    return _add_action(contract, target)


def _add_action(contract: Table, path: Path) -> Any:
    from deltalake.transaction import AddAction

    return AddAction(
        path.name, path.stat().st_size, {}, int(time.time() * 1000), True, json.dumps(_statistics(contract, path))
    )


def _statistics(contract: Table, path: Path) -> dict[str, Any]:
    """The file's statistics in the format of the Delta log, from its parquet footer.

    Strings get no bounds, because readers compare them differently; doubles and decimals none, because JSON may round.
    """
    footer = storage.footer(path)
    positions = {footer.schema.column(i).name: i for i in range(footer.num_columns)}
    row_groups = [footer.row_group(i) for i in range(footer.num_row_groups)]
    result: dict[str, Any] = {"numRecords": footer.num_rows, "minValues": {}, "maxValues": {}, "nullCount": {}}
    for column in contract.columns:
        chunks = [group.column(positions[column.name]).statistics for group in row_groups if group.num_rows]
        if not chunks or any(chunk is None or not chunk.has_null_count for chunk in chunks):
            continue
        result["nullCount"][column.name] = sum(chunk.null_count for chunk in chunks)
        bounded = [chunk for chunk in chunks if chunk.has_min_max]
        if bounded and column.type not in (STRING, DOUBLE, BOOLEAN) and not isinstance(column.type, DecimalType):
            result["minValues"][column.name] = _json_value(min(chunk.min for chunk in bounded))
            result["maxValues"][column.name] = _json_value(max(chunk.max for chunk in bounded))
    return result


def _json_value(value: Any) -> Any:
    if isinstance(value, datetime):
        return f"{value.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"
    if isinstance(value, date):
        return value.isoformat()
    return value


def _commit(
    table: DeltaTable,
    contract: Table,
    added: list[Any],
    removed: list[dict[str, Any]] | None,
    metadata: CommitMetadata,
    transactions: Mapping[str, int],
) -> None:
    """Commit these files; without `removed`, they and the contract's columns replace all that the table had."""
    from deltalake import CommitProperties, Transaction
    from deltalake.exceptions import CommitFailedError
    from deltalake.transaction import RemoveAction

    now = int(time.time() * 1000)
    remove_actions = [
        RemoveAction(file["path"], deletion_timestamp=now, data_change=True, size=file["size_bytes"])
        for file in removed or ()
    ]
    properties = CommitProperties(
        custom_metadata={METADATA_KEY: metadata.to_json()},
        app_transactions=[
            *fence_transactions(table),
            *(Transaction(name, version) for name, version in transactions.items()),
        ],
        max_commit_retries=0,
    )
    try:
        table.create_write_transaction(
            [*added, *remove_actions],
            "append" if removed is not None else "overwrite",
            table.schema() if removed is not None else arrow_schema(contract),
            commit_properties=properties,
        )
    except CommitFailedError as error:
        raise PublishError(
            f"{contract.qualified}: another writer committed at the same time ({error}). Nothing was written; run the"
            " interval again"
        ) from error

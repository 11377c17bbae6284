"""Quarantine: rejected rows as JSON, with their reasons, in `<lake>/quarantine/<name>`.

A run replaces the rows of its files or days. It does so before it publishes the table: if it is killed in between, the
rerun replaces the quarantined rows again, and no row is lost.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from contracts.model import Layer
from etl.planning import Plan
from etl.staged import Staged
from lake import delta, settings, storage
from lake.publishing import locked

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            pa.field("layer", pa.string(), metadata={"comment": "Layer that rejected the row"}),
            pa.field("day", pa.date32(), metadata={"comment": "Day the row belongs to; the day of landing in bronze"}),
            pa.field("file", pa.string(), metadata={"comment": "Landed file, where the layer is bronze"}),
            pa.field("reasons", pa.list_(pa.string()), metadata={"comment": "Every check that the row breaks"}),
            pa.field("row", pa.string(), metadata={"comment": "The row as JSON"}),
            pa.field("run_id", pa.string(), metadata={"comment": "Run that rejected the row"}),
            pa.field("quarantined_at", pa.timestamp("us", tz="UTC"), metadata={"comment": "When it was rejected"}),
        ]
    )


def replace(staged: Staged, bad: DataFrame | None, run_id: str) -> tuple[int | None, int]:
    """Replace the rows that earlier runs rejected for the same files or days with the rejected rows of this run.

    Returns the version of the quarantine table (None when there is none) and the number of rejected rows.
    """
    from deltalake import CommitProperties, write_deltalake

    name = f"{Layer.QUARANTINE}.{staged.table.name}"
    rows = [*_unreadable_rows(staged), *_bad_rows(staged, bad)]
    with locked(name):
        exists = delta.open_table(name) is not None
        if not rows and not exists:
            return None, 0
        predicate = _predicate(staged)
        if not rows and not _has_rows(name, predicate):
            return delta.version_of(name), 0
        now = datetime.now(UTC)
        table = _table(
            [{**row, "layer": str(staged.table.layer), "run_id": run_id, "quarantined_at": now} for row in rows]
        )
        path = settings.table_path(name)
        storage.make_folder(path)
        write_deltalake(
            str(path),
            table,
            mode="overwrite" if exists else "append",
            predicate=predicate if exists else None,
            name=name,
            description=f"Rows of {staged.table.name} that broke a critical check, with the reasons",
            configuration={"delta.logRetentionDuration": "interval 3650 days"},
            commit_properties=CommitProperties(custom_metadata={"run_id": run_id}),
        )
        return delta.version_of(name), len(rows)


def _table(rows: list[dict[str, Any]]) -> pa.Table:
    import pyarrow as pa

    return pa.Table.from_pylist(rows, schema=_schema())


def _predicate(staged: Staged) -> str:
    """The SQL condition for the quarantined rows that this run replaces: those of its files, messages or days."""
    layer = f"layer = '{staged.table.layer}'"
    if staged.table.layer == Layer.BRONZE:
        if staged.spans:
            within = " OR ".join(f"(file >= '{first}' AND file <= '{last}')" for first, last in staged.spans)
            return f"{layer} AND ({within})"
        names = ", ".join("'" + name.replace("'", "''") + "'" for name in staged.files)
        return f"{layer} AND file IN ({names or chr(39) * 2})"
    if staged.plan.whole or not staged.table.time_column:
        return layer
    days = " OR ".join(
        f"(day >= DATE '{interval.start}' AND day < DATE '{interval.end}')" for interval in staged.plan.days
    )
    return f"{layer} AND ({days or 'false'})"


def _has_rows(name: str, predicate: str) -> bool:
    import duckdb

    table = delta.open_table(name)
    if table is None:
        return False
    files = table.file_uris()
    if not files:
        return False
    with storage.readable(duckdb.connect(), settings.lake()) as con:
        return bool(
            con.execute(f"SELECT count(*) > 0 FROM read_parquet(?) WHERE {predicate}", [files]).fetchall()[0][0]
        )


def _unreadable_rows(staged: Staged) -> list[dict[str, Any]]:
    """The rows with a cell that did not fit its column."""
    return [
        {"day": rejected.day, "file": rejected.file, "reasons": list(rejected.reasons), "row": rejected.row}
        for rejected in staged.rejected
    ]


def _bad_rows(staged: Staged, bad: DataFrame | None) -> Sequence[dict[str, Any]]:
    """The rows that failed a critical check."""
    if bad is None:
        return []
    rows = []
    for row in bad.toArrow().to_pylist():
        reasons = row.pop("reasons")
        rows.append(
            {
                "day": _day(staged.plan, row),
                "file": row.get("_file"),
                "reasons": reasons,
                "row": json.dumps(row, default=str),
            }
        )
    return rows


def _day(plan: Plan, row: dict[str, Any]) -> Any:
    column = "_landed_date" if plan.table.layer == Layer.BRONZE else plan.table.time_column
    value = row.get(column) if column else None
    if value is None and plan.days:
        return plan.days[0].start  # a row without a time belongs to the run that rejected it
    return value.date() if isinstance(value, datetime) else value

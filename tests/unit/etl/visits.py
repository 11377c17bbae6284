"""A table that is no table of the shop: a column of every type, staged and published row by row."""

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from contracts.interval import Interval
from contracts.model import BOOLEAN, DATE, DOUBLE, LONG, STRING, TIMESTAMP, Column, Layer, Pii, Table, decimal
from lake import delta, publishing, settings, storage
from lake.delta import CommitMetadata

VISITS = Table(
    layer=Layer.SILVER,
    name="visits",
    doc="Visits to the mill",
    grain="one row per visit",
    owner="miller",
    freshness=timedelta(days=1),
    key=("visit_id",),
    time_column="visited_at",
    inputs=("bronze.visits",),
    columns=(
        Column("visit_id", LONG, "Visit", required=True),
        Column("visited_at", TIMESTAMP, "When the gate opened", required=True),
        Column("booked_date", DATE, "Day of the booking"),
        Column("paid", decimal(12, 2), "What was paid", unit="USD"),
        Column("weight", DOUBLE, "Weight of the sack", unit="kg"),
        Column("is_member", BOOLEAN, "Whether the visitor is a member"),
        Column("visitor", STRING, "Who came", pii=Pii.PSEUDONYM),
    ),
)
NAMES = VISITS.column_names
SCHEMA = pa.schema([(column.name, publishing.arrow_type(column.type)) for column in VISITS.columns])


def at(text: str) -> datetime:
    """`at("2017-03-01 10:00")`, UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def visit(number: int, when: str = "2017-03-01 10:00", **other: Any) -> dict[str, Any]:
    """A valid row."""
    row = {
        "visit_id": number,
        "visited_at": at(when),
        "booked_date": date(2017, 2, 1),
        "paid": Decimal("1.50"),
        "weight": 0.5,
        "is_member": True,
        "visitor": "ada",
    }
    return {**row, **other}


def staged(*rows: dict[str, Any], name: str = "a", group: int = 1 << 20) -> Path:
    """A parquet file with these rows, on the table's file system and outside of its log."""
    path = settings.table_path("silver.visits") / "_stage" / f"{name}.parquet"
    storage.make_folder(path.parent)
    with path.open("wb") as file:
        pq.write_table(pa.Table.from_pylist([*rows], schema=SCHEMA), file, row_group_size=group)
    return path


def publish(
    *rows: dict[str, Any], days: tuple[Interval, ...] = (), state: CommitMetadata | None = None, **other: Any
) -> int:
    """Publish these rows in one file on the newest version."""
    base = delta.version_of("silver.visits")
    return publishing.publish(
        VISITS,
        [staged(*rows)] if rows else [],
        state or CommitMetadata("run", changed_days=days),
        base=base,
        replace=days,
        **other,
    )


def of(start: str, end: str) -> Interval:
    """`of("2017-03-01", "2017-03-02")`."""
    return Interval.parse(start, end)

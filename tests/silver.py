"""Bronze rows in, silver rows out: what the tests of every project's silver tables share."""

from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from contracts import catalog
from etl import engine, stage
from etl.silver import PROVENANCE
from lake import publishing

LANDED = {"_file": "a.csv", "_landed_date": date(2017, 3, 1), "_loaded_at": datetime(2017, 3, 1, 6, tzinfo=UTC)}
FRESH = {"_file": "b.csv", "_landed_date": date(2017, 3, 2), "_loaded_at": datetime(2017, 3, 2, 6, tzinfo=UTC)}


def bronze(name: str, *rows: dict[str, Any]) -> Any:
    """Rows of a bronze table; what a row does not give is NULL."""
    schema = pa.schema(
        [(column.name, publishing.arrow_type(column.type)) for column in catalog.table(f"bronze.{name}").columns]
    )
    return engine.session().createDataFrame(pa.Table.from_pylist([{**LANDED, **row} for row in rows], schema=schema))


def clean(name: str, *frames: Any) -> Any:
    """The rows of a silver table, with their provenance."""
    return stage.clean(catalog.table(f"silver.{name}"), *frames)


def out(frame: Any, *order: str) -> list[dict[str, Any]]:
    """The rows without their provenance, which staging drops."""
    assert [*frame.columns][-3:] == [*PROVENANCE]
    rows = frame.drop(*PROVENANCE)
    return (rows.orderBy(*order) if order else rows).toArrow().to_pylist()

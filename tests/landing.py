"""Write landed files row by row, and read tables back as rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from lake import storage

DAY = date(2017, 3, 1)


@dataclass
class LandingZone:
    """A landing zone at `root`. A subclass says what columns the files of its project have."""

    root: Path
    columns: ClassVar[Mapping[str, pa.Schema]] = {}
    """Table -> the columns of its files."""

    def path(self, table: str, day: date | str = DAY, name: str | None = None, suffix: str = ".parquet") -> Path:
        """Where a file lies, whether it exists or not."""
        return self.root / table / str(day) / f"{name or table}{suffix}"

    def land(
        self,
        table: str,
        rows: list[dict[str, Any]] | pa.Table,
        day: date | str = DAY,
        name: str | None = None,
        suffix: str = ".parquet",
    ) -> Path:
        """Write a file of these rows; columns that a row does not give are NULL. Give an Arrow table for columns of
        another shape.
        """
        path = self.path(table, day, name, suffix)
        storage.make_folder(path.parent)
        data = rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows, schema=self.columns[table])
        with path.open("wb") as file:
            (csv.write_csv if suffix == ".csv" else pq.write_table)(data, file)
        return path


def rows(qualified: str, order: str = "ALL", version: int | None = None, where: str = "true") -> list[dict[str, Any]]:
    """The published rows of a table (or a quarantine table), sorted; read by DuckDB, not by the engine under test."""
    import duckdb
    from deltalake import DeltaTable

    from lake import settings

    table = DeltaTable(str(settings.table_path(qualified)), version=version)
    files = table.file_uris()
    if not files:
        return []
    with duckdb.connect() as con:
        con.execute("SET TimeZone='UTC'")
        return (
            con.sql(f"SELECT * FROM read_parquet(?) WHERE {where} ORDER BY {order}", params=[files])
            .to_arrow_table()
            .to_pylist()
        )


def versions() -> dict[str, int]:
    """The newest version of every table in the lake, quarantine included."""
    from deltalake import DeltaTable

    from lake import settings

    logs = settings.lake().glob("*/*/_delta_log")
    return {f"{log.parent.parent.name}.{log.parent.name}": DeltaTable(str(log.parent)).version() for log in logs}

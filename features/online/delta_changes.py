"""Changes of a view between two releases: the entities whose newest row may differ.

They come from the files of the two Delta versions rather than from event times, so late, corrected and deleted rows are
included.
"""

from __future__ import annotations

from datetime import date, timedelta

from feast import FeatureView

from contracts.interval import midnight
from features import queries
from features.lake_reader import LakeReader, is_plain
from features.online.generation import GenerationMetadata
from features.online.store import row_schema_of
from lake import settings
from lake.sql import identifier, parquet

CHANGED = "changed"
A_MOMENT = timedelta(microseconds=1)


def between(before: GenerationMetadata, reader: LakeReader, view: FeatureView) -> int | None:
    """Write the keys that changed from the generation `before` to the reader's release into a DuckDB table CHANGED.

    Returns their number; None when it cannot be determined: the horizon moved back, a version or its files are gone, or
    a table has Delta features by which a file changes in place. A key counts when one of its rows is in an added or
    removed file, or became known because the horizon advanced.
    """
    import duckdb  # here, as in lake_reader.py
    from deltalake.exceptions import DeltaError

    source, table = view.batch_source, view.batch_source.table
    if before.horizon is None or table not in before.tables or before.horizon > reader.release.horizon:
        return None
    if before.ids.get(table) != reader.release.ids.get(table):
        return None
    try:
        files = _differing(table, before.tables[table], reader.release.tables[table])
    except DeltaError:
        return None
    if files is None:
        return None
    names = ", ".join(identifier(source.column(name)) for name in row_schema_of(view).keys)
    parts = [f"SELECT {names} FROM {parquet(files)}"] if files else []
    if before.horizon < reader.release.horizon:
        since, until = (midnight(date.fromisoformat(horizon)) for horizon in (before.horizon, reader.release.horizon))
        parts.append(
            f"SELECT {names} FROM {reader.table(table)} WHERE"
            f" {queries.between(source.event_column, since + A_MOMENT, until)}"
        )
    parts = parts or [f"SELECT {names} FROM {reader.table(table)} WHERE false"]
    try:
        reader.connection.execute(
            f"CREATE OR REPLACE TEMPORARY TABLE {CHANGED} AS SELECT DISTINCT * FROM"
            f" ({' UNION ALL BY NAME '.join(parts)})"
        )
    except (duckdb.IOException, duckdb.BinderException):  # a file that was removed, or that lacks a key
        return None
    count: int = reader.connection.execute(f"SELECT count(*) FROM {CHANGED}").fetchall()[0][0]
    return count


def _differing(table: str, before: int, after: int) -> list[str] | None:
    """Files that only one of the two versions has; None when a version is more than its files."""
    from deltalake import DeltaTable

    path = str(settings.table_path(table))
    versions = [DeltaTable(path, version=number) for number in (before, after)]
    if not all(map(is_plain, versions)):
        return None
    return sorted({*versions[0].file_uris()} ^ {*versions[1].file_uris()})

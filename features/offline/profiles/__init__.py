"""Profiles: statistics of a table's columns, counted by DuckDB or data frames with the same result."""

from features.lake_reader import LakeReader
from features.offline.profiles import by_duckdb, by_frames
from features.offline.profiles.model import Profile

__all__ = ["Profile", "of"]


def of(reader: LakeReader, qualified: str, by: str) -> Profile:
    """The profile of a table of the reader's release; `by` is `duckdb` or `cudf`, or `pandas` in tests."""
    table = reader.table(qualified)
    return (
        by_duckdb.profile(reader.connection, table)
        if by == "duckdb"
        else by_frames.profile(by, reader.connection, table)
    )

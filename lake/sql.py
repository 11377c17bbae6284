"""SQL quoting, and parquet files as one table."""

from collections.abc import Iterable


def identifier(name: str) -> str:
    """`name` quoted as an identifier, for DuckDB and sqlite."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` quoted as a string."""
    return "'" + text.replace("'", "''") + "'"


def parquet(files: Iterable[str]) -> str:
    """A DuckDB table of these files; a column that a file lacks is NULL in its rows."""
    return f"read_parquet([{', '.join(map(literal, files))}], union_by_name = true)"

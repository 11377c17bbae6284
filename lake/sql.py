"""Pieces of SQL that every query of ours shares: quoted names and texts, and files as one table."""

from collections.abc import Iterable


def identifier(name: str) -> str:
    """`name` as SQL quotes it, for DuckDB and sqlite alike."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` as SQL quotes it."""
    return "'" + text.replace("'", "''") + "'"


def parquet(files: Iterable[str]) -> str:
    """These files as one table, in which a file without a column has NULLs."""
    return f"read_parquet([{', '.join(map(literal, files))}], union_by_name = true)"

"""Create projects and tables: copy a project under another name, and propose contracts for a landed file."""

from __future__ import annotations

import json
import keyword
import re
import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contracts import project
from contracts.check import is_keyword
from contracts.model import NAME
from contracts.project import Project, ProjectError
from lake.sql import identifier

STARTER, EXAMPLE = (project.CHECKOUT / "examples" / name for name in ("starter", "grocery"))
IGNORED = ("*.pyc", "__pycache__", ".pytest_cache")


class ProposalError(ValueError):
    """No contract can be proposed for the file; the message says why."""


def init(folder: Path, example: bool = False) -> Project:
    """Create a project that runs at once: a small one, or the grocery example. The folder's name becomes its name.

    ProjectError if the folder is not empty, or if its name is invalid or taken.
    """
    folder = folder.expanduser().absolute()
    if folder.exists() and any(folder.iterdir()):
        raise ProjectError(f"{folder} is there already and is not empty. Name a new folder")
    name = re.sub(r"\W+", "_", folder.name.lower()).strip("_")
    if not NAME.fullmatch(name) or keyword.iskeyword(name):
        raise ProjectError(
            f"{folder.name} gives no name for a project. Name a folder that begins with a letter, such as shop"
        )
    project.ensure_name_is_free(name, folder / project.FILE)
    source = EXAMPLE if example else STARTER
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(*IGNORED), dirs_exist_ok=True)
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".py", ".toml"):
            path.write_text(re.sub(rf"\b{source.name}\b", name, path.read_text()))
    return project.load(folder)


# --- contracts from a landed file


@dataclass(frozen=True)
class FileColumn:
    """A column of a landed file, with its DuckDB type (`kind`) and its statistics."""

    name: str
    kind: str
    nulls: int
    distinct: int
    low: Any
    high: Any
    is_money: bool = False
    """Whether it has fractional numbers, with at most two decimal places."""
    shared: int = 0
    """Rows whose value another row has, too."""
    other_dates: tuple[tuple[str, int], ...] = ()
    """Cells of a date or time column that do not land as such: (format, cells)."""

    @property
    def lower(self) -> str:
        """Its name in contracts: `orderDate` and `Order Date` become `order_date`, and a SQL keyword such as `order`
        becomes `order_`.
        """
        spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", self.name)
        lower = re.sub(r"\W+", "_", spaced).strip("_").lower()
        return f"{lower}_" if NAME.fullmatch(lower) and is_keyword(lower) else lower


COLUMN_TYPES = {
    "BIGINT": "LONG",
    "INTEGER": "LONG",
    "SMALLINT": "LONG",
    "TINYINT": "LONG",
    "UINTEGER": "LONG",
    "USMALLINT": "LONG",
    "UTINYINT": "LONG",
    "DOUBLE": "DOUBLE",
    "FLOAT": "DOUBLE",
    "BOOLEAN": "BOOLEAN",
    "DATE": "DATE",
    "VARCHAR": "STRING",
    "UUID": "STRING",
}
"""DuckDB's types -> contract types; `_type` maps timestamps and decimals."""


DAY_PATTERN = "[0-9]{4}-[0-9]{2}-[0-9]{2}"
TIME_PATTERN = f"{DAY_PATTERN}([ T][0-9]{{2}}(:[0-9]{{2}}(:[0-9]{{2}}(\\.[0-9]+)?)?)?(Z|[+-][0-9:]+)?)?"
"""Dates and times as the landing zone accepts them in a CSV file."""
OTHER_DATES = {
    "YYYY/MM/DD": "[0-9]{4}/[0-9]{1,2}/[0-9]{1,2}.*",
    "DD.MM.YYYY": "[0-9]{1,2}\\.[0-9]{1,2}\\.[0-9]{4}.*",
    "DD/MM/YYYY or MM/DD/YYYY": "[0-9]{1,2}/[0-9]{1,2}/[0-9]{4}.*",
    "of another format": ".*",
}
SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
"""What separates cells in other programs' files."""


def propose(layer: str, name: str, file: Path, snapshot: bool = False) -> dict[Path, str]:
    """Propose contracts, and a test, for a table like this landed file: path in the project -> text. Writes nothing.

    With `snapshot`, each file is the table's whole state; otherwise a file with a time holds events. A proposal states
    what the file shows: types, columns without NULL, a key, ranges. Its reader decides what the contract should
    promise. ProposalError for a file or name that cannot be used.
    """
    if not NAME.fullmatch(name):
        raise ProposalError(
            f"{name!r} is no name of a table. A name is lower case letters, digits and underscores, such as orders"
        )
    columns, rows = _inspect(file)
    _ensure_valid_headers(file, columns)
    files = {Path(f"contracts/bronze/{name}.py"): _bronze(name, columns, rows, snapshot)}
    if layer == "silver":
        files[Path(f"contracts/silver/{name}.py")] = _silver(name, columns, rows, snapshot)
        files[Path(f"tests/test_{name}.py")] = _test(name, file)
    return files


def _ensure_valid_headers(file: Path, columns: list[FileColumn]) -> None:
    names = [column.lower for column in columns]
    invalid = [
        column.name
        for column in columns
        if not NAME.fullmatch(column.lower) or names.count(column.lower) > 1 or '"' in column.name
    ]
    if invalid:
        raise ProposalError(
            f"{file}: no names of columns can be made of {', '.join(map(repr, invalid))}. A name has letters from a to"
            " z, digits and underscores, and comes once: write the contract by hand, with the header as `source`"
        )


def write(into: Project, files: dict[Path, str]) -> list[Path]:
    """Write the files that do not exist yet, and return their paths."""
    written = []
    for relative, text in files.items():
        path = into.root / relative
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            written.append(path)
    return written


def _inspect(file: Path) -> tuple[list[FileColumn], int]:
    """The file's columns and its rows, without exact duplicates: a run publishes one of these."""
    import duckdb

    # Dates are recognized by `_find_dates`: DuckDB accepts formats that do not land.
    types = "auto_type_candidates=['BOOLEAN', 'BIGINT', 'DOUBLE', 'VARCHAR']"
    readers = {
        ".csv": f"read_csv(?, sample_size=-1, delim=',', header=true, {types})",
        ".parquet": "read_parquet(?)",
    }
    if file.suffix not in readers:
        raise ProposalError(f"{file} is neither .csv nor .parquet, and only these land")
    if file.suffix == ".csv":
        _ensure_commas(file)
    with duckdb.connect() as con:
        try:
            con.execute(f"CREATE TABLE landed AS SELECT DISTINCT * FROM {readers[file.suffix]}", [str(file)])
        except duckdb.Error as error:
            raise ProposalError(f"{file} cannot be read: {str(error).splitlines()[0]}") from error
        rows = con.execute("SELECT count(*) FROM landed").fetchall()[0][0]
        if not rows:
            raise ProposalError(f"{file} has no rows, so it shows nothing. Name a file with rows")
        return [
            _inspect_column(con, name, kind)
            for name, kind in con.execute(
                "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 'landed'"
            ).fetchall()
        ], rows


def _ensure_commas(file: Path) -> None:
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            header = re.sub(r'"[^"]*"', "", lines.readline())
    except OSError as error:
        raise ProposalError(f"{file} cannot be read: {error.strerror}") from error
    separator = max(SEPARATORS, key=header.count)
    if header.count(separator) > header.count(","):
        converted = file.with_name(f"comma_{file.name}")
        read, written, cells = (json.dumps(text) for text in (str(file), str(converted), separator))
        code = f'import duckdb; duckdb.read_csv({read}, sep={cells}, decimal=",").write_csv({written})'
        raise ProposalError(
            f"{file}: {SEPARATORS[separator]} separate its cells, and only commas do so in a file that lands. Convert"
            f" it, and land the converted file: python -c {shlex.quote(code)}. Without decimal, if its numbers have a"
            " decimal point"
        )


def _inspect_column(con: Any, name: str, kind: str) -> FileColumn:
    quoted, nulls = identifier(name), None
    other_dates: tuple[tuple[str, int], ...] = ()
    if kind == "VARCHAR":
        nulls = con.execute(f"SELECT count(*) - count({quoted}) FROM landed").fetchall()[0][0]
        kind, other_dates = _find_dates(con, quoted)
    counts = con.execute(
        f"SELECT count(*) - count({quoted}), count(DISTINCT {quoted}), min({quoted}), max({quoted}) FROM landed"
    ).fetchall()[0]
    empty, distinct, low, high = counts
    alone = f"SELECT count(*) FROM (FROM landed SELECT {quoted} GROUP BY ALL HAVING count(*) = 1)"
    number = kind in ("DOUBLE", "FLOAT") or kind.startswith("DECIMAL")
    finer = f"SELECT count(*) FROM landed WHERE abs({quoted} * 100 - round({quoted} * 100)) > 1e-6"
    return FileColumn(
        name,
        kind,
        empty if nulls is None else nulls,
        distinct,
        low,
        high,
        is_money=number and con.execute(finer).fetchall()[0][0] == 0,
        shared=con.execute(f"SELECT count(*) - ({alone}) FROM landed").fetchall()[0][0],
        other_dates=other_dates,
    )


def _find_dates(con: Any, quoted: str) -> tuple[str, tuple[tuple[str, int], ...]]:
    """The type of a column of text: DATE or TIMESTAMP if most cells land as such, and the cells of other formats.

    Its cells are converted. A column whose cells are all dates of other formats remains text.
    """

    def count(pattern: str, *others: str) -> int:
        excluded = "".join(f" AND NOT regexp_full_match({quoted}, '{other}')" for other in others)
        sql = f"SELECT count(*) FROM landed WHERE regexp_full_match({quoted}, '{pattern}'){excluded}"
        return int(con.execute(sql).fetchall()[0][0])

    cells, days, times = count("(?s).*"), count(DAY_PATTERN), count(TIME_PATTERN)
    preceding, formats = [TIME_PATTERN], []
    for name, pattern in OTHER_DATES.items():
        formats.append((name, count(pattern, *preceding)))
        preceding.append(pattern)
    if not cells:
        return "VARCHAR", ()
    if times * 2 < cells:
        dates = tuple((name, found) for name, found in formats[:-1] if found)
        return "VARCHAR", dates if sum(found for _, found in dates) + times == cells else ()
    kind = "DATE" if days == times else "TIMESTAMP"
    con.execute(f"ALTER TABLE landed ALTER {quoted} TYPE {kind} USING TRY_CAST({quoted} AS {kind})")
    return kind, tuple((name, found) for name, found in formats if found)


def _type(column: FileColumn) -> str:
    if column.kind.startswith("TIMESTAMP"):
        return "TIMESTAMP"
    if column.kind.startswith("DECIMAL"):
        return "DOUBLE"
    if column.kind not in COLUMN_TYPES:
        raise ProposalError(
            f"the column {column.name} is {column.kind}, which no contract has. Land it as text or as a number"
        )
    return COLUMN_TYPES[column.kind]


def _time(columns: list[FileColumn]) -> FileColumn | None:
    """The time column: the first timestamp without NULL, or else the first such date."""
    return next(
        (column for kind in ("TIMESTAMP", "DATE") for column in columns if _type(column) == kind and not column.nulls),
        None,
    )


def _keys(columns: list[FileColumn], rows: int) -> list[FileColumn]:
    """Columns with a different value in each row; only those named like identifiers, if there are any."""
    unique = [
        column
        for column in columns
        if column.distinct == rows and not column.nulls and _type(column) in ("LONG", "STRING")
    ]
    return _named_like_keys(unique) or unique


def _nearly_key(columns: list[FileColumn], rows: int) -> FileColumn | None:
    """The column with a value of its own in most rows, at least three of four; None if there is none."""
    nearly = [
        column
        for column in columns
        if column.shared * 4 <= rows and not column.nulls and _type(column) in ("LONG", "STRING")
    ]
    return min(_named_like_keys(nearly) or nearly, key=lambda column: column.shared, default=None)


def _named_like_keys(columns: list[FileColumn]) -> list[FileColumn]:
    return [column for column in columns if re.search(r"(^|_)(id|key|number|no|code)$", column.lower)]


def _todo_of_load(time: FileColumn | None, columns: list[FileColumn], rows: int) -> str:
    """The question that a file with a time and a key cannot answer; empty for other files."""
    if not time or not (_keys(columns, rows) or _nearly_key(columns, rows)):
        return ""
    return "    # TODO: events that add up, or the whole state in each file? then --snapshot / load=Load.SNAPSHOT\n"


def _header(layer: str, name: str, words: str, types: set[str], more: str = "") -> str:
    classes = sorted({"Column", "Layer", "Table", *(types & {"Load"})})
    imported = ", ".join([*sorted(types - {"Load"}), *classes])
    return (
        f'"""`{layer}.{name}`: {words}"""\n\nfrom datetime import timedelta\n\n{more}from contracts.model import'
        f" {imported}\n\n"
    )


def _bronze(name: str, columns: list[FileColumn], rows: int, snapshot: bool) -> str:
    time = None if snapshot else _time(columns)
    load = "" if time else "\n    load=Load.SNAPSHOT,"
    lines = [_bronze_column(column) for column in columns]
    header = _header(
        "bronze",
        name,
        f"{_title(name)}, as they landed.",
        {_type(column) for column in columns} | (set() if time else {"Load"}),
        "from contracts.columns import AUDIT_COLUMNS\n",
    )
    body = "\n".join(lines)
    return f"""{header}{name} = Table(
    layer=Layer.BRONZE,
    name="{name}",
    doc="{_title(name)}, as they landed",
    grain="one row per line of the file",
    owner="TODO",
    freshness=timedelta(days=1),
{_todo_of_load(time, columns, rows)}    time_column="{time.lower if time else "_landed_date"}",{load}
    columns=(
{body}
        *AUDIT_COLUMNS,
    ),
)
"""


def _bronze_column(column: FileColumn) -> str:
    required = ", required=True" if not column.nulls else ""
    source = f', source="{column.name}"' if column.lower != column.name else ""
    comment = f"  # {todo}" if (todo := _todo_of_dates(column)) else ""
    return f'        Column("{column.lower}", {_type(column)}, "{_doc(column)}"{required}{source}),{comment}'


def _todo_of_dates(column: FileColumn) -> str:
    """What to do about dates that do not land as such; empty if there are none."""
    formats = ", ".join(f"{found:,} {name}" for name, found in column.other_dates)
    if not formats:
        return ""
    if _type(column) == "STRING":
        return f"TODO: only YYYY-MM-DD lands as a date; cells of other formats: {formats}"
    expected = "YYYY-MM-DD" if _type(column) == "DATE" else "YYYY-MM-DD HH:MM:SS"
    return f"TODO: cells that are not {expected}, whose rows will be rejected: {formats}"


def _silver(name: str, columns: list[FileColumn], rows: int, snapshot: bool) -> str:
    time, keys = None if snapshot else _time(columns), _keys(columns, rows)
    comment = "" if keys else "  # TODO: no column is different in each row; name those that are so together"
    if not keys and (nearly := _nearly_key(columns, rows)):
        keys = [nearly]
        comment = f"  # TODO: {nearly.shared:,} of {rows:,} rows share their value with another row; is it the key?"
    key = f'("{keys[0].lower}",)' if keys else "()"
    state = (
        "each file is the whole state"
        if _time(columns)
        else "no column has a time in each row: each file is the whole state"
    )
    others = (
        f"  # or {', '.join(column.lower for column in keys[1:])}: they are different in each row, too"
        if keys[1:]
        else ""
    )
    lines = [_silver_column(column) for column in columns]
    types = {_silver_type(column) for column in columns} | (set() if time else {"Load"})
    header = _header("silver", name, f"{_title(name)}, cleaned and keyed.", types)
    body = "\n".join(lines)
    return f"""{header}{name} = Table(
    layer=Layer.SILVER,
    name="{name}",
    doc="{_title(name)}",
    grain="one row per {" and ".join([keys[0].lower] if keys else ["TODO"])}",
    owner="TODO",
    freshness=timedelta(days=1),
    inputs=("bronze.{name}",),
    key={key},{comment}{others}
{_todo_of_load(time, columns, rows)}    {f'time_column="{time.lower}",' if time else f"load=Load.SNAPSHOT,  # {state}"}
    columns=(
{body}
    ),
)
"""


def _silver_type(column: FileColumn) -> str:
    """Fractional numbers become decimals if two decimal places suffice: a sum of doubles depends on its order."""
    return "MONEY" if column.is_money else _type(column)


def _silver_column(column: FileColumn) -> str:
    options = [", required=True"] if not column.nulls else []
    if _type(column) in ("LONG", "DOUBLE") and column.low is not None and column.low >= 0:
        options.append(", minimum=0")
    # Ranges of numbers and times only: texts may be personal data.
    seen = (
        f"{column.distinct:,} different" if _type(column) in ("STRING", "BOOLEAN") else f"{column.low} to {column.high}"
    )
    todo = "TODO: a decimal(p, s), if it is to be summed; " if _silver_type(column) == "DOUBLE" else ""
    return (
        f'        Column("{column.lower}", {_silver_type(column)}, "{_doc(column)}"{"".join(options)}),  #'
        f" {todo}{seen[:80]}"
    )


def _doc(column: FileColumn) -> str:
    return _title(column.lower)


def _title(name: str) -> str:
    return name.replace("_", " ").strip().capitalize()


def _test(name: str, file: Path) -> str:
    return f'''"""`silver.{name}` holds what landed."""

from contracts import check, project
from lake import delta, settings, storage
from millrace import pipeline

ROW = "TODO: the header of {file.name} and a line under it"


def test_the_project_has_no_problems() -> None:
    assert check.problems(project.current()) == []


def test_a_landed_row_is_published() -> None:
    assert not ROW.startswith("TODO"), "write header and a line into ROW"
    path = settings.landing() / "{name}" / "2030-01-01" / "{name}.csv"
    storage.write_whole(path, ROW.encode())
    pipeline.run_all("2030-01-01", "2030-01-02", "test")
    assert delta.open_table("silver.{name}").to_pyarrow_table().num_rows == 1
'''

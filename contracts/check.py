"""Check a project before any run: each problem has its file, line and remedy.

Nothing runs and no file of the lake is opened. DuckDB binds expressions to the columns that they may use.
"""

from __future__ import annotations

import ast
import difflib
import re
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path

import duckdb

from contracts import catalog
from contracts.aggregations import Aggregates, Aggregation, Ratio, entity_columns, served_columns
from contracts.columns import AUDIT_COLUMNS, CHANGE_COLUMNS, STREAM_COLUMNS
from contracts.model import DATE, LONG, TIMESTAMP, Column, ContractError, Database, Layer, Load, Table
from contracts.project import ENGINE, FILE, Project, ProjectError

CALL = re.compile(r"\b([a-z_][a-z0-9_]*)\s*\(|\b(?=current_)([a-z_]+)\b")
CLOCKS = frozenset({"current_date", "current_timestamp", "current_time", "now", "today", "localtime", "localtimestamp"})
UNSTABLE, STABLE = "stability IN ('VOLATILE', 'CONSISTENT_WITHIN_QUERY')", "stability = 'CONSISTENT'"
PARTS = ("year", "quarter", "month", "day", "hour", "minute")
SHARED = (*PARTS, "dayofmonth", "dayofyear", "weekofyear", "second", "last_day", "date_trunc")
"""Functions of times that are the same on every engine, in UTC. DuckDB has them as unstable, as zones can change."""
FIELD, FIELDS = re.compile(r"\bextract\s*\(\s*(\w+)\s+from\b"), (*PARTS, "week", "doy")
"""What EXTRACT finds the same on every engine. They number days of the week differently; seconds may have fractions."""
EARLIER = {Layer.SILVER: (Layer.BRONZE, Layer.SILVER), Layer.GOLD: (Layer.SILVER, Layer.GOLD)}
"""Layer -> the layers that its tables may read."""


@dataclass(frozen=True, order=True)
class Problem:
    """Something in a project that cannot work."""

    file: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


def problems(project: Project) -> list[Problem]:
    """The problems of a project's contracts and transforms, sorted by file; empty where it can run."""
    tables, problems = _tables(project)
    if not tables and not problems:
        path = project.root / "contracts"
        problems = [Problem(path, 1, "there is no contract. Write one: millrace new bronze NAME --from FILE")]
    problems += _shadowing(project)
    problems += _unused(project, tables)
    for table in tables.values():
        problems += _TableCheck(project, table, tables).problems()
    return sorted(dict.fromkeys(problems))


def _unused(project: Project, tables: Mapping[str, Table]) -> Iterator[Problem]:
    """Transforms without a table to call them, such as misspelled ones."""
    for layer in EARLIER:
        for name in project.names(f"transforms.{layer}"):
            path, table = project.file(f"transforms.{layer}.{name}"), tables.get(f"{layer}.{name}")
            if table is None and not project.file(f"contracts.{layer}.{name}").is_file():
                near = difflib.get_close_matches(f"{layer}.{name}", tables, 1)
                hint = f"Did you mean {near[0]}?" if near else "Move what is shared out of transforms/"
                yield Problem(path, 1, f"there is no table {layer}.{name}, so nothing calls this. {hint}")
            elif table is not None and table.aggregates and not table.aggregates.needs_transform:
                yield Problem(
                    path,
                    1,
                    f"{table.qualified} is computed from its aggregations alone, so nothing calls this. Declare"
                    " `prepared` or `joined`, or remove the file",
                )


def _shadowing(project: Project) -> Iterator[Problem]:
    """Files that shadow packages of the engine for scripts that run in the project's folder."""
    for package in ENGINE:
        for path in (project.root / f"{package}.py", project.root / package / "__init__.py"):
            if path.is_file():
                yield Problem(
                    path,
                    1,
                    f"it hides Millrace's own package {package} from scripts in this folder."
                    f" {'Remove it' if path.stem == '__init__' else 'Rename it'}",
                )


def _tables(project: Project) -> tuple[dict[str, Table], list[Problem]]:
    """The tables of the files that can be loaded, and the problems of the other files."""
    tables: dict[str, Table] = {}
    problems = []
    for layer in (*catalog.LAYERS, *catalog.AFTER_RELEASE):
        for name in project.names(f"contracts.{layer}"):
            path = project.file(f"contracts.{layer}.{name}")
            try:
                tables[f"{layer}.{name}"] = catalog.load(project, layer, name)
            except (ContractError, ProjectError) as error:
                problems.append(Problem(path, _line_of(error, path), str(error)))
            except Exception as error:  # any error of a user's file is reported at its line
                problems.append(Problem(path, _line_of(error, path), _message_of(error, project)))
    return tables, problems


def _message_of(error: Exception, project: Project) -> str:
    message = f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.partition(".")[0] != project.name:
        message += f". If that is this project, import its modules from {project.name}, its name in {FILE}"
    return message


def _line_of(error: BaseException, path: Path) -> int:
    """The last line of the file in the error's traceback; 1 when it is not there."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 1
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return lines[-1] or 1 if lines else 1


@dataclass
class _TableCheck:
    """The check of one table among the tables of a project."""

    project: Project
    table: Table
    tables: Mapping[str, Table]

    def problems(self) -> Iterator[Problem]:
        yield from self._inputs()
        yield from self._references()
        yield from self._transform()
        yield from self._expressions()
        yield from self._source()
        if self.table.layer == Layer.GOLD:
            yield from self._gold()

    def _problem(self, message: str, near: str = "") -> Problem:
        """A problem at the first line of the contract with the text `near`."""
        path = self.project.file(f"contracts.{self.table.layer}.{self.table.name}")
        lines = path.read_text().splitlines()
        line = next((number for number, text in enumerate(lines, 1) if near and near in text), 1)
        return Problem(path, line, f"{self.table.qualified}: {message}")

    # --- other tables

    def _inputs(self) -> Iterator[Problem]:
        layer = self.table.layer
        if layer in EARLIER and not self.table.inputs:
            yield self._problem("it has no inputs. Name the tables that its transform reads in `inputs`")
        for name in self.table.inputs:
            if name not in self.tables:
                yield self._problem(f"its input {name} does not exist.{self._near(name)}", name)
            elif layer == Layer.SILVER and name == self.table.inputs[0] and self.tables[name].layer != Layer.BRONZE:
                yield self._problem(
                    f"its first input {name} is not a bronze table, and its rows come from the first input", name
                )
            elif layer in EARLIER and self.tables[name].layer not in EARLIER[layer]:
                yield self._problem(f"its input {name} is not a table of {' or '.join(EARLIER[layer])}", name)

    def _near(self, name: str) -> str:
        near = difflib.get_close_matches(name, self.tables, 1)
        return f" Did you mean {near[0]}?" if near else f" Write contracts/{name.replace('.', '/')}.py"

    def _references(self) -> Iterator[Problem]:
        for reference in self.table.references:
            other = self.tables.get(reference.to)
            if other is None:
                yield self._problem(
                    f"it refers to {reference.to}, which does not exist.{self._near(reference.to)}", reference.to
                )
                continue
            for name, to_name in zip(reference.columns, reference.to_columns, strict=False):
                if to_name not in other.column_names:
                    yield self._problem(
                        f"it refers to {reference.to}.{to_name}, and there is no such column. It has"
                        f" {', '.join(other.column_names)}",
                        to_name,
                    )
                elif name in self.table.column_names and self.table.column(name).type != other.column(to_name).type:
                    yield self._problem(
                        f"{name} is {self.table.column(name).type.spark}, and {reference.to}.{to_name} is"
                        f" {other.column(to_name).type.spark}. Declare one type",
                        name,
                    )

    # --- topics and databases

    def _source(self) -> Iterator[Problem]:
        table = self.table
        if table.layer != Layer.BRONZE:
            if table.database or table.topic:
                yield self._problem(
                    "only bronze tables have a database or a topic", "database" if table.database else "topic"
                )
            if table.load == Load.CHANGES:
                yield self._problem(
                    "Load.CHANGES is for bronze tables. A silver table has the newest state of each key by itself",
                    "load",
                )
            return
        if table.load == Load.CHANGES:
            yield from self._changes()
        if table.is_change_stream:
            yield from self._change_stream()
        if table.database:
            yield from self._database(table.database)

    def _changes(self) -> Iterator[Problem]:
        table = self.table
        if not table.key:
            yield self._problem("its rows are states, so it needs a `key` that says of what", "load")
        for name in table.key:
            if not table.column(name).required:
                yield self._problem(f"{name} is in its key: give it required=True", f'"{name}"')
        time = table.column(table.time_column) if table.time_column in table.column_names else None
        if time and not table.is_change_stream and not time.required:
            yield self._problem(f"{time.name} is its time_column: give it required=True", f'"{time.name}"')

    def _change_stream(self) -> Iterator[Problem]:
        table = self.table
        if table.load != Load.CHANGES:
            yield self._problem("a topic of changes needs load=Load.CHANGES", "topic")
        missing = [c.name for c in (*STREAM_COLUMNS, *CHANGE_COLUMNS) if c.name not in table.column_names]
        if missing:
            yield self._problem(f"it lacks {', '.join(missing)}. Add *STREAM_COLUMNS and *CHANGE_COLUMNS", "columns")
        added = {column.name for column in (*AUDIT_COLUMNS, *STREAM_COLUMNS, *CHANGE_COLUMNS)}
        for column in table.columns:
            if column.required and column.name not in (*table.key, *added):
                yield self._problem(
                    f"{column.name} is required, and a deletion has only the key. Require it in silver",
                    f'"{column.name}"',
                )

    def _database(self, database: Database) -> Iterator[Problem]:
        table = self.table
        if table.topic:
            yield self._problem("it has a database and a topic. Declare two tables", "database")
        if database.cursor is None:
            if table.load != Load.SNAPSHOT:
                yield self._problem(
                    "a pull without a cursor is a snapshot: give it load=Load.SNAPSHOT, or a cursor and an overlap",
                    "database",
                )
            return
        if table.load == Load.SNAPSHOT:
            yield self._problem(
                "a pull from a cursor on has only some rows: give it load=Load.CHANGES, where rows are updated, or"
                " Load.EVENTS",
                "cursor",
            )
        column = next((column for column in table.columns if column.source_name == database.cursor), None)
        if column is None:
            yield self._problem(
                f"no column comes from its cursor {database.cursor}, by which it is known what has been pulled",
                "cursor",
            )
            return
        fitting = (TIMESTAMP, DATE) if isinstance(database.overlap, timedelta) else (LONG,)
        if column.type not in fitting:
            yield self._problem(
                f"its cursor {database.cursor} is {column.type.spark}, and its overlap is for"
                f" {' or '.join(kind.spark for kind in fitting)}",
                "overlap",
            )

    # --- transforms

    def _transform(self) -> Iterator[Problem]:
        path = self.project.file(f"transforms.{self.table.layer}.{self.table.name}")
        if self.table.layer == Layer.SILVER:
            yield from self._silver_transform(path)
        if self.table.layer == Layer.GOLD:
            yield from self._gold_transform(path)

    def _silver_transform(self, path: Path) -> Iterator[Problem]:
        table = self.table
        if not table.key:
            yield self._problem(
                "it has no key, so a row that lands twice would be published twice. Name the columns that tell its"
                " rows apart",
                "key",
            )
        if not table.time_column and table.load != Load.SNAPSHOT:
            yield self._problem(
                "it has no time_column, so its days are unknown. Name one, or say load=Load.SNAPSHOT where a file"
                " is the whole state",
                "columns",
            )
        if path.is_file():
            yield from self._function(path, "clean", [name.partition(".")[2] for name in table.inputs])
        else:
            yield from self._selected(path)

    def _gold_transform(self, path: Path) -> Iterator[Problem]:
        table, declared = self.table, self.table.aggregates
        if declared is None:
            midnights = [] if table.load == Load.SNAPSHOT else ["midnights"]
            yield from self._function(
                path, "features", [*midnights, *(name.partition(".")[2] for name in table.inputs)]
            )
        elif declared.needs_transform:
            names = (declared.events.qualified, *(join.table.qualified for join in declared.mapped))
            yield from self._function(path, "events", [name.partition(".")[2] for name in names])

    def _function(self, path: Path, name: str, arguments: list[str]) -> Iterator[Problem]:
        signature = f"def {name}({', '.join(arguments)})"
        if not path.is_file():
            yield self._problem(f"it needs a transform: write `{signature}` in {path.relative_to(self.project.root)}")
            return
        try:
            tree = ast.parse(path.read_text(), str(path))
        except SyntaxError as error:
            yield Problem(path, error.lineno or 1, f"SyntaxError: {error.msg}")
            return
        function = next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name), None)
        if function is None:
            yield Problem(path, 1, f"{self.table.qualified}: there is no function {name}. Write `{signature}`")
            return
        most = float("inf") if function.args.vararg else len(function.args.args)
        least = len(function.args.args) - len(function.args.defaults)
        if not least <= len(arguments) <= most:
            yield Problem(
                path,
                function.lineno,
                f"{self.table.qualified}: {name} gets {len(arguments)} arguments. Write `{signature}`",
            )

    def _selected(self, path: Path) -> Iterator[Problem]:
        """Problems of a silver table without a transform, whose columns are selected from bronze."""
        if len(self.table.inputs) != 1:
            yield self._problem(
                f"it has {len(self.table.inputs)} inputs, so it needs a transform: write"
                f" {path.relative_to(self.project.root)}"
            )
            return
        source = self.tables.get(self.table.inputs[0])
        if source and self.table.time_column and self.table.load != Load.SNAPSHOT:
            source_name = self.table.column(self.table.time_column).source_name
            if source_name != source.time_column:
                yield self._problem(
                    f"its time_column comes from {source_name}, and the time_column of {source.qualified} is"
                    f" {source.time_column}. A day must be the same day in both: give both the same",
                    "time_column",
                )
        for column in self.table.columns if source else ():
            name = column.source_name
            if source and name not in source.column_names:
                near = difflib.get_close_matches(name, source.column_names, 1)
                hint = f"Did you mean {near[0]}?" if near else f"It has {', '.join(source.column_names)}."
                yield self._problem(
                    f"{column.name} comes from {source.qualified}.{name}, and there is no such column. {hint}"
                    f" Name another by `source`, or write {path.relative_to(self.project.root)}",
                    f'"{column.name}"',
                )

    # --- expressions

    def _expressions(self) -> Iterator[Problem]:
        columns = {column.name: column for column in self.table.columns}
        for name in columns:
            if is_keyword(name):
                landed = f', with source="{name}"' if self.table.layer == Layer.BRONZE else ""
                yield self._problem(
                    f"{name} is a SQL keyword, so no rule could use the column. Call it {name}_, or what it is{landed}",
                    f'"{name}"',
                )
        for rule in self.table.rules:
            yield from self._bound(rule.sql, columns, f"the rule {rule.name}", rule.name)
            if not any(name in rule.sql for name in columns):
                yield self._problem(
                    f"the rule {rule.name} names no column of the table, so it says nothing about a row", rule.name
                )

    def _bound(
        self, sql: str, columns: Mapping[str, Column], what: str, near: str, of_one_row: bool = False
    ) -> Iterator[Problem]:
        problem = binding_problem(sql, columns, of_one_row)
        if problem:
            yield self._problem(f"{what}: {problem}", near)

    # --- gold

    def _gold(self) -> Iterator[Problem]:
        table, declared = self.table, self.table.aggregates
        if declared:
            yield from self._aggregates(declared)
        elif table.history is None and table.load != Load.SNAPSHOT:
            yield self._problem(
                "nothing tells which of its rows a change of its inputs affects. Declare aggregations"
                " (feature_table), or give `history`, as long as its transform looks back, or `load=Load.SNAPSHOT` to"
                " rebuild it after each change"
            )
        elif table.load != Load.SNAPSHOT:
            untracked = [
                name
                for name in table.inputs
                if name in self.tables and not self.tables[name].time_column and self.tables[name].load != Load.SNAPSHOT
            ]
            for name in untracked:
                yield self._problem(
                    f"its input {name} has neither a time_column nor load=Load.SNAPSHOT, so its changes cannot be"
                    " followed",
                    name,
                )
        if not table.is_of_instants and (not table.key or table.key[-1] != "event_timestamp"):
            yield self._problem(
                'its key is (..., "event_timestamp"): entity columns, then the midnight at which a row becomes'
                " knowable",
                "key",
            )
        entities = {column.name for column in entity_columns(table)}
        for column in served_columns(table):
            if column.type == DATE and column.name not in entities:
                yield self._problem(
                    f"the feature {column.name} is a date, which Feast cannot serve. Make it a timestamp, such as"
                    f" Latest({column.name!r}, 'CAST(day AS timestamp)', type=TIMESTAMP)",
                    column.name,
                )
        for other in self.tables.values():
            if other.layer != Layer.GOLD or other.qualified >= table.qualified:
                continue
            types = {column.name: column.type for column in entity_columns(other)}
            for column in entity_columns(table):
                if types.get(column.name, column.type) != column.type:
                    yield self._problem(
                        f"its key {column.name} is {column.type.spark}, and that of {other.qualified} is"
                        f" {types[column.name].spark}",
                        column.name,
                    )

    def _aggregates(self, declared: Aggregates) -> Iterator[Problem]:
        for other in (declared.events, *(join.table for join in declared.joined)):
            if other.qualified in self.tables and self.tables[other.qualified] != other:
                yield self._problem(
                    f"it reads another {other.qualified} than contracts/{other.layer}/{other.name}.py declares. Import"
                    " that one",
                    other.name,
                )
        columns = declared.columns()
        for part in declared.aggregations:
            for value in _values(part):
                for what, sql in (("of", value.of), ("where", value.where)):
                    if sql:
                        yield from self._bound(
                            sql, columns, f"{part.name}, {what}={sql!r}", f'"{part.name}"', of_one_row=True
                        )


def _values(part: Aggregation) -> tuple[Aggregation, ...]:
    return (part.part, part.whole) if isinstance(part, Ratio) else (part,)


def binding_problem(sql: str, columns: Mapping[str, Column], of_one_row: bool = False) -> str:
    """Why an expression over these columns is invalid; empty where it is valid.

    With `of_one_row` it must be deterministic and use one row only.
    """
    if of_one_row and (problem := _not_of_one_row(sql.lower()) or _differs(sql.lower())):
        return problem
    typed = ", ".join(f'NULL::{column.type.duckdb} AS "{name}"' for name, column in columns.items())
    try:
        _connection().execute(f"EXPLAIN SELECT {sql} FROM (SELECT {typed})")
    except duckdb.Error as error:
        return " ".join(str(error).split("\n\n")[0].split())
    return ""


def is_keyword(name: str) -> bool:
    """Whether SQL does not accept the name as a column."""
    return bool(binding_problem(name, {name: Column(name, LONG, name)}))


def _not_of_one_row(sql: str) -> str:
    """Which function uses or returns several rows, or differs from call to call."""
    several = _functions("function_type IN ('aggregate', 'table')") | CLOCKS | {"over"}
    unsuitable = sorted(_called(sql) & (several | (_functions(UNSTABLE) - _functions(STABLE))))
    return f"{', '.join(unsuitable)} does not give one value of one row, the same each time" if unsuitable else ""


def _differs(sql: str) -> str:
    """Which function of times differs between engines."""
    if differing := sorted(_called(sql) & (_functions(UNSTABLE) - {*SHARED})):
        return f"{', '.join(differing)} differs between engines. The same on all are {', '.join(SHARED)}"
    fields = sorted({*FIELD.findall(sql)} - {*FIELDS})
    return f"EXTRACT({fields[0].upper()}) differs between engines. The same are {', '.join(FIELDS)}" if fields else ""


def _called(sql: str) -> set[str]:
    return {name for names in CALL.findall(sql) for name in names}


@cache
def _functions(condition: str) -> frozenset[str]:
    rows = _connection().execute(f"SELECT lower(function_name) FROM duckdb_functions() WHERE {condition}")
    return frozenset(name for (name,) in rows.fetchall())


@cache
def _connection() -> duckdb.DuckDBPyConnection:
    return duckdb.connect()

"""Declarations of databases and of changes that cannot work are found before any run."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts import check, project
from contracts.model import ContractError, Database
from tests.projects import DEPOT, write

count = 0


def problems_of(tmp_path: Path, table: str, *changes: tuple[str, str]) -> list[str]:
    """The problems of a project with one of the depot's bronze tables, in which these texts are others."""
    global count
    count += 1
    text = (DEPOT / "contracts" / "bronze" / f"{table}.py").read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    root = write(tmp_path / f"sourced_{count}", f"sourced_{count}", {f"contracts/bronze/{table}.py": text})
    return [problem.message for problem in check.problems(project.load(root))]


def test_the_depot_has_none() -> None:
    assert check.problems(project.load(DEPOT)) == []


@pytest.mark.parametrize(
    ("table", "changes", "message"),
    [
        (
            "stock",
            [("Load.SNAPSHOT", "Load.EVENTS")],
            "a pull without a cursor is a snapshot: give it load=Load.SNAPSHOT",
        ),
        ("parcels", [("Load.CHANGES", "Load.SNAPSHOT")], "a pull from a cursor on has only some rows"),
        ("parcels", [('cursor="changed_at"', 'cursor="changed"')], "no column comes from its cursor changed, by which"),
        (
            "parcels",
            [("overlap=timedelta(minutes=10)", "overlap=5")],
            "its cursor changed_at is timestamp, and its overlap",
        ),
        ("parcels", [('"Parcel", required=True', '"Parcel"')], "id is in its key: give it required=True"),
        ("parcels", [('"When it was sent", required=True', '"When"')], "sent_at is its time_column: give it required"),
        ("parcels", [('    key=("id",),\n', "")], "its rows are states, so it needs a `key`"),
        ("orders", [('    key=("id",),\n', "")], "its rows are states, so it needs a `key`"),
        ("orders", [("load=Load.CHANGES", "load=Load.EVENTS")], "a topic of changes needs load=Load.CHANGES"),
        ("orders", [("        *CHANGE_COLUMNS,\n", "")], "it lacks _op, _lsn, _source_at. Add *STREAM_COLUMNS and"),
        (
            "orders",
            [('"Customer")', '"Customer", required=True)')],
            "customer is required, and a deletion has only the key",
        ),
        (
            "orders",
            [("    topic=", '    database=Database("a", "b"),\n    topic='), ("Column,", "Column, Database,")],
            "it has a database and a topic",
        ),
    ],
)
def test_what_cannot_work(tmp_path: Path, table: str, changes: Any, message: str) -> None:
    problems = problems_of(tmp_path, table, *changes)
    assert any(message in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("Shop", "orders"), "a name is lower case letters, digits and underscores"),
        (("shop_file", "orders"), "does not end in _file"),
        (("shop", "a.b.c"), "write table or schema.table"),
        (("shop", ".orders"), "write table or schema.table"),
        (("shop", ""), "write table or schema.table"),
        (("shop", "orders", "id"), "say in `overlap` how far before its newest value to read again"),
        (("shop", "orders", "id", -1), "it is for a cursor, and not negative"),
        (("shop", "orders", "at", timedelta(-1)), "it is for a cursor, and not negative"),
        (("shop", "orders", None, 1), "it is for a cursor, and not negative"),
    ],
)
def test_a_database_is_checked_where_it_is_declared(arguments: Any, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        Database(*arguments)

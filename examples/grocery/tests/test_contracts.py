"""The shop's contracts: what holds for every table, whatever it is about."""

from __future__ import annotations

import duckdb
import pytest

from contracts import catalog
from contracts.check import problems
from contracts.model import Layer, Table
from contracts.project import current

EVERY = pytest.mark.parametrize("table", catalog.all_tables(), ids=lambda table: table.qualified)


def test_the_project_is_without_problems() -> None:
    assert problems(current()) == []


def test_a_run_builds_no_table_that_is_made_from_a_release() -> None:
    assert {table.layer for table in catalog.tables()} == {*catalog.LAYERS}
    assert {table.layer for table in catalog.all_tables()} == {*catalog.LAYERS, *catalog.AFTER_RELEASE}
    assert {table.qualified for table in catalog.tables(Layer.SCORES)} == {"scores.recommender"}


@EVERY
def test_every_check_is_sql_that_duckdb_understands_and_keeps_null(table: Table) -> None:
    empty = ", ".join(f"CAST(NULL AS {column.type.spark}) AS {column.name}" for column in table.columns)
    needs_a_value = {f"{column.name}_present" for column in table.columns if column.required} | {
        rule.name for rule in table.rules if "IS NOT NULL" in rule.sql
    }
    with duckdb.connect() as con:
        for check in table.checks():
            sql = check.sql.replace(" RLIKE ", " SIMILAR TO ")  # the one word that is Spark's alone
            ((broken,),) = con.execute(f"SELECT ({sql}) IS FALSE FROM (SELECT {empty})").fetchall()
            assert broken == (check.name in needs_a_value), check.name


@EVERY
def test_no_two_checks_of_a_table_share_a_name(table: Table) -> None:
    names = [check.name for check in (*table.checks(), *table.references)]
    assert len(names) == len({*names})

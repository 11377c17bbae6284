"""String literals mean the same to every engine: DuckDB reads the standard form, Sail the portable one."""

from datetime import timedelta

import duckdb
import pytest

from contracts.expressions import portable, string
from contracts.model import STRING, Column, Layer, Rule, Table
from etl import engine
from expectations.audit import audit
from expectations.suite import Facts

TEXTS = ["plain", "it's", "'", "''", "a\\b", "\\", "\\'", "\\d+", "", "a\nb", "ä'\\", "-- x", "/* ' */", '"']


def on_sail(expression: str) -> str:
    return str(engine.session().sql(f"SELECT {expression}").collect()[0][0])


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_itself_on_both(text: str) -> None:
    assert on_sail(string(text)) == text
    assert duckdb.sql(f"SELECT {string(text)}").fetchall() == [(text,)]
    standard = "'" + text.replace("'", "''") + "'"
    assert on_sail(portable(f"concat({standard}, 'x', {standard})")) == f"{text}x{text}"


def test_the_audit_reads_a_rule_as_the_standard_does() -> None:
    """A rule is evaluated twice: for the suite, and to split bad rows from good ones."""
    rule = Rule("known", "c <> 'it''s' AND c <> 'a\\b'", "c is not known")
    table = Table(
        Layer.SILVER, "t", "t", "one row", "tests", timedelta(days=1), (Column("c", STRING, "c"),), rules=(rule,)
    )
    rows = engine.session().createDataFrame([(text,) for text in ("it's", "its", "a\\b", "ab")], "c string")
    verdict = audit(table, rows, {}, Facts(4, 4))
    assert verdict.good is not None
    assert [check.failed for check in verdict.checks if check.check == "known"] == [2]
    assert verdict.bad_rows == 2
    assert sorted(row["c"] for row in verdict.good.collect()) == ["ab", "its"]


@pytest.mark.parametrize(
    "expression",
    [
        "amount > 1 AND channel IN ('web', 'phone')",
        '"it\'s" = 1',
        "amount -- it's a comment",
        "amount /* it's\na comment */ + 1",
    ],
)
def test_what_needs_no_change_stays(expression: str) -> None:
    assert portable(expression) == expression


@pytest.mark.parametrize(
    ("column", "kept", "refused"),
    [
        (Column("c", STRING, "c", allowed=("it's", "a\\b", "n'")), ["it's", "a\\b", "n'"], ["its", "ab", "n"]),
        (Column("c", STRING, "c", pattern=r"\d{2}'s"), ["12's"], ["dd's", "12s", "123's"]),
    ],
)
def test_the_checks_of_a_column_see_its_texts(column: Column, kept: list[str], refused: list[str]) -> None:
    table = Table(Layer.SILVER, "t", "t", "one row", "tests", timedelta(days=1), (column,), ("c",))
    [check] = table.checks()
    rows = engine.session().createDataFrame([(text,) for text in (*kept, *refused)], "c string")
    assert [row["c"] for row in rows.filter(check.sql).collect()] == kept

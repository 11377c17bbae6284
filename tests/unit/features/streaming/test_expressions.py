"""Expressions and patterns that a tail may compute."""

from __future__ import annotations

import pytest

from features.streaming.expressions import is_portable, is_portable_pattern


@pytest.mark.parametrize(
    "sql",
    [
        "",
        "amount",
        "amount - discount + tax",
        "mode = 'ranked' AND (stake > 0.5 OR stake IS NULL)",
        "shop IN ('it''s', 'b') AND NOT (units BETWEEN 1 AND 3)",
        "CAST(bought_at AS DATE) <= _landed_date",
        "CASE WHEN (units) > 3 THEN units ELSE 0 END",
    ],
)
def test_expressions_that_mean_the_same(sql: str) -> None:
    assert is_portable(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "CAST(stake AS BIGINT)",
        "seconds * seconds",
        "100 / seconds > 1",
        "upper(shop) = 'A'",
        "amount::int",
        "a % 2 = 0",
        "a || b",
        "shop LIKE 'a%'  AND lower (shop) = 'a'",
        '"quoted" = 1',
    ],
)
def test_expressions_that_may_not(sql: str) -> None:
    assert not is_portable(sql)


@pytest.mark.parametrize("pattern", ["[0-9a-f-]{36}", "(?:a|b)+", "[A-Z]{2}[0-9]*", "ä+", r"a\.b"])
def test_patterns_that_match_the_same(pattern: str) -> None:
    assert is_portable_pattern(pattern)


@pytest.mark.parametrize("pattern", [r"\w+", r"\d{3}", r"a\s", "(?=a)a", "(?i)a", "[[:alpha:]]", r"(a)\1", "a++", "("])
def test_patterns_that_may_not(pattern: str) -> None:
    assert not is_portable_pattern(pattern)

"""Which expressions DuckDB computes as the engines do, so that a stream and a release agree on them.

Comparisons and logic over columns and literals do, and so do sums and differences. Casts, functions and products may
not: DuckDB rounds where Spark cuts off, and their numbers overflow in other ways.
"""

from __future__ import annotations

import re

TOKEN = re.compile(r"\s+|'(?:[^']|'')*'|[0-9]+(?:\.[0-9]+)?|<>|!=|<=|>=|[=<>(),+-]|[A-Za-z_][A-Za-z0-9_]*")
DAY_OF = re.compile(r"\bCAST\s*\(\s*([A-Za-z_][A-Za-z0-9_]*)\s+AS\s+DATE\s*\)", re.IGNORECASE)
"""The day of an instant in UTC, the one cast that is the same."""
WORDS = {"and", "or", "not", "is", "null", "in", "between", "true", "false", "case", "when", "then", "else", "end"}
"""Words that may stand before a parenthesis."""
UNLIKE = re.compile(r"\\[wWdDsSbBpPkAzZG0-9]|\(\?(?!:)|\[\[:|\[\^?[^]]*&&|[*+?}][+]")
"""In a pattern: classes that are Unicode to one engine only, and what not every engine has."""


def is_portable(sql: str) -> bool:
    """Whether an expression is made of columns, literals, comparisons, logic, sums and differences alone."""
    text, position, word = DAY_OF.sub(r"\1", sql), 0, ""
    while position < len(text):
        match = TOKEN.match(text, position)
        if match is None or (match[0] == "(" and word and word.lower() not in WORDS):
            return False
        position = match.end()
        if not match[0].isspace():
            word = match[0] if match[0][0].isalpha() or match[0][0] == "_" else ""
    return True


def is_portable_pattern(pattern: str) -> bool:
    """Whether a column's pattern matches the same texts on every engine."""
    if UNLIKE.search(pattern):
        return False
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True

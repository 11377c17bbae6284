"""SQL expressions that mean the same to every engine.

Engines read string literals differently: to Sail `'it''s'` is `its`, and to Sail and Spark a backslash starts an escape
sequence. Contracts follow the standard, as DuckDB does: `''` is a quote and a backslash is a backslash.
"""

from __future__ import annotations

import re

IDENTIFIER = re.compile(r"(?<![\w.])([A-Za-z_]\w*)(?!\w|\s*\()")
TOKEN = re.compile(r"""'(?P<text>(?:[^']|'')*)'|"(?:[^"]|"")*"|--[^\n]*|/\*.*?\*/""", re.DOTALL)
SPECIAL = re.compile(r"(['\\])")


def string(text: str) -> str:
    """An expression for this text: a literal, or where that needs a quote or backslash, a concatenation with `chr`."""
    if not SPECIAL.search(text):
        return f"'{text}'"
    parts = [f"chr({ord(part)})" if SPECIAL.fullmatch(part) else f"'{part}'" for part in SPECIAL.split(text) if part]
    return f"concat({', '.join(parts)})"


def identifiers(sql: str) -> list[str]:
    """What an expression names outside of text and comments, in lower case and in order: columns, and words of SQL."""
    text = TOKEN.sub(lambda match: match[0] if match[0].startswith('"') else " ", sql)
    return [*dict.fromkeys(IDENTIFIER.findall(text.lower()))]


def portable(sql: str) -> str:
    """The expression with its string literals written so that every engine reads them as the standard does."""

    def rewrite(match: re.Match[str]) -> str:
        text = match["text"]
        return match[0] if text is None else string(text.replace("''", "'"))

    return TOKEN.sub(rewrite, sql)

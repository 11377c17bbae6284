"""The engine carries any project: it neither imports nor names a table or a column of the example.

Words that are also common English or the field's own (`customers`, `products`, `week`, `age`) are left out. Prose in
docstrings and comments may name an example, such as `silver.transactions`; code and messages may not.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts import catalog, project

COMMON = {
    "age",
    "amount",
    "brand",
    "campaigns",
    "coupons",
    "customers",
    "department",
    "end_date",
    "products",
    "promotions",
    "purchases",
    "quantity",
    "rank",
    "redemptions",
    "release",
    "score",
    "start_date",
    "stores",
    "transactions",
    "week",
    "model",
    "as_of",
    "event_timestamp",
    "kids_count",
    "scored_at",
}
EXAMPLES = {"customer_id", "product_id"}
"""Of keys, in help texts and messages."""


def names() -> set[str]:
    tables = project.load(project.DEFAULT)
    result = {table.qualified for table in catalog._tables(tables, None)} | {
        table.name for table in catalog._tables(tables, None)
    }
    return (
        result
        | {
            column.name
            for table in catalog._tables(tables, None)
            for column in table.columns
            if not column.name.startswith("_")
        }
    ) - COMMON


def code(path: Path) -> Iterator[tuple[int, str]]:
    """Names and texts of a module, without its docstrings."""
    tree = ast.parse(path.read_text())
    prose = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose:
            yield node.lineno, node.value
        elif isinstance(node, ast.Name):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom):
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)


@pytest.mark.parametrize("package", project.ENGINE)
def test_a_package_of_the_engine_names_nothing_of_the_example(package: str) -> None:
    words = re.compile(
        r"\b("
        + "|".join(sorted(map(re.escape, names() - EXAMPLES), key=len, reverse=True))
        + r"|grocery|household\w*)\b"
    )
    allowed = re.compile(r"such as (silver|gold|scores)\.\w+|layer and name, such as .*|service and .*")
    result = [
        f"{path.relative_to(project.CHECKOUT)}:{line}: {match[0]}"
        for path in sorted((project.CHECKOUT / package).rglob("*.py"))
        for line, text in code(path)
        for match in words.finditer(allowed.sub("", text))
        if not (path.name == "project.py" and match[0] == "grocery")
        and not (path.name == "scaffold.py" and match[0] == "grocery")
    ]
    assert result == []

"""The house: every package has its place among the layers, and no module of ours imports itself by way of others.

An import inside a function counts: it only puts the cycle off until the function is called. What stands under `if
TYPE_CHECKING:` does not, because it is never executed. A package's `__init__.py` is a module of its own; that importing
`a.b` executes `a` first does not count.
"""

import ast
import sys
import tomllib
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from lake.settings import CHECKOUT

LINTER = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["importlinter"]
PACKAGES = sorted(path.parent.name for path in CHECKOUT.glob("*/__init__.py") if path.parent.name != "tests")


def modules(root: Path) -> dict[str, Path]:
    """Dotted name -> file, of all packages below a folder."""
    result = {}
    for package in sorted(path.parent for path in root.glob("*/__init__.py")):
        for path in package.rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            result[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return result


def imported(node: ast.AST, known: set[str]) -> Iterator[str]:
    """The modules, of those that are known, that a syntax tree imports."""
    for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
    children = node.orelse if for_types else [*ast.iter_child_nodes(node)]  # type: ignore[attr-defined]
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
    if isinstance(node, ast.ImportFrom) and node.module in known:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
        yield from (name if name in known else node.module for name in names)
    for child in children:
        yield from imported(child, known)


def graph(root: Path) -> dict[str, set[str]]:
    """Module -> the others that it imports."""
    result = modules(root)
    return {
        name: {*imported(ast.parse(path.read_text()), {*result})} - {name}
        for name, path in result.items()
        if not name.startswith("tests")
    }


def cycle(root: Path) -> list[str]:
    """One cycle, from a module back to itself; empty when there is none."""
    try:
        TopologicalSorter(graph(root)).prepare()
    except CycleError as error:
        return [*reversed(error.args[1])]
    return []


def test_no_module_imports_itself_by_way_of_others() -> None:
    assert cycle(CHECKOUT) == []


def test_a_cycle_through_a_function_is_found(tmp_path: Path) -> None:
    (tmp_path / "house").mkdir()
    (tmp_path / "house" / "__init__.py").touch()
    (tmp_path / "house" / "attic.py").write_text("from house import cellar\n")
    (tmp_path / "house" / "cellar.py").write_text("def climb():\n    from house.attic import view\n")
    assert set(cycle(tmp_path)) == {"house.attic", "house.cellar"}
    (tmp_path / "house" / "cellar.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from house.attic import View\n"
    )
    assert cycle(tmp_path) == []


def test_every_package_is_in_the_layers() -> None:
    layers = LINTER["contracts"][0]["layers"]
    assert sorted(name for layer in layers for name in layer.split(" | ")) == PACKAGES
    assert sorted(LINTER["root_packages"]) == PACKAGES


def test_no_module_at_the_top_of_a_package_hides_one_of_python() -> None:
    """A Python that is started in the package's folder finds that one first: with a `types.py` in it, none starts."""
    assert [
        str(path)
        for name in PACKAGES
        for path in (CHECKOUT / name).glob("*.py")
        if path.stem in sys.stdlib_module_names
    ] == []

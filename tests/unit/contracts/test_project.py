"""A project is found, its modules are imported under its name, and two projects do not meet."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from contracts import catalog, project
from contracts.project import ProjectError
from tests.projects import ARCADE, write


def test_the_example_is_the_project_unless_another_is_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MILLRACE_PROJECT", raising=False)
    monkeypatch.chdir(tmp_path)
    assert project.current().root == project.DEFAULT


def test_the_nearest_file_above_the_working_directory_chooses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MILLRACE_PROJECT", raising=False)
    root = write(tmp_path / "shop", "near_shop", {"contracts/silver/orders.py": ""})
    monkeypatch.chdir(root / "contracts" / "silver")
    assert (project.current().root, project.current().name) == (root, "near_shop")


def test_the_setting_chooses_before_the_working_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(write(tmp_path, "here_shop", {}))
    monkeypatch.setenv("MILLRACE_PROJECT", str(ARCADE))
    assert project.current().name == "arcade"
    assert {table.qualified for table in catalog.tables(catalog.Layer.GOLD)} == {
        "gold.player_payments",
        "gold.player_now",
        "gold.player_rounds",
        "gold.tier_takings",
    }
    monkeypatch.delenv("MILLRACE_PROJECT")
    assert project.current().name == "here_shop"
    assert catalog.tables() == ()


def test_a_module_is_imported_under_the_name_of_its_project(tmp_path: Path) -> None:
    root = write(
        tmp_path / "any-folder",
        "named_shop",
        {"columns.py": "WIDTH = 3\n", "contracts/gold/a.py": "from named_shop.columns import WIDTH\n"},
    )
    result = project.load(root)
    module = result.module("contracts.gold.a")
    assert module is not None
    assert (module.__name__, module.WIDTH) == ("named_shop.contracts.gold.a", 3)
    assert result.module("contracts.gold.b") is None


def test_two_projects_of_one_name_do_not_meet_in_a_process(tmp_path: Path) -> None:
    project.load(write(tmp_path / "one", "twin_shop", {}))
    with pytest.raises(
        ProjectError,
        match=(
            r"names the project twin_shop, and twin_shop is a Python package already: .*Give the project another name"
        ),
    ):
        project.load(write(tmp_path / "two", "twin_shop", {}))


@pytest.mark.parametrize("name", ["features", "json", "pandas"])
def test_a_project_has_no_name_of_another_package(tmp_path: Path, name: str) -> None:
    with pytest.raises(ProjectError, match="a Python package"):
        project.load(write(tmp_path, name, {}))
    assert (
        sys.modules.get(name) is None
        or not hasattr(sys.modules[name], "__path__")
        or str(tmp_path) not in [*sys.modules[name].__path__]
    )


@pytest.mark.parametrize("name", ["My Shop", "", "1shop", "shop-a"])
def test_a_name_must_be_one(tmp_path: Path, name: str) -> None:
    with pytest.raises(
        ProjectError, match=r"millrace\.toml: name is .*lower case letters, digits and underscores, such as grocery"
    ):
        project.load(write(tmp_path, name, {}))


def test_a_folder_that_is_no_project_is_reported(tmp_path: Path) -> None:
    with pytest.raises(
        ProjectError,
        match=(
            r"there is no millrace\.toml in .*Set MILLRACE_PROJECT to a project's folder, or write a project: millrace"
            r" init DIR"
        ),
    ):
        project.load(tmp_path)


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    (tmp_path / "millrace.toml").write_text("name = ")
    with pytest.raises(ProjectError, match=r"millrace\.toml cannot be read: "):
        project.load(tmp_path)

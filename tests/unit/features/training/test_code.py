"""The code that a manifest records."""

import subprocess
from pathlib import Path

import pytest

from contracts import project
from features.training import code
from millrace import scaffold


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=millrace", "-c", "user.email=millrace@example.org"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_of_a_project_elsewhere_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = scaffold.init(tmp_path / "repository" / "recorded_shop")
    monkeypatch.setattr(project, "current", lambda: shop)
    assert code.current().project is None
    git(tmp_path / "repository", "init", "--quiet")
    git(tmp_path / "repository", "add", ".")
    git(tmp_path / "repository", "commit", "--quiet", "-m", "A shop")
    commit = git(tmp_path / "repository", "rev-parse", "HEAD")
    assert code.current().project == commit
    (tmp_path / "repository" / "elsewhere").write_text("not of the project")
    assert code.current().project == commit
    (shop.root / "services.py").write_text("changed")
    assert code.current().project == f"{commit}+"


def test_a_project_of_the_checkout_has_no_commit_of_its_own() -> None:
    assert code.current().project is None

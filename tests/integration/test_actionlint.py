"""actionlint, which knows GitHub's syntax and contexts, finds nothing wrong in the workflows. Built once into this
checkout's home with Go.
"""

import subprocess
from pathlib import Path

from lake import settings
from tests import programs

VERSION = "v1.7.12"
MODULE = "github.com/rhysd/actionlint/cmd/actionlint"


def lint(*paths: Path) -> subprocess.CompletedProcess[str]:
    command = [str(programs.built_by_go(MODULE, VERSION)), "-shellcheck=", "-pyflakes=", "-no-color", *map(str, paths)]
    return subprocess.run(command, cwd=settings.CHECKOUT, capture_output=True, text=True)


def test_the_workflows_are_sound(tmp_path: Path) -> None:
    workflows = sorted((settings.CHECKOUT / ".github" / "workflows").glob("*.yml"))
    done = lint(*workflows)
    assert done.returncode == 0, done.stdout
    broken = tmp_path / "broken.yml"
    broken.write_text(
        next(path for path in workflows if path.stem == "test").read_text().replace("matrix.python ", "matrix.pyton ")
    )
    assert 'property "pyton" is not defined' in lint(broken).stdout

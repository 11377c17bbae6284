"""actionlint, which knows GitHub's syntax and contexts, finds nothing wrong in the workflows. Built once into this checkout's home with Go."""

import os
import subprocess
from pathlib import Path

from contracts import files, settings
from tests import programs

VERSION = "v1.7.12"
MODULE = f"github.com/rhysd/actionlint/cmd/actionlint@{VERSION}"


def binary() -> Path:
    """The program; building it takes less than a minute, once."""
    folder = settings.CHECKOUT / ".millrace" / "bin"
    program = folder / f"actionlint-{VERSION}"
    with files.locked(folder / ".lock"):
        if not program.exists():
            environment = {**os.environ, "GOBIN": str(folder)}
            done = subprocess.run([programs.go(), "install", MODULE], env=environment, capture_output=True, text=True)
            assert done.returncode == 0, f"go install {MODULE} ended with {done.returncode}: {done.stderr[-2000:]}"
            (folder / "actionlint").rename(program)
    return program


def lint(*paths: Path) -> subprocess.CompletedProcess[str]:
    command = [str(binary()), "-shellcheck=", "-pyflakes=", "-no-color", *map(str, paths)]
    return subprocess.run(command, cwd=settings.CHECKOUT, capture_output=True, text=True)


def test_the_workflows_are_sound(tmp_path: Path) -> None:
    workflows = sorted((settings.CHECKOUT / ".github" / "workflows").glob("*.yml"))
    done = lint(*workflows)
    assert done.returncode == 0, done.stdout
    broken = tmp_path / "broken.yml"
    broken.write_text(next(path for path in workflows if path.stem == "test").read_text().replace("matrix.python ", "matrix.pyton "))
    assert 'property "pyton" is not defined' in lint(broken).stdout

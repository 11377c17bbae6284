"""Small projects for tests: `cinema`, which most tests of the engine work on, `arcade` with tables of every kind,
`depot` with tables of databases, and those that a test writes itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from contracts import project

ARCADE = Path(__file__).parent / "arcade"
DEPOT = Path(__file__).parent / "depot"
CINEMA = Path(__file__).parent / "cinema"
GROCERY = project.DEFAULT


def write(root: Path, name: str, files: Mapping[str, str]) -> Path:
    """A project of these files. Its name must be its own: a process knows one project by a name."""
    for path, text in {"millrace.toml": f'name = "{name}"\n', **files}.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return root

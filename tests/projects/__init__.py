"""Small projects for tests: `arcade` with tables of every kind, and those that a test writes itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

ARCADE = Path(__file__).parent / "arcade"


def write(root: Path, name: str, files: Mapping[str, str]) -> Path:
    """A project of these files. Its name must be its own: a process knows one project by a name."""
    for path, text in {"millrace.toml": f'name = "{name}"\n', **files}.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    return root

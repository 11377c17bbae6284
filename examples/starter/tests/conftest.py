"""A home of its own for each test, and this project in it."""

from pathlib import Path

import pytest

from contracts import project

ROOT = Path(__file__).resolve().parent.parent
project.load(ROOT)  # so that tests may import its modules


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home."""
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    monkeypatch.setenv("MILLRACE_PROJECT", str(ROOT))
    for name in ("MILLRACE_LAKE", "MILLRACE_LANDING", "MILLRACE_ENGINE", "MILLRACE_ONLINE", "MILLRACE_REGISTRY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path

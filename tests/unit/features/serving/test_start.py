"""The feature server's start, where it cannot start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from lake import settings


def test_a_registry_that_does_not_answer_is_reported_in_a_sentence(tmp_path: Path) -> None:
    variables = {
        "MILLRACE_HOME": str(tmp_path),
        "MILLRACE_REGISTRY": "postgresql://reader:opensesame@127.0.0.1:1/registry",
    }
    command = [sys.executable, "-W", "ignore", "-m", "features.serving"]
    done = subprocess.run(
        command, cwd=settings.CHECKOUT, env={**os.environ, **variables}, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("the feature registry at postgresql://127.0.0.1:1/registry cannot be read: ")
    assert "Traceback" not in done.stderr
    assert "opensesame" not in done.stderr

"""Killed at every step on which a training set is kept: either it is there, whole, or there is none, and the next
attempt makes it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pytest

from features.training import sets
from features.training.services import FeatureColumn, Service
from lake import manifest, settings
from lake.release import Release

ROWS = pa.table({"guest_id": [1, 2], "spend": [1.5, None]})
SERVICE = Service(
    "tiny", {"spend": FeatureColumn("activity:spend", pa.float64(), ())}, (), (), frozenset(), {"service tiny": "abc"}
)
SCRIPT = """
import json, os, signal, sys
from lake import files, storage
from features.training import sets
from tests.integration.test_training_kills import keep
FILES = {module.__file__ for module in (files, storage, sets)}

def case(step):
    passed = 0
    def trace(frame, event, _):
        nonlocal passed
        if frame.f_code.co_filename not in FILES:
            return None
        frame.f_trace_lines = frame.f_code.co_name in ("_put", "_keep", "write_whole")
        passed += event != "call"
        if passed == step:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    os.environ["MILLRACE_HOME"] = f"{sys.argv[1]}/{step}"
    sys.settrace(trace)
    keep()

step, killed = 1, True
while killed:
    if (child := os.fork()) == 0:
        case(step)
        os._exit(0)
    killed = os.waitpid(child, 0)[1] == signal.SIGKILL
    step += 1
print(json.dumps(step - 1))
"""


def keep() -> None:
    """What comes after the join; without Git, which takes longer than all of it."""
    with patch.object(sets.code, "_commit", lambda *_, **__: None):
        sets._keep(
            "kept",
            ROWS.select(["guest_id"]),
            ROWS,
            SERVICE,
            Release(1, "", "", {}),
            (),
            knowledge_time=False,
            seed=None,
        )


@pytest.mark.slow
def test_killed_at_any_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MILLRACE_LAKE", raising=False)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path],
        cwd=settings.CHECKOUT,
        env={**os.environ, "PYTHONPATH": str(settings.CHECKOUT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    cases, there = json.loads(done.stdout), []
    for step in range(1, cases + 1):
        monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / str(step)))
        there.append(manifest.names() == ["kept"])
        if not there[-1]:
            with pytest.raises(manifest.ManifestError):
                sets.read("kept")
            keep()
        assert sets.read("kept") == ROWS
    first = there.index(True)
    assert cases > 50
    assert 0 < first < cases - 1, "no kill fell before the manifest was written, or none after it"
    assert all(there[first:])

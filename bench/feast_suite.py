"""Run Feast's universal offline-store tests against our store: `MILLRACE_FEAST=<checkout of feast-dev/feast> python -m
bench.feast_suite`.

The tests run from the checkout; nothing of it is copied. Modules for containers, which the tests import but these tests
never start, are replaced by mocks. Further arguments go to pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from lake import settings

FOLDER = "tests/integration/offline_store"
ABSENT = ("minio", "keycloak", "testcontainers")
"""Modules that Feast's tests import for stores that run in containers."""


class StandIns(MetaPathFinder, Loader):
    """Imports modules that are not installed as mocks."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:  # noqa: ARG002 (Python's signature)
        """A spec for an absent module and its submodules."""
        return ModuleSpec(fullname, self, is_package=True) if fullname.split(".")[0] in ABSENT else None

    def create_module(self, spec: ModuleSpec) -> Any:  # noqa: ARG002 (Python's signature)
        """A module with any attribute."""
        return MagicMock()

    def exec_module(self, module: Any) -> None:
        """Do nothing: a mock has no code."""


def pytest_load_initial_conftests() -> None:
    """pytest hook: add the finder last, so that installed modules win."""
    sys.meta_path.append(StandIns())


@pytest.fixture(scope="session")
def worker_id() -> str:
    """The value that pytest-xdist gives when it runs in one process."""
    return "master"


def main() -> int:
    root = os.environ.get("MILLRACE_FEAST")
    tests = Path(root or "", "sdk", "python")
    if not root or not (tests / FOLDER).is_dir():
        print(
            f"MILLRACE_FEAST is {root!r}. Set it to a checkout of github.com/feast-dev/feast, which has"
            f" sdk/python/{FOLDER}",
            file=sys.stderr,
        )
        return 2
    environment = {
        **os.environ,
        "FULL_REPO_CONFIGS_MODULE": "bench.feast_creator",
        "FEAST_IS_LOCAL_TEST": "True",
        "IS_TEST": "True",
        "PYTHONPATH": os.pathsep.join([str(tests), str(settings.CHECKOUT)]),
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "bench.feast_suite",
        "--integration",
        "--continue-on-collection-errors",
        "-q",
        "-rA",
        "-c",
        os.devnull,
        "--rootdir",
        str(tests),
        FOLDER,
    ]
    return subprocess.run([*command, *sys.argv[1:]], cwd=tests, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())

"""How the processes of one test run share the machine: which tests stay together, and what is built once for all.

`make test` starts several pytest processes (pytest-xdist). A file's tests run in one process, one after the other.
These are the exceptions.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from lake.files import locked

TOGETHER = ("tests/e2e/", "tests/integration/online/", "tests/integration/bucket/", "tests/integration/engines/")
"""Folders whose tests share a server that is expensive to start: Airflow, Redis and PostgreSQL, an S3 gateway, Spark.
They take longest and start first; beside Airflow, which keeps two cores busy, those whose tests mostly wait.
"""


class ByFile(LoadScopeScheduling):
    """Hands out files, or whole folders of `TOGETHER`."""

    def _split_scope(self, nodeid: str) -> str:
        return next((folder for folder in TOGETHER if nodeid.startswith(folder)), nodeid.partition("::")[0])

    def remove_node(self, node: Any) -> str | None:
        """A test that ended its process has failed; the base class would run it again in the next process."""
        units = self.assigned_work[node].values()
        crashed: str | None = next((name for unit in units for name, completed in unit.items() if not completed), None)
        if crashed is not None:
            self.assigned_work[node][self._split_scope(crashed)][crashed] = True  # before others are given the rest
        super().remove_node(node)
        return crashed


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByFile:
    """Keep the order of collection, which `in_order` makes."""
    config.option.loadscopereorder = False
    return ByFile(config, log)


def in_order(items: list[pytest.Item]) -> None:
    """Start what takes longest first, so that no process ends long before the others. Unit tests fill the gaps at the
    end.
    """

    def turn(item: pytest.Item) -> int:
        order = (*TOGETHER, "examples/grocery/tests/integration/", "tests/integration/")
        return next((number for number, folder in enumerate(order) if item.nodeid.startswith(folder)), len(order))

    items.sort(key=turn)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):
        in_order(items)


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """The folder of this test run, which all of its processes know."""
    base = factory.getbasetemp()
    return base.parent if base.name.startswith("popen-") else base


def once(factory: pytest.TempPathFactory, name: str, build: Callable[[Path], None]) -> Path:
    """A folder that the first process to ask for it builds, and that all processes of this test run share. Read it, do
    not write to it.
    """
    folder = shared_folder(factory) / f"once-{name}"
    with locked(folder.with_suffix(".lock")):
        if not (complete := folder.with_suffix(".complete")).exists():
            folder.mkdir(exist_ok=True)
            build(folder)
            complete.touch()
    return folder

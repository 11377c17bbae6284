"""The current project and its modules.

A project is a folder with a `millrace.toml`. Its folder is a Python package under the project's name: with `name =
"grocery"`, the file `contracts/silver/orders.py` in it is the module `grocery.contracts.silver.orders`, whatever the
folder is called. The engine imports a project's modules only through `module`.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import os
import pkgutil
import sys
import tomllib
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from contracts.model import NAME

CHECKOUT = Path(__file__).resolve().parent.parent
DEFAULT = CHECKOUT / "examples" / "grocery"
FILE = "millrace.toml"
SETTING = "MILLRACE_PROJECT"
ENGINE = ("contracts", "lake", "etl", "expectations", "lineage", "features", "millrace", "dags")
"""The engine's packages."""


class ProjectError(ValueError):
    """A project is missing or cannot be loaded; the message says what to do."""


@dataclass(frozen=True)
class Project:
    """A folder with a `millrace.toml`, whose modules are `<name>.<path>`."""

    root: Path
    name: str
    options: dict[str, Any] = field(default_factory=dict, compare=False)

    def module(self, path: str) -> ModuleType | None:
        """The module at a dotted path below the project, such as `contracts.silver.orders`; None when there is none."""
        return importlib.import_module(f"{self.name}.{path}") if self.has_module(path) else None

    def has_module(self, path: str) -> bool:
        """Whether the project has a module or package at that path. Nothing is imported."""
        base = self.root.joinpath(*path.split("."))
        return base.with_suffix(".py").is_file() or (base / "__init__.py").is_file()

    def names(self, path: str) -> list[str]:
        """The modules in a folder of the project, sorted."""
        folder = self.root.joinpath(*path.split("."))
        return sorted(info.name for info in pkgutil.iter_modules([str(folder)]) if not info.ispkg)

    def file(self, path: str) -> Path:
        """The path of a module's file, existing or not."""
        return self.root.joinpath(*path.split(".")).with_suffix(".py")

    @property
    def schedule(self) -> tuple[datetime, datetime | None]:
        """The start of the project's data, and its end, if any. ProjectError for anything but dates.

        The file says `[schedule] start = 2017-01-01, end = 2018-01-01`.
        """
        options = self.options.get("schedule", {})
        first, last = options.get("start", date(2000, 1, 1)), options.get("end")
        if not isinstance(first, date) or not isinstance(last, date | None):
            raise ProjectError(
                f"{self.root / FILE}: [schedule] has start and end as dates without quotes, such as start = 2017-01-01"
            )
        return _midnight(first), _midnight(last) if last else None

    def _register(self) -> None:
        """Make the folder a package of the project's name; ProjectError where that is another package."""
        existing = sys.modules.get(self.name)
        if existing is not None:
            if [str(self.root)] != [*getattr(existing, "__path__", [])]:
                raise ProjectError(
                    f"{self.root / FILE} names the project {self.name}, and {self.name} is a Python package already:"
                    f" {getattr(existing, '__file__', None) or [*getattr(existing, '__path__', [])]}. Give the project"
                    " another name"
                )
            return
        spec = importlib.machinery.ModuleSpec(self.name, None, is_package=True)
        spec.submodule_search_locations = [str(self.root)]
        sys.modules[self.name] = importlib.util.module_from_spec(spec)
        _registered.add(self.name)


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def current() -> Project:
    """The project of `MILLRACE_PROJECT`, else the nearest one above the working directory, else the bundled example."""
    return load(_root())


@cache
def load(root: Path) -> Project:
    """The project in a folder. ProjectError where its file is missing or invalid."""
    path = root / FILE
    try:
        options = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ProjectError(
            f"there is no {FILE} in {root}. Set {SETTING} to a project's folder, or write a project: millrace init DIR"
        ) from None
    except (OSError, ValueError) as error:
        raise ProjectError(f"{path} cannot be read: {error}") from error
    name = options.get("name")
    if name is None:
        raise ProjectError(
            f'{path} does not say what the project is called. Write name = "..." into it, as its modules import it'
        )
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ProjectError(
            f"{path}: name is {name!r}. A project's name is lower case letters, digits and underscores, such as grocery"
        )
    ensure_name_is_free(name, path)
    project = Project(root, name, options)
    project._register()
    return project


_registered: set[str] = set()
"""Names of packages that are projects."""


def packages() -> frozenset[str]:
    """The names of the projects loaded in this process."""
    return frozenset(_registered)


def ensure_name_is_free(name: str, path: Path) -> None:
    """ProjectError where Python has another package of that name. A namespace package, a mere folder on the path, is
    fine.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if name not in _registered and (name in sys.modules or (spec is not None and spec.origin is not None)):
        raise ProjectError(f"{path}: a Python package is called {name} already. Give the project another name")


def required(path: str, what: str) -> ModuleType:
    """The current project's module at a dotted path; ProjectError, that it cannot do `what`, when there is none."""
    loaded = module(path)
    if loaded is None:
        raise ProjectError(f"the project {current().name} cannot {what}: it has no {current().file(path)}")
    return loaded


def module(path: str) -> ModuleType | None:
    """The current project's module at a dotted path, or None."""
    return current().module(path)


def _root() -> Path:
    configured = os.environ.get(SETTING)
    if configured:
        return Path(configured).expanduser().absolute()
    return _nearest_above(Path.cwd()) or DEFAULT


@cache
def _nearest_above(folder: Path) -> Path | None:
    return next((parent for parent in (folder, *folder.parents) if (parent / FILE).is_file()), None)

"""`millrace settings`: every setting with its value, its default and where the value came from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Annotated

import typer

from lake.settings import SettingError
from millrace import show


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command("settings")(_settings)


def warn_of_unknown(warn: Callable[[str], None]) -> None:
    """Warn of each `MILLRACE_*` variable that is not a setting, most likely misspelled."""
    from lake import variables

    for sentence in variables.unknown():
        warn(f"Warning: {sentence}")


def ensure_valid(*, of_a_run: bool = False) -> None:
    """SettingError that names every setting with a value that it cannot have: of all, or of those that a run reads."""
    from lake import variables

    if found := variables.problems(variables.OF_A_RUN if of_a_run else variables.SECTIONS):
        raise SettingError("; ".join(found))


def _settings(as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False) -> None:
    """Print every setting, its value and where it came from."""
    from lake import variables

    rows = [
        {
            "name": variable.name,
            "value": variable.shown(os.environ.get(variable.name, "")),
            "default": variable.default.replace("`", ""),
            "source": variable.source(),
            "section": variable.section.title(),
            "description": variable.summary,
        }
        for variable in variables.all_variables().values()
        if not variable.is_internal
    ]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for grid in show.settings(rows):
        show.console().print(grid)

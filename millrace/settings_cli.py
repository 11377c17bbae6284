"""`millrace settings`: every setting with its value, its default and where the value came from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from contracts import project
from lake import settings
from lake.settings import SettingError
from millrace import environment, show

if TYPE_CHECKING:
    from lake.variables import Variable

Row: TypeAlias = dict[str, str]


def add(app: typer.Typer) -> None:
    """Add the command."""
    app.command("settings")(_settings)


def warn_of_unknown() -> None:
    """Warn on standard error of each `MILLRACE_*` variable that is not a setting, most likely misspelled."""
    from lake import variables

    for sentence in variables.unknown().values():
        show.print_error(f"Warning: {sentence}")


def ensure_valid(*, of_a_run: bool = False) -> None:
    """SettingError that names every setting with a value that it cannot have: of all, or of those that a run reads."""
    from lake import variables

    if found := variables.problems(variables.OF_A_RUN if of_a_run else variables.SECTIONS):
        raise SettingError("; ".join(found))


def _settings(as_json: Annotated[bool, typer.Option("--json", help="Print them as JSON.")] = False) -> None:
    """Print every setting, its value and where it came from."""
    rows = [*_known(), *_unknown()]
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    console = show.console()
    for grid in show.settings(rows):
        console.print(grid)
    for row in rows:
        if row["problem"]:
            console.print(row["problem"], style="red", markup=False, soft_wrap=True)


def _known() -> Iterator[Row]:
    from lake import variables

    known = [*variables.all_variables().values()]
    after = next(number for number, variable in enumerate(known, 1) if variable.name == variables.SOURCE_TEMPLATE)
    known[after:after] = (v for name, v in variables.source_variables().items() if name != variables.SOURCE_TEMPLATE)
    for variable in known:
        if not variable.is_internal:
            text = os.environ.get(variable.name, "")
            yield {
                "name": variable.name,
                "value": variable.shown(text or _effective(variable)),
                "default": variable.default.replace("`", ""),
                "source": variable.source(),
                "section": variable.section.title(),
                "description": variable.summary,
                "problem": variable.problem(text),
            }


def _unknown() -> Iterator[Row]:
    """Variables that are no settings. Their values may be passwords."""
    from lake import variables

    for name, sentence in variables.unknown().items():
        values = {"name": name, "value": "***", "default": "", "source": "environment"}
        yield {**values, "section": "No settings of Millrace", "description": "", "problem": sentence}


def _effective(variable: Variable) -> str:
    """What counts where a variable is unset; empty where only a run can tell, or where another setting is wrong."""
    from features.serving import token

    home = settings.home
    computed: dict[str, Callable[[], object]] = {
        "MILLRACE_HOME": home,
        "MILLRACE_PROJECT": lambda: project.current().root,
        "MILLRACE_LAKE": settings.lake,
        "MILLRACE_LANDING": settings.landing,
        "MILLRACE_LABELS": settings.labels,
        "MILLRACE_JARS": settings.jars,
        "MILLRACE_FEATURES_PORT": settings.features_port,
        "MILLRACE_FEATURES_TOKEN_FILE": token.path,
        "MILLRACE_TASK_LOGS": environment.task_logs,
        "MILLRACE_API_URL": lambda: environment.api_url(settings.airflow_port(), {}),
        "MILLRACE_SECRETS": lambda: home() / "compose" / "secrets",
        "MILLRACE_DOCKER_HOME": lambda: home() / "docker",
    }
    if variable.name in computed:
        with suppress(ValueError, RuntimeError, OSError):
            return str(computed[variable.name]())
        return ""
    return variable.constant

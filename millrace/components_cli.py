"""The command line of the components: `millrace start COMPONENT`, `millrace health COMPONENT`, `millrace users add NAME
--role ROLE`.
"""

from __future__ import annotations

import getpass
import runpy
import sys
from pathlib import Path
from typing import Annotated

import typer

from lake import settings
from millrace import foreground, metadata, settings_cli, show

SHORTEST_PASSWORD = 8


users = typer.Typer(help="Manage logins with roles (MILLRACE_AUTH=fab).", rich_markup_mode=None)


def add(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(start)
    app.command()(health)
    app.add_typer(users, name="users")


def start(component: foreground.Name) -> None:
    """Run one component in the foreground.

    It runs until SIGTERM. See docs/components.md.
    """
    settings_cli.warn_of_unknown()
    foreground.start(component)


def health(
    component: foreground.Name,
    live: Annotated[bool, typer.Option("--live", help="Ask whether it is alive, ready or not.")] = False,
) -> None:
    """Ask a component of this machine whether it is ready.

    Exit status 1, with the reason, if it is not.
    """
    ask = runpy.run_path(str(settings.CHECKOUT / "scripts" / "health.py"))["main"]
    sys.exit(ask([component, *["--live"] * live]))


@users.callback()
def _users() -> None:
    """Without it, Typer would make a single command of this group."""


@users.command("add")
def _add_user(
    name: str,
    role: Annotated[metadata.Role, typer.Option()],
    password_file: Annotated[
        Path | None,
        typer.Option(help="A file that holds the password. [default: ask for it, or read it from standard input]"),
    ] = None,
) -> None:
    """Add a login, or give the one of that name another role and password."""
    password = _password(password_file)
    if len(password) < SHORTEST_PASSWORD:
        raise ValueError(f"the password has {len(password)} characters, and at least {SHORTEST_PASSWORD} are needed")
    metadata.add_user(name, role, password)
    show.console().print(f"{name} may sign in, with the role {role}", markup=False)


def _password(file: Path | None) -> str:
    """From the file, from a prompt that shows nothing, or from standard input where that is no terminal. A line's end
    is no part of it.
    """
    if file:
        return file.read_text().rstrip("\r\n")
    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    password = getpass.getpass("Password: ")
    if getpass.getpass("The same again: ") != password:
        raise ValueError("the two passwords differ")
    return password

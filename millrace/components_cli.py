"""The command line of the components: `millrace start COMPONENT`, `millrace health COMPONENT`, `millrace users add NAME
--role ROLE`.
"""

from __future__ import annotations

import argparse
import getpass
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from lake import settings
from millrace import foreground, metadata

SHORTEST_PASSWORD = 8


def add(commands: Any, add_command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands."""
    start = add_command(
        commands,
        "start",
        _start,
        "be one component of the services in the foreground, until SIGTERM; see docs/components.md",
    )
    start.add_argument("component", choices=foreground.NAMES)
    health = add_command(
        commands,
        "health",
        _health,
        "ask a component on this machine whether it is ready; 1 with the reason when it is not",
    )
    health.add_argument("component", choices=foreground.NAMES)
    health.add_argument("--live", action="store_true", help="ask whether it is alive, ready or not")
    users = add_command(commands, "users", None, "logins with roles, where MILLRACE_AUTH is fab").add_subparsers(
        required=True, metavar="command"
    )
    user = add_command(users, "add", _add_user, "add a login, or give the one of that name another role and password")
    user.add_argument("name")
    user.add_argument("--role", required=True, choices=metadata.ROLES)
    user.add_argument(
        "--password-file",
        type=Path,
        help="a file that holds the password (default: ask for it, or read it from standard input)",
    )


def _start(options: argparse.Namespace, _console: Console) -> None:
    foreground.start(options.component)


def _health(options: argparse.Namespace, _console: Console) -> None:
    ask = runpy.run_path(str(settings.CHECKOUT / "scripts" / "health.py"))["main"]
    sys.exit(ask([options.component, *["--live"] * options.live]))


def _add_user(options: argparse.Namespace, console: Console) -> None:
    password = _password(options.password_file)
    if len(password) < SHORTEST_PASSWORD:
        raise ValueError(f"the password has {len(password)} characters, and at least {SHORTEST_PASSWORD} are needed")
    metadata.add_user(options.name, options.role, password)
    console.print(f"{options.name} may sign in, with the role {options.role}", markup=False)


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

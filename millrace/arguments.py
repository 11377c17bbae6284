"""What the command lines share: types of arguments, and the id of a run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from datetime import UTC, datetime


def run_id() -> str:
    """A new id for a run from the command line, by which its audits and commits are known."""
    return f"cli__{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.%f}"


def count(what: str = "a number", most: int | None = None) -> Callable[[str], int]:
    """A type for argparse: whole numbers from 1 on, up to `most`."""

    def parsed(text: str) -> int:
        if not text.isdigit() or not 1 <= int(text) <= (most or int(text)):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} from 1 {f'to {most}' if most else 'on'}")
        return int(text)

    return parsed

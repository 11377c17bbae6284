"""Types of arguments that the command lines share."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def count(what: str = "a number", most: int | None = None) -> Callable[[str], int]:
    """A type for argparse: whole numbers from 1 on, up to `most`."""

    def parsed(text: str) -> int:
        if not text.isdigit() or not 1 <= int(text) <= (most or int(text)):
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} from 1 {f'to {most}' if most else 'on'}")
        return int(text)

    return parsed

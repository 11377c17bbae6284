"""Processes of their own that do the same work at the same time."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lake import settings
from tests import patience


@contextmanager
def at_once(script: str, *arguments: tuple[Any, ...]) -> Iterator[Callable[[], bool]]:
    """Run the script once with each of these arguments; inside, ask whether any still runs. All must end well."""
    environment = {**os.environ, "PYTHONPATH": str(settings.CHECKOUT)}
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script, *map(str, argument)], env=environment, stderr=subprocess.PIPE
        )
        for argument in arguments
    ]
    try:
        yield lambda: any(process.poll() is None for process in started)
        for process in started:
            _, message = process.communicate(timeout=patience.SECONDS)
            assert process.returncode == 0, message.decode()
    finally:
        for process in started:
            process.kill()

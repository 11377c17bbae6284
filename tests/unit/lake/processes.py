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
            [sys.executable, "-W", "ignore", "-c", script, *map(str, one)], env=environment, stderr=subprocess.PIPE
        )
        for one in arguments
    ]
    try:
        yield lambda: any(one.poll() is None for one in started)
        for one in started:
            _, told = one.communicate(timeout=patience.SECONDS)
            assert one.returncode == 0, told.decode()
    finally:
        for one in started:
            one.kill()

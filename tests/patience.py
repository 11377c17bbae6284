"""Waiting for what should happen soon: so long that only a defect makes a test wait that long, on the slowest machine
too.
"""

import threading
import time
from collections.abc import Callable

SECONDS = 300.0


def until(condition: Callable[[], object], what: str, every: float = 0.05) -> None:
    """Return once the condition holds; fail with `what` when it does not for a long time."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(every)


def ends(call: Callable[[], object]) -> None:
    """Fail when the call takes that long, and raise what it raises."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(SECONDS)
    assert not thread.is_alive(), f"the call has not ended after {SECONDS} s"
    if raised:
        raise raised[0]

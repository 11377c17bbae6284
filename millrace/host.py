"""The host process: it imports Airflow once, forks the components, and restarts those that die.

`airflow standalone` starts five interpreters, and each imports Airflow. Forking from one process pays for the import
once, shares its memory, and makes restarts cheap. The host runs in the foreground (`python -m millrace.host`) and reads
its configuration from the environment, which `millrace.services` prepares. `millrace.foreground` runs one component
alone.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial

from lake import secret_files, settings
from lake.files import write_whole
from millrace import metadata
from millrace.components import (
    COMMANDS,
    Component,
    airflow,
    failure,
    features,
    how_it_ended,
    import_airflow,
    kill_orphans,
    spark,
)
from millrace.environment import ADMIN_PASSWORD

RESTARTS = "restarts.json"
"""The file in which the host records components that died, below `run` in the home."""
STOP_SECONDS = 8.0
HEALTHY_SECONDS = 30.0
"""A component that dies after this long is restarted; one that dies earlier ends the host."""


def main() -> int:
    """Start every component, keep them running, and stop them all on SIGTERM or SIGINT."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _stop)
    try:
        secret_files.load()  # Airflow reads its configuration when it is imported
    except secret_files.SecretError as error:
        return _report(str(error))
    import_airflow()
    components = {name: Component(name, partial(airflow, name)) for name in COMMANDS}
    password, needs_tables = os.environ.pop(ADMIN_PASSWORD, ""), settings.auth() == settings.FAB
    try:
        if not needs_tables:
            components["api-server"].start()  # the slowest to start
        if failed := _run_to_end(Component("database", partial(metadata.prepare, password))):
            return _report(failed)
        if needs_tables:
            components["api-server"].start()
        if settings.engine() == "spark":
            components["spark"] = Component("spark", spark)
        components["features"] = Component("features", features)
        for name in ("spark", "scheduler", "dag-processor", "features", "triggerer"):
            if name in components:
                components[name].start()
        return _supervise(components)
    finally:
        _end(list(components.values()))


def _stop(signum: int, _frame: object) -> None:
    raise SystemExit(0 if signum == signal.SIGTERM else 128 + signum)


def _run_to_end(component: Component) -> str | None:
    """Run a component that ends by itself. Returns a message if it failed, else None."""
    component.start()
    _, status = os.waitpid(component.pid, 0)
    return failure(component, status) if status else None


def _supervise(components: dict[str, Component]) -> int:
    """Wait for children, and restart a component that dies. Returns 1 if one dies too early."""
    while True:
        pid, status = os.wait()
        component = next((candidate for candidate in components.values() if candidate.pid == pid), None)
        if component is None:
            continue
        message = failure(component, status)
        kill_orphans(component)
        if time.monotonic() - component.started < HEALTHY_SECONDS:
            return _report(message)
        print(f"{message}\nStarting {component.name} again.", flush=True)
        component.restarts += 1
        component.why = how_it_ended(component, status)
        _note_restarts(components.values())
        component.start()


def _note_restarts(components: Iterable[Component]) -> None:
    """Record which components died, for `make status`. A full disk is ignored: the others keep running."""
    dead = {
        component.name: {"times": component.restarts, "why": component.why}
        for component in components
        if component.restarts
    }
    with suppress(OSError):
        write_whole(settings.home() / "run" / RESTARTS, json.dumps({"host": os.getpid(), "components": dead}).encode())


def _report(failure: str) -> int:
    print(failure, file=sys.stderr, flush=True)
    return 1


def _end(components: list[Component]) -> None:
    """Terminate every component, wait, and kill what is left."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, signal.SIG_IGN)
    running = [component for component in components if component.pid]
    for component in running:
        with suppress(ProcessLookupError):
            os.kill(component.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline and not _all_reaped():
        time.sleep(0.05)
    for component in running:
        component.kill(signal.SIGKILL)


def _all_reaped() -> bool:
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        return True
    return False


if __name__ == "__main__":
    sys.exit(main())

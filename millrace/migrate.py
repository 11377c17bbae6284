"""`millrace migrate`: upgrade the state of an older version to this one.

It reads all state first, so that state of a newer version is refused before anything is written. Steps are idempotent:
two migrations may run at once, and the next one finishes what a killed one left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from contracts import catalog
from lake import settings
from lake.files import locked

Say = Callable[[str], None]


class PendingError(RuntimeError):
    """State is of an older version; the message says which."""


@dataclass(frozen=True)
class Step:
    """The migration of one piece of state: its name and location, what is pending, in words, and how to apply it."""

    name: str
    pending: list[str]
    apply: Callable[[Say], None]
    always: bool = False
    """Whether to apply it even if nothing is pending: it checks more than its version by itself."""


def check(say: Say, file: Path | None = None) -> None:
    """Report what is pending; PendingError if anything is. Nothing is written."""
    steps = _steps(file)
    for step in steps:
        say(f"{step.name}: {'; '.join(step.pending) or 'up to date'}")
    if outdated := [step for step in steps if step.pending]:
        raise PendingError(
            f"{len(outdated)} of {len(steps)} are of an older version. To migrate them: millrace migrate"
        )


def migrate(say: Say, file: Path | None = None) -> None:
    """Apply what is pending, and report it. `file` is a registry to copy into a database that has none."""
    with _migration_lock():
        for step in _steps(file):
            if step.pending or step.always:
                step.apply(lambda message, name=step.name: say(f"{name}: {message}"))  # type: ignore[misc]
            if not step.pending:
                say(f"{step.name}: up to date")


def _steps(file: Path | None) -> list[Step]:
    from features.registry import migration

    steps = [Step(f"lake at {settings.lake()}", _pending_lake(), _migrate_lake)]
    steps += [
        Step(
            f"feature registry at {migration.where_registry()}",
            migration.pending_registry(file),
            lambda say: migration.migrate_registry(say, file),
        ),
        Step(f"features online in {migration.where_online()}", migration.pending_online(), migration.migrate_online),
    ]
    return [*steps, *_metadata()]


def _pending_lake() -> list[str]:
    from lake import delta

    if delta.lake_format() is None and any(delta.version_of(table.qualified) is not None for table in catalog.tables()):
        return [f"mark it with format {settings.LAKE_FORMAT}"]
    return []


def _migrate_lake(say: Say) -> None:
    from etl import table_reader

    table_reader.check_format()
    say(f"marked with format {settings.LAKE_FORMAT}")


def _metadata() -> Iterator[Step]:
    """The step for Airflow's metadata; none on a machine that only serves features."""
    from millrace import metadata, metadata_state

    if not metadata_state.is_used():
        return
    state = metadata_state.state()
    metadata_state.ensure_known_revision(state)
    pending = []
    if state.present != state.needed:
        pending.append(f"migrate from {state.present} to {state.needed}" if state.present else "make its tables")
    elif not state.providers:
        pending.append("migrate the tables of its providers")

    if settings.auth() == settings.FAB and not state.logins:
        pending.append("make the roles and the first administrator")
    if state.present and not state.keys:
        pending.append("note the keys that the components share")

    def apply(say: Say) -> None:
        metadata.migrate(lambda _: None)
        if pending:
            say(f"done: {'; '.join(pending)}")

    yield Step(f"Airflow's metadata at {state.where}", pending, apply, always=True)


@contextmanager
def _migration_lock() -> Iterator[None]:
    """Lock out other migrations on this machine; state in databases has locks of its own.

    No lock without a writable home, which then has nothing to migrate.
    """
    with suppress(PermissionError):
        (settings.home() / "run").mkdir(parents=True, exist_ok=True)
    if not (settings.home() / "run").is_dir():
        yield
        return
    with locked(settings.home() / "run" / "migrate.lock"):
        yield

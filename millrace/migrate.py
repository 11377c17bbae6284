"""`millrace migrate`: bring every piece of state that an older version left to this version.

It looks at all of them first, so that state of a newer version is refused before anything is written. Each step does
what is left to do: two may run at once, and one that is killed is finished by the next.
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
class Part:
    """A piece of state: what it is and where; what is to be done, in words; and how it is done."""

    name: str
    pending: list[str]
    bring: Callable[[Say], None]
    always: bool = False
    """It looks for itself at what is left to do, and at more than its version."""


def check(say: Say, file: Path | None = None) -> None:
    """Say what is pending; PendingError if anything is. Nothing is written."""
    parts = _parts(file)
    for part in parts:
        say(f"{part.name}: {'; '.join(part.pending) or 'up to date'}")
    if behind := [part for part in parts if part.pending]:
        raise PendingError(f"{len(behind)} of {len(parts)} are of an older version. To migrate them: millrace migrate")


def migrate(say: Say, file: Path | None = None) -> None:
    """Do what is pending, and say what was done. `file` is a registry to copy into a database that has none."""
    with _alone():
        for part in _parts(file):
            if part.pending or part.always:
                part.bring(lambda done, name=part.name: say(f"{name}: {done}"))  # type: ignore[misc]
            if not part.pending:
                say(f"{part.name}: up to date")


def _parts(file: Path | None) -> list[Part]:
    from features.registry import migration

    parts = [Part(f"lake at {settings.lake()}", _pending_lake(), _bring_lake)]
    parts += [
        Part(
            f"feature registry at {migration.where_registry()}",
            migration.pending_registry(file),
            lambda say: migration.migrate_registry(say, file),
        ),
        Part(f"features online in {migration.where_online()}", migration.pending_online(), migration.migrate_online),
    ]
    return [*parts, *_metadata()]


def _pending_lake() -> list[str]:
    from lake import delta

    if delta.lake_format() is None and any(delta.version_of(table.qualified) is not None for table in catalog.tables()):
        return [f"mark it with format {settings.LAKE_FORMAT}"]
    return []


def _bring_lake(say: Say) -> None:
    from etl import table_reader

    table_reader.check_format()
    say(f"marked with format {settings.LAKE_FORMAT}")


def _metadata() -> Iterator[Part]:
    """Where only features are served, there is none."""
    from millrace import metadata, metadata_state

    if not metadata_state.is_used():
        return
    found = metadata_state.state()
    metadata_state.refuse_newer(found)
    pending = []
    if found.present != found.needed:
        pending.append(f"migrate from {found.present} to {found.needed}" if found.present else "make its tables")
    elif not found.providers:
        pending.append("migrate the tables of its providers")

    if settings.auth() == settings.FAB and not found.logins:
        pending.append("make the roles and the first administrator")
    if found.present and not found.keys:
        pending.append("note the keys that the components share")

    def bring(say: Say) -> None:
        metadata.migrate(lambda _: None)
        if pending:
            say(f"done: {'; '.join(pending)}")

    yield Part(f"Airflow's metadata at {found.where}", pending, bring, always=True)


@contextmanager
def _alone() -> Iterator[None]:
    """On this machine; parts in databases have locks of their own.

    A home that cannot be written has nothing to migrate in it.
    """
    with suppress(PermissionError):
        (settings.home() / "run").mkdir(parents=True, exist_ok=True)
    if not (settings.home() / "run").is_dir():
        yield
        return
    with locked(settings.home() / "run" / "migrate.lock"):
        yield

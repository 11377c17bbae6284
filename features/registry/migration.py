"""Migration of Feast's registry and of the online store from older versions: list pending steps, and run them.

Steps are safe for concurrent processes and can be killed at any point: the rest is found again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from features import registry
from features.online import backends
from features.registry import store as registry_store
from features.registry.store import RegistryDamagedError, RegistryMissingError
from lake import settings

Say = Callable[[str], None]


def pending_registry(file: Path | None = None) -> list[str]:
    """Descriptions of the registry's pending steps; RegistryNewerError for one of a newer version.

    `file` is the registry to copy into a database that has none; by default this home's.
    """
    database, source = registry_store.database(), _source(file)
    if database is None:
        return _pending_definitions() if registry_store.path().exists() else []
    pending = [] if database.is_prepared() else ["make the table feast.registry"]
    content = database.read() if not pending else None
    if content is None:
        return [*pending, *([f"copy {source}"] if source else []), "apply the definitions"]
    return _pending_definitions()


def migrate_registry(say: Say, file: Path | None = None) -> None:
    """Create the table, copy a registry file into an empty database, and apply the definitions."""
    database, source = registry_store.database(), _source(file)
    if database is not None:
        if not database.is_prepared():
            database.prepare()
            say("the table feast.registry is made")
        if source and database.read() is None and registry_store.copy_file(database, source):
            say(f"{source} is copied; the file stays as it is, and is not used any more")
    if registry.apply():
        say("the definitions of this version are applied")


def where_registry() -> str:
    """The registry's path or URL."""
    return registry.where()


def pending_online() -> list[str]:
    """Descriptions of the online store's pending steps."""
    if not settings.online().startswith("postgres"):
        return []  # each load creates sqlite files and Redis keys
    from features.online import postgres

    return postgres.pending(settings.online())


def migrate_online(say: Say) -> None:
    """Make or complete the pointer's table."""
    backends.configured().current()
    say("the pointer's table is made")


def where_online() -> str:
    """The online store's URL without user and password, or the kind of files."""
    return str(getattr(backends.configured(), "where", "sqlite files"))


def _source(file: Path | None) -> Path | None:
    if file is not None:
        registry_store.parsed(file.read_bytes(), str(file))
        return file
    return registry_store.path() if registry_store.path().exists() else None


def _pending_definitions() -> list[str]:
    try:
        return [] if registry.is_applied() else ["apply the definitions"]
    except RegistryMissingError:
        return ["apply the definitions"]
    except RegistryDamagedError:
        return ["make it again from the definitions: it is torn"]

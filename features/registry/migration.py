"""What older versions left of Feast's registry and of what is online: what is to be done about it, and doing it.

Each step may be taken by two processes at once, and be killed at any point: what is left is found again.
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
    """What is to be done to the registry, in words; RegistryNewerError for one of a newer version.

    `file` is the registry to copy into a database that has none; else that of this home.
    """
    named, source = registry_store.database(), _source(file)
    if named is None:
        return _pending_definitions() if registry_store.path().exists() else []
    pending = [] if named.is_prepared() else ["make the table feast.registry"]
    content = named.read() if not pending else None
    if content is None:
        return [*pending, *([f"copy {source}"] if source else []), "apply the definitions"]
    return _pending_definitions()


def migrate_registry(say: Say, file: Path | None = None) -> None:
    """Make the table, copy the registry of a file where there is none yet, and apply the definitions."""
    named, source = registry_store.database(), _source(file)
    if named is not None:
        if not named.is_prepared():
            named.prepare()
            say("the table feast.registry is made")
        if source and named.read() is None and registry_store.copy_file(named, source):
            say(f"{source} is copied; the file stays as it is, and is not used any more")
    if registry.apply():
        say("the definitions of this version are applied")


def where_registry() -> str:
    """Its path or URL."""
    return registry.where()


def pending_online() -> list[str]:
    """What is to be done to the online store's own tables."""
    if not settings.online().startswith("postgres"):
        return []  # files of sqlite and keys of Redis are made by each load
    from features.online import postgres

    return postgres.pending(settings.online())


def migrate_online(say: Say) -> None:
    """Make or complete the pointer's table."""
    backends.configured().current()
    say("the pointer's table is made")


def where_online() -> str:
    """Its URL without user and password, or the kind of files."""
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

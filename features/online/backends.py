"""Which backend keeps features online: what `MILLRACE_ONLINE` says. Its client is imported when it is used."""

from __future__ import annotations

import os
from functools import cache

from features.online.generation import GenerationMetadata, OnlineBackend, OnlineStoreUnfitError
from lake import settings


def configured() -> OnlineBackend:
    """The one that `MILLRACE_ONLINE` names, or the folder of sqlite files in this home."""
    return _backend(settings.online(), os.environ.get("MILLRACE_HOME"))


@cache
def _backend(url: str, _home: str | None) -> OnlineBackend:
    """By what the environment says, which is looked at in each request: to resolve a path takes as long as to read a
    row.
    """
    scheme = url.partition("://")[0] if "://" in url else ""
    if url == "sqlite":
        from features.online.sqlite import SqliteBackend

        return SqliteBackend()
    if scheme in ("redis", "rediss", "unix"):
        from features.online.redis import RedisBackend

        return RedisBackend(url)
    if scheme in ("postgresql", "postgres"):
        from features.online.postgres import PostgresBackend

        return PostgresBackend(url)
    raise OnlineStoreUnfitError(
        f"MILLRACE_ONLINE begins with {f'{scheme}://' if scheme.isalpha() else 'no scheme'}. Use sqlite (the default),"
        " redis://host:port/database or postgresql://user:password@host:port/database"
    )


def current() -> str | None:
    """The id of the generation in use."""
    return configured().current()


def about() -> GenerationMetadata | None:
    """What the generation in use was made from; None when nothing is online."""
    return configured().about()

"""The online backend that `MILLRACE_ONLINE` selects; its client is imported on first use."""

from __future__ import annotations

import os
from functools import cache

from features.online.generation import GenerationMetadata, OnlineBackend, OnlineStoreUnfitError
from lake import settings


def configured() -> OnlineBackend:
    """The backend that `MILLRACE_ONLINE` names; by default sqlite files in this home."""
    return _backend(settings.online(), os.environ.get("MILLRACE_HOME"))


@cache
def _backend(url: str, _home: str | None) -> OnlineBackend:
    """Cached by the environment, which each request reads: resolving a path takes as long as reading a row."""
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


def metadata() -> GenerationMetadata | None:
    """Metadata of the generation in use; None when nothing is online."""
    return configured().metadata()

"""A release: the table -> Delta version map that features are read from. Written once per run that changed something, never altered.

Files are `<lake>/_releases/<number>.json`. Readers name a release by its number; `latest()` is for those who are about to pin one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from contracts import settings, storage


class ReleaseError(LookupError):
    """The release that was asked for does not exist."""


@dataclass(frozen=True)
class Release:
    """`tables` maps `gold.customer_activity` and its peers to the Delta version that belongs to this release."""

    number: int
    created_at: str
    """Instant from which on it was there for all to read, in whole seconds, UTC. Never before an earlier release."""
    horizon: str
    """Date (exclusive end of the newest interval) up to which features are known."""
    tables: dict[str, int]
    ids: dict[str, str] = field(default_factory=dict)
    """The Delta table's own id behind each name: a table that was removed and made anew counts its versions from 0 again."""


def folder() -> Path:
    """Where releases lie."""
    return settings.lake() / "_releases"


def numbers() -> list[int]:
    """All release numbers, oldest first."""
    return sorted(int(path.stem) for path in storage.tree(folder(), ".json") if path.stem.isdigit())


def read(number: int | None = None) -> Release:
    """The release of that number, or the newest one."""
    known = numbers()
    if not known:
        raise ReleaseError(f"there is no release below {folder()}. Run the DAG `millrace` (or `make demo`) first")
    wanted = known[-1] if number is None else number
    if wanted not in known:
        raise ReleaseError(f"there is no release {wanted}. Known: {known[0]} to {known[-1]}")
    return _load(wanted)


def _load(number: int) -> Release:
    return Release(**json.loads(storage.read(folder() / f"{number}.json") or b""))


def pinned_versions(qualified: str, identity: str, since: int = 0) -> list[int]:
    """The versions of a table that any release names, from number `since` on. `identity` is the table's own id: releases of a table that was removed since do not count."""
    found = (_load(number) for number in numbers() if number >= since)
    return sorted({one.tables[qualified] for one in found if qualified in one.tables and one.ids.get(qualified, identity) == identity})


def forget_before(number: int) -> list[int]:
    """Remove the releases before that one, which must exist; their numbers. What they alone pinned goes with the next vacuum. The caller holds the lake's lock."""
    older = [one for one in numbers() if one < read(number).number]
    for one in older:
        storage.remove(folder() / f"{one}.json")
    return older


def write(tables: dict[str, int], horizon: str, ids: dict[str, str] | None = None) -> Release:
    """Number and keep this map, unless the newest release says the same: then that one is returned.

    The caller holds the lake's lock. The file appears complete or not at all.
    """
    known = numbers()
    newest = _load(known[-1]) if known else None
    if newest and (newest.tables, newest.horizon, newest.ids) == (tables, horizon, ids or {}):
        return newest
    created_at = max(_next_second(), newest.created_at if newest else "")  # the clock may have been set back
    release = Release(newest.number + 1 if newest else 1, created_at, horizon, dict(sorted(tables.items())), ids or {})
    storage.write_whole(folder() / f"{release.number}.json", json.dumps(asdict(release), indent=1).encode(), new=True)
    return release


def _next_second() -> str:
    """Now, rounded up: whoever asks what was known at an instant must not be given a release that was written later in the same second."""
    return (datetime.now(UTC) + timedelta(seconds=1, microseconds=-1)).isoformat(timespec="seconds")

"""A release: the immutable map table -> Delta version that features are read from, one per run that changed a table.

Files are `<lake>/_releases/<number>.json`. Readers name a release by its number.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from lake import settings, storage

NUMBER = re.compile(r"[1-9][0-9]*")
"""The stem of a release's file; 007.json is not a release."""
LARGEST_VERSION = 2**31 - 1


class ReleaseError(LookupError):
    """The requested release does not exist."""


class ReleaseDamagedError(ReleaseError, ValueError):
    """The file of a release cannot be read; the message names it."""


@dataclass(frozen=True)
class Release:
    """`tables` maps each table, such as `gold.customer_activity`, to its Delta version in this release."""

    number: int
    created_at: str
    """Instant from which readers could see it: UTC, whole seconds, never before that of an earlier release."""
    horizon: str
    """Date (exclusive end of the newest interval) up to which features are known."""
    tables: dict[str, int]
    ids: dict[str, str] = field(default_factory=dict)
    """The Delta table id of each table: one that was removed and rebuilt counts its versions from 0 again."""


def folder() -> Path:
    """The folder of the releases."""
    return settings.lake() / "_releases"


def numbers() -> list[int]:
    """All release numbers, oldest first."""
    return sorted(int(path.stem) for path in storage.tree(folder(), ".json") if NUMBER.fullmatch(path.stem))


def read(number: int | None = None) -> Release:
    """The release of that number, the newest by default. ReleaseError when there is none, ReleaseDamagedError when its
    file cannot be read.
    """
    known = numbers()
    if not known:
        raise ReleaseError(f"there is no release below {folder()}. Run the DAG `millrace` (or `make demo`) first")
    requested = known[-1] if number is None else number
    if requested not in known:
        raise ReleaseError(f"there is no release {requested}. Known: {known[0]} to {known[-1]}")
    return _load(requested)


def _load(number: int) -> Release:
    path = folder() / f"{number}.json"
    content = storage.read(path)
    if content is None:
        raise ReleaseError(f"there is no release {number} any more: it was removed in the meantime")
    try:
        plain = json.loads(content)
    except (ValueError, RecursionError):
        plain, problem = None, "is not JSON" if content.strip(b"\0 \n") else "is empty"
    else:
        problem = problem_of(plain) or (
            "" if plain["number"] == number else f"says that it is release {plain['number']}"
        )
    if problem:
        raise ReleaseDamagedError(
            f"release {number} cannot be read: {path} {problem}. Restore the file from a backup, or remove it: the"
            " releases before it stay, and the next run of the DAG `millrace` writes a release of the present tables"
        )
    return Release(**plain)


def problem_of(plain: Any) -> str:
    """What is wrong with the JSON of a release; empty when it is valid."""
    if not isinstance(plain, dict):
        return "is not a JSON object"
    fields = {
        "number": _is_number,
        "created_at": _is_instant,
        "horizon": _is_date,
        "tables": _are_versions,
        "ids": _are_ids,
    }
    if unknown := sorted(plain.keys() - fields.keys()):
        return f"has a field {unknown[0]!r}, which this Millrace does not know (a newer one may)"
    for name, is_valid in fields.items():
        if name not in plain and name != "ids":
            return f"has no {name}"
        if name in plain and not is_valid(plain[name]):
            return f"has an invalid {name}: {json.dumps(plain[name])[:80]}"
    return ""


def _is_number(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_instant(value: Any) -> bool:
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _is_date(value: Any) -> bool:
    try:
        return isinstance(value, str) and date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def _are_versions(value: Any) -> bool:
    versions = value.values() if isinstance(value, dict) else [None]
    return all(type(version) is int and 0 <= version <= LARGEST_VERSION for version in versions)


def _are_ids(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(identity, str) for identity in value.values())


def pinned_versions(qualified: str, identity: str, since: int = 0) -> list[int]:
    """The versions of a table that releases pin, from number `since` on. `identity` is the Delta table id: releases of
    a former table of that name do not count.
    """
    releases = (_load(number) for number in numbers() if number >= since)
    return sorted(
        {
            release.tables[qualified]
            for release in releases
            if qualified in release.tables and release.ids.get(qualified, identity) == identity
        }
    )


def forget_before(number: int) -> list[int]:
    """Remove the releases before that one, which must exist, and return their numbers. The next vacuum deletes what
    only they pinned. The caller holds the lake's lock.
    """
    older = [other for other in numbers() if other < read(number).number]
    for other in older:
        storage.remove(folder() / f"{other}.json")
    return older


def write(tables: dict[str, int], horizon: str, ids: dict[str, str] | None = None) -> Release:
    """Write the next release and return it; or the newest one, if it has the same tables, horizon and ids.

    The write is atomic. The caller holds the lake's lock.
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
    """Now, rounded up: a reader as of an instant must not see a release written later in the same second."""
    return (datetime.now(UTC) + timedelta(seconds=1, microseconds=-1)).isoformat(timespec="seconds")

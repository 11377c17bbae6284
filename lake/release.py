"""A release: the table -> Delta version map that features are read from. Written once per run that changed something,
never altered.

Files are `<lake>/_releases/<number>.json`. Readers name a release by its number; `latest()` is for those who are about
to pin one.
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
"""A release's file without its ending; 007.json is none."""
LARGEST_VERSION = 2**31 - 1


class ReleaseError(LookupError):
    """The release that was asked for does not exist."""


class ReleaseDamagedError(ReleaseError, ValueError):
    """A release's file is torn, or holds something else; the message names it."""


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
    """The Delta table's own id behind each name: a table that was removed and made anew counts its versions from 0
    again.
    """


def folder() -> Path:
    """Where releases lie."""
    return settings.lake() / "_releases"


def numbers() -> list[int]:
    """All release numbers, oldest first."""
    return sorted(int(path.stem) for path in storage.tree(folder(), ".json") if NUMBER.fullmatch(path.stem))


def read(number: int | None = None) -> Release:
    """The release of that number, or the newest one; ReleaseDamagedError when its file cannot be read."""
    known = numbers()
    if not known:
        raise ReleaseError(f"there is no release below {folder()}. Run the DAG `millrace` (or `make demo`) first")
    wanted = known[-1] if number is None else number
    if wanted not in known:
        raise ReleaseError(f"there is no release {wanted}. Known: {known[0]} to {known[-1]}")
    return _load(wanted)


def _load(number: int) -> Release:
    path = folder() / f"{number}.json"
    content = storage.read(path)
    if content is None:
        raise ReleaseError(f"there is no release {number} any more: it was removed while it was looked for")
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
    """What is wrong with a release as JSON; an empty text when nothing is."""
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
    """The versions of a table that any release names, from number `since` on. `identity` is the table's own id:
    releases of a table that was removed since do not count.
    """
    found = (_load(number) for number in numbers() if number >= since)
    return sorted(
        {
            one.tables[qualified]
            for one in found
            if qualified in one.tables and one.ids.get(qualified, identity) == identity
        }
    )


def forget_before(number: int) -> list[int]:
    """Remove the releases before that one, which must exist; their numbers. What they alone pinned goes with the next
    vacuum. The caller holds the lake's lock.
    """
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
    """Now, rounded up: whoever asks what was known at an instant must not be given a release that was written later in
    the same second.
    """
    return (datetime.now(UTC) + timedelta(seconds=1, microseconds=-1)).isoformat(timespec="seconds")

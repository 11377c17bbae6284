"""A manifest: what a training set was made from, so that it can be made again. Written once, after the data; a training
set exists when its manifest does.

Files are `<lake>/_training_sets/<name>.json`. The labels as they were given lie beside them, `<name>.labels.parquet`;
the data are a Delta table, `<lake>/training/<name>`.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lake import settings, storage
from lake.release import Release, problem_of

NAME = re.compile(r"[a-z][a-z0-9_]{0,99}")


class ManifestError(LookupError):
    """There is no such training set, or the name cannot be one's."""


class ManifestDamagedError(ManifestError, ValueError):
    """A manifest is torn, or holds something else; the message names its file."""


@dataclass(frozen=True)
class Feature:
    """A column that the feature service added: its reference (`view:feature`), how many rows have no value, and the
    digest of its values.
    """

    name: str
    ref: str
    nulls: int
    digest: str


@dataclass(frozen=True)
class Code:
    """What computed: the package's version, and the Git commit, None without Git; `+` after it says that files differed
    from it.
    """

    version: str
    commit: str | None
    pyarrow: str


@dataclass(frozen=True)
class Data:
    """Digests of the table's values, and of its parquet file, which is the same for the same pyarrow only."""

    digest: str
    file: str


@dataclass(frozen=True)
class Manifest:
    """`releases` hold the tables that the features were read from, and no others: one release, or with `knowledge_time`
    each that was in force at a label.

    `release` is the number that was asked for, or the newest at that time. `definitions` maps the service and each of
    its views to the digest of its definition.
    """

    name: str
    created_at: str
    service: str
    release: int
    knowledge_time: bool
    seed: int | None
    rows: int
    labels: dict[str, str]
    """Column -> digest, in the order of the columns."""
    features: tuple[Feature, ...]
    releases: tuple[Release, ...]
    definitions: dict[str, str]
    code: Code
    data: Data
    format: int = settings.LAKE_FORMAT
    horizon: str = ""
    """Of that release; empty in a manifest of before labels after it were counted."""
    beyond_horizon: int = 0
    """Labels after the horizon, which get the features of the horizon."""

    @property
    def versions(self) -> list[tuple[str, str, int]]:
        """Each table that is needed to make the training set again: its name, Delta id and version."""
        return sorted(
            {(table, one.ids.get(table, ""), version) for one in self.releases for table, version in one.tables.items()}
        )


def folder() -> Path:
    """Where manifests and labels lie."""
    return settings.lake() / "_training_sets"


def labels_path(name: str) -> Path:
    """The labels of a training set, as they were given."""
    return folder() / f"{name}.labels.parquet"


def table_path(name: str) -> Path:
    """The Delta table of a training set."""
    return settings.lake() / "training" / name


def checked_name(name: str) -> str:
    """The name, if it can be a table's and a file's."""
    if not NAME.fullmatch(name):
        raise ManifestError(
            f"{name!r} cannot be a training set's name. Use small letters, digits and _, a letter first, such as"
            " churn_2017"
        )
    return name


def names() -> list[str]:
    """Every training set there is."""
    return sorted(path.stem for path in storage.tree(folder(), ".json") if NAME.fullmatch(path.stem))


def read(name: str) -> Manifest:
    """The manifest of that training set; ManifestDamagedError when its file cannot be read."""
    content = storage.read(folder() / f"{checked_name(name)}.json")
    if content is None:
        known = names()
        near = difflib.get_close_matches(name, known, 1)
        hint = (
            f"Did you mean {near[0]}?"
            if near
            else f"There are: {', '.join(known)}"
            if known
            else "Make one: millrace training-set create --help"
        )
        raise ManifestError(f"there is no training set {name}. {hint}")
    try:
        return _parsed(name, json.loads(content))
    except ManifestError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        problem = "is empty" if not content.strip(b"\0 \n") else "is cut short, or no manifest"
        raise ManifestDamagedError(
            f"training set {name} cannot be read: {folder() / name}.json {problem} ({type(error).__name__}: {error})."
            " Restore the file from a backup. Without one, remove it: the training set is gone then, and no vacuum"
            " keeps what only it needs"
        ) from error


def _parsed(name: str, plain: dict[str, Any]) -> Manifest:
    if plain["format"] > settings.LAKE_FORMAT:
        raise ManifestError(
            f"training set {name} has format {plain['format']}, and this Millrace reads up to {settings.LAKE_FORMAT}."
            " Update Millrace"
        )
    for problem in filter(None, map(problem_of, plain["releases"])):
        raise ValueError(f"a release in it {problem}")
    plain["features"] = tuple(Feature(**one) for one in plain["features"])
    plain["releases"] = tuple(Release(**one) for one in plain["releases"])
    return Manifest(**{**plain, "code": Code(**plain["code"]), "data": Data(**plain["data"])})


def write(manifest: Manifest) -> None:
    """Keep it; FileExistsError when there is one of that name. It appears complete or not at all."""
    storage.write_whole(
        folder() / f"{checked_name(manifest.name)}.json", json.dumps(asdict(manifest), indent=1).encode(), new=True
    )


def pinned_versions(qualified: str, identity: str, forgotten: Collection[str] = ()) -> list[int]:
    """The versions of a table that any training set needs, but for the `forgotten` ones. `identity` is the table's own
    id, as for a release.
    """
    needed = [one for name in names() if name not in forgotten for one in read(name).versions]
    return sorted({version for table, id_, version in needed if table == qualified and id_ in ("", identity)})

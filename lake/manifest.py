"""The manifest of a training set: what it was made from, so that it can be rebuilt.

Manifests are `<lake>/_training_sets/<name>.json`, the labels `<name>.labels.parquet` beside them, and the data a Delta
table, `<lake>/training/<name>`. The manifest is written last: a training set exists when its manifest does.
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
    """There is no such training set, or the name is not a valid one."""


class ManifestDamagedError(ManifestError, ValueError):
    """A manifest cannot be read; the message names its file."""


@dataclass(frozen=True)
class Feature:
    """A column of the feature service: its reference (`view:feature`), its NULL count, and the digest of its values."""

    name: str
    ref: str
    nulls: int
    digest: str


@dataclass(frozen=True)
class Code:
    """The code that made the training set: Millrace's version, Git commit (None without Git, `+` for local changes) and
    pyarrow. `project` is the commit of a project that lies outside of the checkout.
    """

    version: str
    commit: str | None
    pyarrow: str
    project: str | None = None


@dataclass(frozen=True)
class Data:
    """Digests of the values, and of the parquet file, which is only the same for the same pyarrow."""

    digest: str
    file: str


@dataclass(frozen=True)
class Manifest:
    """What a training set was made from.

    `releases` hold only the tables that features were read from: of one release, or with `knowledge_time` of each
    release in force at a label. `release` is the requested number, or the newest at that time. `definitions` maps the
    service and each of its views to the digest of its definition.
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
    """Of that release; empty in manifests that predate `beyond_horizon`."""
    beyond_horizon: int = 0
    """Labels after the horizon, which get the features of the horizon."""

    @property
    def versions(self) -> list[tuple[str, str, int]]:
        """The tables that a rebuild needs: name, Delta table id and version of each."""
        return sorted(
            {
                (table, release.ids.get(table, ""), version)
                for release in self.releases
                for table, version in release.tables.items()
            }
        )


def folder() -> Path:
    """The folder of manifests and labels."""
    return settings.lake() / "_training_sets"


def labels_path(name: str) -> Path:
    """The labels of a training set, as the caller passed them."""
    return folder() / f"{name}.labels.parquet"


def table_path(name: str) -> Path:
    """The Delta table of a training set."""
    return settings.lake() / "training" / name


def validate_name(name: str) -> str:
    """The name; ManifestError unless it can be the name of a table and of a file."""
    if not NAME.fullmatch(name):
        raise ManifestError(
            f"{name!r} cannot be a training set's name. Use small letters, digits and _, a letter first, such as"
            " churn_2017"
        )
    return name


def names() -> list[str]:
    """The names of all training sets, sorted."""
    return sorted(path.stem for path in storage.tree(folder(), ".json") if NAME.fullmatch(path.stem))


def read(name: str) -> Manifest:
    """The manifest of a training set. ManifestError when there is none, ManifestDamagedError when it cannot be read."""
    content = storage.read(folder() / f"{validate_name(name)}.json")
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
        return _parse(name, json.loads(content))
    except ManifestError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        problem = "is empty" if not content.strip(b"\0 \n") else "is cut short, or no manifest"
        raise ManifestDamagedError(
            f"training set {name} cannot be read: {folder() / name}.json {problem} ({type(error).__name__}: {error})."
            " Restore the file from a backup. Without one, remove it: the training set is gone then, and no vacuum"
            " keeps what only it needs"
        ) from error


def _parse(name: str, plain: dict[str, Any]) -> Manifest:
    if plain["format"] > settings.LAKE_FORMAT:
        raise ManifestError(
            f"training set {name} has format {plain['format']}, and this Millrace reads up to {settings.LAKE_FORMAT}."
            " Update Millrace"
        )
    for problem in filter(None, map(problem_of, plain["releases"])):
        raise ValueError(f"a release in it {problem}")
    plain["features"] = tuple(Feature(**feature) for feature in plain["features"])
    plain["releases"] = tuple(Release(**release) for release in plain["releases"])
    return Manifest(**{**plain, "code": Code(**plain["code"]), "data": Data(**plain["data"])})


def write(manifest: Manifest) -> None:
    """Write a new manifest atomically; FileExistsError when there is one of that name."""
    storage.write_whole(
        folder() / f"{validate_name(manifest.name)}.json", json.dumps(asdict(manifest), indent=1).encode(), new=True
    )


def pinned_versions(qualified: str, identity: str, forgotten: Collection[str] = ()) -> list[int]:
    """The versions of a table that training sets need, without those of the `forgotten` sets. `identity` is the Delta
    table id, as for a release.
    """
    needed = [version for name in names() if name not in forgotten for version in read(name).versions]
    return sorted({version for table, id_, version in needed if table == qualified and id_ in ("", identity)})

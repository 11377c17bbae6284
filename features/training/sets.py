"""Training sets: made from labels and a feature service, kept as a Delta table with a manifest, made again from the
manifest to the same bytes.

The manifest comes last, so what a kill left behind is no training set, and the next one of that name takes its place.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from deltalake.transaction import AddAction

from features.lake_reader import pinned
from features.offline.labels import EVENT_TIMESTAMP, Horizon
from features.training import availability, code, columns, joining, label_input, services
from features.training.joining import Say
from features.training.label_input import Given
from features.training.services import Service
from lake import manifest, settings, storage
from lake.bucket import LockedError
from lake.manifest import Data, Feature, Manifest
from lake.release import Release

LOCK_SECONDS = 600
FILE = "data.zst.parquet"


class TrainingSetError(RuntimeError):
    """A training set cannot be made, or is not what its manifest says; the message says what to do."""


class DefinitionsChangedError(TrainingSetError):
    """The features are no longer defined as they were."""


@dataclass(frozen=True)
class Rebuilt:
    """A training set that was made again with the same values. `same_file` is whether the parquet file is the same byte
    for byte, None where another pyarrow wrote it.

    `intact` is whether the table held these values already; `restored` that it did not, and was put back.
    """

    manifest: Manifest
    data: pa.Table
    same_file: bool | None
    intact: bool
    restored: bool


def create(
    labels: Given,
    service: str,
    name: str,
    *,
    release: int | None = None,
    knowledge_time: bool = False,
    seed: int | None = None,
    allow_beyond_horizon: bool = False,
    say: Say = lambda _: None,
) -> Manifest:
    """Join the labels (a frame, an Arrow table, the path of a file, or SQL) with the features of a service, and keep
    table and manifest under a name.

    `release` is the newest unless given. With `knowledge_time` each label sees the release that was the newest at its
    instant, up to that one. `seed` is only noted down.

    BeyondHorizonError when labels lie after the horizon of `release`, unless that is allowed; then the manifest's
    `beyond_horizon` counts them.
    """
    with _locked(f"training.{manifest.validate_name(name)}"):
        if name in manifest.names():
            raise TrainingSetError(
                f"there is a training set {name} already, and it is never altered. Choose another name, or see it:"
                f" millrace training-set show {name}"
            )
        wanted, asked = services.named(service), pinned(release)
        rows = label_input.table(labels, asked, wanted)
        say(
            f"{rows.num_rows:,} labels; reading {len(wanted.columns)} features of {service} from release {asked.number}"
        )
        beyond = _beyond(rows, Horizon.of(asked), allow_beyond_horizon, say)
        used = joining.needed(rows, wanted, joining.told(rows, asked.number)) if knowledge_time else (wanted.of(asked),)
        data = _joined(rows, wanted, used, knowledge_time, say)
        return _keep(name, rows, data, wanted, asked, used, knowledge_time=knowledge_time, seed=seed, beyond=beyond)


def _beyond(rows: pa.Table, horizon: Horizon, allowed: bool, say: Say) -> int:
    instants = rows[EVENT_TIMESTAMP]
    beyond = horizon.count_beyond(instants)
    if beyond and not allowed:
        raise horizon.error(beyond, rows.num_rows, pc.max(instants).as_py())
    if beyond:
        say(horizon.warning(beyond, rows.num_rows))
    return beyond


def read(name: str) -> pa.Table:
    """The rows of a training set; TrainingSetError unless they are those that its manifest knows."""
    made = manifest.read(name)
    data = _stored(name)
    if data is None or not _holds(made, data):
        raise TrainingSetError(
            f"the table of training set {name} at {manifest.table_path(name)} was lost or altered since. Put it back:"
            f" millrace training-set rebuild {name}"
        )
    return data


def rebuild(name: str, *, write: bool = True, say: Say = lambda _: None) -> Rebuilt:
    """Make a training set again from its manifest and its labels. If the table was lost or altered it is put back,
    unless `write` is False.
    """
    with _locked(f"training.{manifest.validate_name(name)}"):
        made = manifest.read(name)
        wanted = defined_as(made)
        availability.ensure_there(made.versions, f"training set {name}")
        data = _joined(_labels(made), wanted, made.releases, made.knowledge_time, say)
        _refuse_other_values(made, columns.digests(data))
        file = columns.parquet(data)
        same = hashlib.sha256(file).hexdigest() == made.data.file if pa.__version__ == made.code.pyarrow else None
        held = _stored(name)
        intact = held is not None and _holds(made, held)
        restored = write and not intact
        if restored:
            _put(name, file, data)
        return Rebuilt(made, data, same, intact, restored)


def defined_as(made: Manifest) -> Service:
    """The manifest's service; DefinitionsChangedError when it, or a view of it, is defined in another way now."""
    try:
        found = services.named(made.service)
    except services.ServiceError as error:
        raise DefinitionsChangedError(
            f"training set {made.name} was made of a feature service that is gone: {error}. {_go_back(made)}"
        ) from None
    if differing := services.differing(made.definitions, found.definitions):
        raise DefinitionsChangedError(
            f"training set {made.name} was made of features that are defined in another way now:"
            f" {', '.join(differing)}. {_go_back(made)}"
        )
    return found


def _go_back(made: Manifest) -> str:
    commit = (made.code.commit or "").removesuffix("+")
    there = (
        f"check out the commit that made it (git worktree add ../then {commit})"
        if commit
        else f"take the code that made it (version {made.code.version})"
    )
    return f"To rebuild it, {there} and rebuild there; for the features as they are now, create another training set"


def _joined(
    labels: pa.Table, service: Service, releases: tuple[Release, ...], knowledge_time: bool, say: Say
) -> pa.Table:
    found = (
        joining.by_knowledge(labels, service, releases, say)
        if knowledge_time
        else joining.at_release(labels, service, releases[0])
    )
    if found.num_rows != labels.num_rows:
        raise TrainingSetError(
            f"{labels.num_rows:,} labels gave {found.num_rows:,} rows. This is a defect in features/training: please"
            " report it"
        )
    return pa.table({name: side[name] for side in (labels, found) for name in side.column_names})


def _keep(
    name: str,
    labels: pa.Table,
    data: pa.Table,
    service: Service,
    asked: Release,
    used: tuple[Release, ...],
    *,
    knowledge_time: bool,
    seed: int | None,
    beyond: int = 0,
) -> Manifest:
    """Labels, then the table, then the manifest, once all versions are seen to be there still: from then on a vacuum
    spares them.
    """
    digests, file = columns.digests(data), columns.parquet(data)
    made = Manifest(
        name=name,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        service=service.name,
        release=asked.number,
        knowledge_time=knowledge_time,
        seed=seed,
        rows=data.num_rows,
        labels={column: digests[column] for column in labels.column_names},
        features=tuple(
            Feature(column, one.ref, data[column].null_count, digests[column])
            for column, one in service.columns.items()
        ),
        releases=used,
        definitions=service.definitions,
        code=code.present(),
        data=Data(columns.of_all(digests), hashlib.sha256(file).hexdigest()),
        horizon=asked.horizon,
        beyond_horizon=beyond,
    )
    storage.write_whole(manifest.labels_path(name), columns.parquet(labels))
    _put(name, file, data)
    with _locked("release"):
        availability.ensure_there(made.versions, f"training set {name}")
        manifest.write(made)
    return made


def _put(name: str, file: bytes, data: pa.Table) -> None:
    """The table, in one data file and two commits; what lay there goes."""
    path = manifest.table_path(name)
    storage.remove_tree(path)
    storage.make_folder(path)
    storage.write_whole(path / FILE, file)
    table = DeltaTable.create(
        str(path),
        schema=data.schema,
        name=name,
        description=f"Training set {name}; its manifest is {manifest.folder() / name}.json",
    )
    statistics = json.dumps({"numRecords": data.num_rows})
    table.create_write_transaction(
        [AddAction(FILE, len(file), {}, int(time.time() * 1000), True, statistics)], "append", table.schema()
    )
    for commit in storage.tree(path / "_delta_log", ".json"):
        storage.sync(commit)
    storage.sync(path / "_delta_log")


def _stored(name: str) -> pa.Table | None:
    """The table's rows, in order; None when it cannot be read."""
    try:
        found: pa.Table = DeltaTable(str(manifest.table_path(name))).to_pyarrow_table()
    except (DeltaError, OSError, pa.ArrowException):
        return None
    return columns.plain(found)


def _holds(made: Manifest, data: pa.Table) -> bool:
    return columns.of_all(columns.digests(data)) == made.data.digest


def _labels(made: Manifest) -> pa.Table:
    path = manifest.labels_path(made.name)
    content = storage.read(path)
    labels = columns.plain(pq.read_table(io.BytesIO(content))) if content else None
    if labels is None or columns.digests(labels) != made.labels:
        raise TrainingSetError(
            f"the labels of training set {made.name} at {path} were lost or altered. Restore the file from a copy; it"
            " cannot be made again without them"
        )
    return labels


def _refuse_other_values(made: Manifest, found: dict[str, str]) -> None:
    known = {**made.labels, **{one.name: one.digest for one in made.features}}
    odd = [name for name in known if found.get(name) != known[name]]
    if odd:
        now = code.present()
        raise TrainingSetError(
            f"training set {made.name} cannot be made again: {', '.join(odd)} came out different, from the same labels,"
            f" versions and definitions. It was made by {_told(asdict(made.code))}, and this is {_told(asdict(now))}."
            f" {_go_back(made)}"
        )


def _told(facts: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {value or 'unknown'}" for name, value in facts.items())


@contextmanager
def _locked(name: str) -> Iterator[None]:
    path: Path = settings.lake() / "_locks" / f"{name}.lock"
    try:
        with storage.locked(path, LOCK_SECONDS):
            yield
    except LockedError:
        raise TrainingSetError(
            f"another process has held the lock {name} for {LOCK_SECONDS} s. Wait for it to end, or end it, then try"
            " again"
        ) from None
